"""Model backends, and what they share: checkpoints, metadata beside the weights, validation of results."""
