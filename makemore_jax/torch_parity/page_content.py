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
    "This page shows each model of this project twice, part by part: as a PyTorch module in "
    "makemore's style, and as the Flax module that `train.py` trains. The training step, the data, "
    "random numbers and compilation follow. The code comes from the source files.",
    "Both sides of a pair compute with the same weights and inputs, and their results are "
    "compared. The difference of an output is the largest absolute difference of any entry. "
    "Gradients are taken with respect to all parameters and inputs. The difference of a gradient "
    "is relative to the largest entry of its tensor; the page shows the largest of all tensors. "
    "Initial values are random, so only their means and standard deviations are compared, relative "
    "to the root mean square of a tensor. Both sides compute in float64, except for the program of "
    "`train.py`, which is compared in float32.",
)
WORDS_TITLE = "The JAX side in a few words"
# What a reader who knows PyTorch meets in the code of the JAX side.
WORDS = (
    (
        "`nn.Module` with `setup`",
        "A Flax module has sizes but no weights. Its weights are a nested dictionary of arrays "
        "outside of it, called a tree.",
    ),
    (
        "`model.init(key, tokens)`",
        "Returns a tree of initial weights. In PyTorch, `__init__` creates them.",
    ),
    (
        "`model.apply({'params': params}, tokens)`",
        "Computes the outputs of the model with these weights. In PyTorch: `model(tokens)`.",
    ),
    (
        "`jax.value_and_grad(loss_fn)(params)`",
        "Returns the loss and its gradients, a tree like `params`. In PyTorch: "
        "`loss.backward()`, which stores them in the weights.",
    ),
    (
        "`jax.jit(f)`",
        "Returns a compiled form of the function `f`. It compiles at the first call, and again for "
        "inputs of other shapes. In PyTorch: `torch.compile(f)`.",
    ),
    (
        "`jax.lax.scan(step, carry, xs)`",
        "A compiled loop. `step(carry, x)` returns the next carry and an output; the outputs of "
        "all steps become one array.",
    ),
    (
        "`jax.random.key(seed)`",
        "The source of random numbers. `fold_in(key, i)` derives a new key from a key and a "
        "number.",
    ),
    (
        "`x.at[i].set(y)`",
        "Returns a copy of `x` in which entry `i` is `y`. Arrays never change. In PyTorch: "
        "`x[i] = y`, which changes `x`.",
    ),
    (
        "`positions`, `kernels`",
        "`positions` is None for ordinary batches. `train.py` can pack several short lines into "
        "one row; then it has the position of each token in its line. Functions of `kernels` are "
        "the fast forms of short formulas.",
    ),
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

    def heading(self, pair: Pair) -> str:
        """Return the title of a pair: several families have a pair of the same name."""
        return f"{self.title}: {pair.title}" if self.kind else pair.title


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
