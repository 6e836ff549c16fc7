"""All that is written of results: one module for each kind of file, and `write`, which calls them all (write.py)."""
