"""Data sets of expressions and masks, read into one `Sample` type, and the training lessons made from them."""
