"""makemore_jax beside PyTorch: reference models, weights both ways, a comparison in lockstep.

It hangs off the core and is the only place that imports torch: pip install -e ".[parity]"
"""
