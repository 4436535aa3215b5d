"""Fast implementations of the models' computations.

Where a plain form exists, it is in `plain.py`, with the same name and signature.
docs/performance.md has the measured gains. The models import the names below through
`models/layers.py`; nothing here imports a model.
"""

from makemore_jax.kernels.blocked_attention import attention
from makemore_jax.kernels.cached_attention import decode_attention
from makemore_jax.kernels.embedded_linear import embed_linear
from makemore_jax.kernels.layer_loop import scan_layers, scan_layers_step
from makemore_jax.kernels.layer_norm import standardize
from makemore_jax.kernels.packing import (
    causal_mask,
    prepend_previous_row,
    shift_right,
    token_positions,
)
from makemore_jax.kernels.precision import at_least_float32
from makemore_jax.kernels.tall_matmul import matmul

__all__ = [
    "at_least_float32",
    "attention",
    "causal_mask",
    "decode_attention",
    "embed_linear",
    "matmul",
    "prepend_previous_row",
    "scan_layers",
    "scan_layers_step",
    "shift_right",
    "standardize",
    "token_positions",
]
