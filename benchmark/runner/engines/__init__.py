"""Engines bring jobs to machines: this one (local), a Ray cluster, a Slurm cluster. The results are the same."""
