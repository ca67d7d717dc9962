"""What people read: text, tables and figures made of records."""
