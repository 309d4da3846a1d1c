"""A run as one file: recorded, shown, replayed without any model, exported for training."""
