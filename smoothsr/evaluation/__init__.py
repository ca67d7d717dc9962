"""Networks measured on images under attacks and degradations."""
