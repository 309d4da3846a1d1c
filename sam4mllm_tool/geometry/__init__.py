"""Boxes, crops and morphology of masks, and masks as run lengths and polygons: NumPy, SciPy and Pillow alone."""
