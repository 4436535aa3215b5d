"""Training: a pure step on an immutable state, and a loop that logs, evaluates and saves."""
