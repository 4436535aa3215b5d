"""Parity with PyTorch: reference models, weight conversion, and a comparison in lockstep.

This is the only package that imports torch: pip install -e ".[parity]"
"""
