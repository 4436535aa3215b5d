"""Notebooks: set up a runtime, show figures in cells."""
