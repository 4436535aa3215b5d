"""Figures of runs and sweeps, and the page of a run: `python -m makemore_jax.plots`."""
