"""Recipes that train the models which come with the package; not installed with it."""
