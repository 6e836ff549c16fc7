"""How a run is followed: heartbeats, the display with its times left, and scalars for TensorBoard."""
