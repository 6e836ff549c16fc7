"""Writes all files about results: one module for each kind of file, and `write`, which calls them all (write.py)."""
