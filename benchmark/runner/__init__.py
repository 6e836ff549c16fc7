"""Running jobs: the store of results, what a job does, and the engines that bring jobs to machines."""
