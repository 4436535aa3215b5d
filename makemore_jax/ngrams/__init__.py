"""Counted n-grams, alone and mixed with the predictions of a network."""
