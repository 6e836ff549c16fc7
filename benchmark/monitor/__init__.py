"""Monitoring of a run: heartbeats, the display with the time left, and scalars for TensorBoard."""
