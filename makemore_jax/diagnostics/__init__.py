"""Layer statistics: saturated and dead units, and how far a step moves each parameter.

These are the diagnostics of the course's lecture 4, Activations & Gradients, BatchNorm
(https://youtu.be/P6sfmUTpUmc), for any model and without code in the model. The loss is traced to a
jaxpr, and the jaxpr is evaluated with a tap after each nonlinearity: taps.py. The tapped values and
their gradients are summarized by statistics.py.
"""

from makemore_jax.diagnostics.diagnose import Diagnose, make_diagnose
from makemore_jax.diagnostics.statistics import N_BINS, histogram, saturated_and_dead, target_mask
from makemore_jax.diagnostics.taps import Tap, trace

__all__ = [
    "N_BINS",
    "Diagnose",
    "Tap",
    "histogram",
    "make_diagnose",
    "saturated_and_dead",
    "target_mask",
    "trace",
]
