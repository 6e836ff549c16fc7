"""The store of results: one folder a finished job, who works on which, checksums, archives, repair and tidying up."""
