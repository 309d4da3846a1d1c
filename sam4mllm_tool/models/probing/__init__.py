"""Measure how a model answers (`measurement`), and keep its best dialect for later loads (`probed_dialects`)."""
