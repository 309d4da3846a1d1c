"""Model backends and what they share: checkpoints, devices, precision, and the metadata beside weights."""
