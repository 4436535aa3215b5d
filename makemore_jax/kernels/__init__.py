"""Faster forms of what the models compute. Each has a plain reference and a measured gain."""
