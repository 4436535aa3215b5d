"""Notebooks. Each is written from its source, a percent file: `python -m notebooks.build`."""
