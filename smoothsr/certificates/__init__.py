"""Certificates: what no small change of the input can do to a smoothed output."""
