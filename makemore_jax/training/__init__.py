"""Training: a pure step on an immutable state, and a loop that looks in from time to time."""
