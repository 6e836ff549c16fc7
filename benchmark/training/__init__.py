"""The training loop, its checkpoints, and the choice of device and precision."""
