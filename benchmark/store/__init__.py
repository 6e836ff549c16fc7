"""The store of results: one folder per finished job, locks, checksums, archives, repair and clean-up."""
