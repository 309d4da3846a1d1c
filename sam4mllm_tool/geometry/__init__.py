"""Boxes, masks as run lengths and polygons, and crops: NumPy and Pillow alone."""
