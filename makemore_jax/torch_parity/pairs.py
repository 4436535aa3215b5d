"""A pair: PyTorch code and JAX code that compute the same.

`family_pairs.py` has the pairs of each model family, `training_pairs.py` those of training.
`page.py` shows them and `measure.py` runs both sides.

These modules do not import torch: the functions of the PyTorch side receive its modules.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

IDIOMS = "torch_parity/idioms.py"
TOKENS = "B T tokens"  # the axes of an input; with "tokens": integers below VOCAB_SIZE


class Code(NamedTuple):
    """A part of a file, as the arguments of `source.read`."""

    file: str
    names: tuple[str, ...]


class Bounds(NamedTuple):
    """The largest allowed differences. None: there is no such value."""

    output: float | None = 1e-12
    gradient: float | None = 1e-11


class Pair(NamedTuple):
    """Code in PyTorch and the same in JAX."""

    title: str
    torch: tuple[Code, ...]
    jax: tuple[Code, ...]
    about: str = ""
    bounds: Bounds = Bounds()
    inputs: tuple[str, ...] = (TOKENS,)
    # (module, *inputs) -> tensor
    run_torch: Callable[..., Any] | None = None
    # (apply, *inputs) -> array; `apply` is `model.apply` with the parameters. Its first argument is
    # the method: a name or a function of the bound model.
    run_jax: Callable[..., Array] | None = None
    measured_as: str = "function"  # or "initial_values", "nothing", a key of TOPICS
    value: str = "output"  # what the output is
