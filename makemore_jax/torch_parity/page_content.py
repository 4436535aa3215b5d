"""The content of the pages of `page.py`, read from the pairs and from the source files."""

import re
from typing import NamedTuple

import jax

from makemore_jax import models
from makemore_jax.assemble import create_model
from makemore_jax.config import ModelConfig
from makemore_jax.torch_parity import source, weights
from makemore_jax.torch_parity.family_pairs import FAMILIES
from makemore_jax.torch_parity.pairs import Code, Pair
from makemore_jax.torch_parity.training_pairs import TOPICS

TITLE = "JAX beside PyTorch"
COMMAND = "python -m makemore_jax.torch_parity.page"
INTRODUCTION = (
    "Every model of this project in PyTorch and in JAX, part by part: the reference model in "
    "makemore's style, beside the Flax module that `train.py` trains. The code is read from the "
    "source files, and both sides run with the same small inputs and weights.",
    "For outputs, the difference is the largest absolute one. For gradients with respect to all "
    "parameters and inputs, it is relative to the largest entry of the tensor, and the worst "
    "tensor counts. Everything is computed in float64, except the program of `train.py`, which "
    "computes in float32.",
)
DIMENSIONS = (
    "Letters in comments: B batch, T time, C channels (n_embd), V vocabulary, nh heads, hs head "
    "size."
)
# The model of the table of parameter names.
NAMED = ModelConfig(kind="transformer", n_layer=1, n_head=2, n_embd=10)


class Section(NamedTuple):
    """A family or a topic, with the pairs that it shows."""

    title: str
    about: str
    kind: str  # the family, or ""
    pairs: tuple[Pair, ...]

    def anchor(self, pair: Pair | None = None) -> str:
        """Return the name of the section, or of one of its pairs, in links."""
        titles = [self.title, pair.title] if pair else [self.title]
        return re.sub(r"\W+", "-", " ".join(titles).lower())


def sections() -> list[Section]:
    """Return the sections of the pages: families, then topics."""
    families = [Section(kind, f.about, kind, f.pairs) for kind, f in FAMILIES.items()]
    return families + [Section(t.title, t.about, "", t.pairs) for t in TOPICS]


def code_of(codes: tuple[Code, ...]) -> list[tuple[str, str]]:
    """Return one side of a pair: (file, code)."""
    return [(f"makemore_jax/{code.file}", source.read(*code)) for code in codes]


def first_shown(section: Section, pair: Pair) -> tuple[Section, Pair] | None:
    """Return the earlier pair with the same code, or None."""
    for other in sections():
        for earlier in other.pairs:
            if other.title == section.title and earlier.title == pair.title:
                return None
            if (earlier.torch, earlier.jax) == (pair.torch, pair.jax):
                return other, earlier
    return None


def parameter_names() -> list[tuple[str, str, str, str]]:
    """Return the parameters of NAMED: PyTorch's name and shape, the path in the tree, its shape."""
    params = models.variable_shapes(create_model(NAMED, 13, 7), 7)["params"]
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = tuple(key.key for key in path)
        shape = leaf.shape[::-1] if keys[-1] == "kernel" else leaf.shape
        name = weights.torch_name(keys, NAMED.kind)
        rows.append((name, str(shape), " / ".join(keys), str(leaf.shape)))
    return rows
