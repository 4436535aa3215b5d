"""The models: pure functions of (params, tokens), behind three methods.

A model is a Flax Linen module, which is a frozen record of sizes; its parameters are a plain tree
of arrays beside it. Each family reads a line in both of these ways, and a test holds them equal:

| method                           | shapes                                                |
|----------------------------------|-------------------------------------------------------|
| `__call__(tokens, *, train)`     | (B, T) int -> logits (B, T, V), all positions at once |
| `init_carry(batch_size)`         | -> carry, what is remembered before the first token   |
| `step(carry, token)`             | carry, (B,) int -> carry, logits (B, V)               |

Training uses the first. Sampling uses the other two: `step` is the body of a loop. Logits at
position t are for the token that follows tokens[:, : t + 1], and depend on those alone.

A family whose `__call__` also takes `positions` (B, T) can be given lines packed: one behind the
other through all rows, positions telling how far into its line each token is. `layers.py` has what
that takes; training on CPU then computes nothing on padding. All others get lines in rows.

A family on windows declares `window`, how many tokens it looks at, and gives logits where a whole
window stands: (B, S) -> (B, S - window + 1, V). `read_lines` gives any family whole lines.

The glossary of all files here: B batch, T time (at most block_size), C channels (n_embd),
V vocabulary, nh heads, hs head size. Weights have makemore's names.

Another family is one file with one class like these, one line in MODELS and one file in configs/.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.config import ModelConfig
from makemore_jax.errors import UserError, did_you_mean
from makemore_jax.models.bigram import Bigram
from makemore_jax.models.bow import BoW
from makemore_jax.models.cnn import CNN
from makemore_jax.models.mlp import MLP
from makemore_jax.models.recurrent import GRU, LSTM, RNN
from makemore_jax.models.transformer import Transformer

MODELS = {
    "bigram": Bigram,
    "mlp": MLP,
    "cnn": CNN,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "bow": BoW,
    "transformer": Transformer,
}


def create(
    config: ModelConfig,
    vocab_size: int,
    block_size: int,
    platform: str | None = None,
    families: dict[str, type[nn.Module]] = MODELS,
) -> nn.Module:
    """Return the model of `config.kind`, with the fields of the config that its class declares.

    The model takes the form that suits a platform, "cpu", "gpu" or "tpu", by default the one that
    jax uses.
    """
    if config.kind not in families:
        known = ", ".join(families)
        hint = did_you_mean(config.kind, families)
        raise UserError(f'model.kind: "{config.kind}" is not one of {known}{hint}')
    given = dataclasses.asdict(config) | {"vocab_size": vocab_size, "block_size": block_size}
    platform = platform or jax.default_backend()
    given["blockwise"] = platform == "cpu"
    if config.layer_loop == "auto":
        given["layer_loop"] = "scan" if platform == "tpu" else "unroll"
    cls = families[config.kind]
    return cls(**{f.name: given[f.name] for f in dataclasses.fields(cls) if f.name in given})


def variable_shapes(model: nn.Module, block_size: int) -> dict[str, Any]:
    """What a model is applied to, with shapes and dtypes for values; nothing is computed.

    `params`, and `batch_stats` where a family norms by the batch.
    """
    tokens = jax.ShapeDtypeStruct((1, block_size), "int32")
    return jax.eval_shape(model.init, jax.random.key(0), tokens)


def param_shapes(model: nn.Module, block_size: int) -> Any:
    """The tree of a model's parameters alone, likewise."""
    return variable_shapes(model, block_size)["params"]


def unrolled(model: nn.Module) -> nn.Module:
    """Return a model with a module for every layer, whose outputs can be inspected by name.

    The parameters are the same. Layers in a loop draw other dropout masks.
    """
    return model.clone(layer_loop="unroll") if hasattr(model, "layer_loop") else model


def dropout_rngs(model: nn.Module, key: Array) -> dict[str, Array]:
    """Return the `rngs` with which a model draws dropout masks from a threefry key.

    The random bits of "rbg" keys come from XLA's generator for the device.
    """
    if getattr(model, "dropout_rng", "threefry2x32") == "rbg":
        key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")
    return {"dropout": key}


def read_lines(model: nn.Module, variables: Any, tokens: Array) -> Array:
    """Lines in rows, whatever the family was trained on. (B, T) -> (B, T, V)"""
    missing = getattr(model, "window", 1) - 1  # before the first place with a whole window
    return model.apply(variables, jnp.pad(tokens, [(0, 0), (missing, 0)]))
