"""What a job does, from its configuration to the files it writes."""
