"""makemore in functional JAX: text in, more text like it out."""

__version__ = "0.1.0"
