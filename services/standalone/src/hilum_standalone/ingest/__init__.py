"""Measures the listener against the physical limit and against other receivers."""
