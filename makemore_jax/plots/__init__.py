"""Figures of runs and sweeps. `python -m makemore_jax.plots` writes the page of a run."""
