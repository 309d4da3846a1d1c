"""Everyday things with parts: recipes, and how individuals of them are drawn."""
