"""The models: pure functions of (params, tokens) with three methods.

A model is a Flax Linen module: a frozen dataclass of sizes. Its parameters are a separate tree of
arrays. Each family reads a line in two ways, and a test checks that they agree:

| method                           | shapes                                                   |
|----------------------------------|----------------------------------------------------------|
| `__call__(tokens, *, train)`     | (B, T) int -> logits (B, T, V), all positions at once    |
| `init_carry(batch_size)`         | -> carry, the state before the first token               |
| `step(carry, token)`             | carry, (B,) int -> carry, logits (B, V), one position    |

Training uses the first, sampling the other two: `step` is the body of a loop. The logits at
position t predict the token after tokens[:, : t + 1] and depend on no later token.

A family whose `__call__` also takes `positions` (B, T) can read packed lines, which follow each
other without padding through all rows (`kernels/packing.py`). `positions` holds each token's
position in its line. Training on CPU then skips the padding. Other families read one line per row.

A family on windows declares `window`, the number of tokens that it reads, and returns logits for
each full window: (B, S) -> (B, S - window + 1, V). `read_lines` applies any family to whole lines.

Dimensions in all files: B batch, T time (at most block_size), C channels (n_embd), V vocabulary,
nh heads, hs head size. Weights have makemore's names.

To add a family, write one file with such a class, one line in MODELS and one file in configs/.
"""

import dataclasses
import json
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
from makemore_jax.models.modern import Modern
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
    "modern": Modern,
}


def create(
    config: ModelConfig,
    vocab_size: int,
    block_size: int,
    families: dict[str, type[nn.Module]] = MODELS,
) -> nn.Module:
    """Return the model of `config.kind`, with the fields of the config that its class declares.

    UserError if another field differs from its default.
    """
    check_fields(config, families)
    cls = _family(config.kind, families)
    values = dataclasses.asdict(config) | {"vocab_size": vocab_size, "block_size": block_size}
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})


def check_fields(config: ModelConfig, families: dict[str, type[nn.Module]] = MODELS) -> None:
    """UserError if a field that the family's class does not declare differs from its default."""
    declared = {f.name for f in dataclasses.fields(_family(config.kind, families))} | {"kind"}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in declared and value != f.default:
            rule = f"must be {json.dumps(f.default)}: {config.kind} models do not have it"
            raise UserError(f"model.{f.name}: {json.dumps(value)} {rule}")


def _family(kind: str, families: dict[str, type[nn.Module]]) -> type[nn.Module]:
    """Return the class of a family. UserError for an unknown kind."""
    if kind not in families:
        hint = did_you_mean(kind, families)
        raise UserError(f'model.kind: "{kind}" is not one of {", ".join(families)}{hint}')
    return families[kind]


def variable_shapes(model: nn.Module, block_size: int) -> dict[str, Any]:
    """Return the shapes and dtypes of the variables that a model is applied to.

    They are `params` and, for a model with batch norm, `batch_stats`. Nothing is computed.
    """
    tokens = jax.ShapeDtypeStruct((1, block_size), "int32")
    return jax.eval_shape(model.init, jax.random.key(0), tokens)


def param_shapes(model: nn.Module, block_size: int) -> Any:
    """Return the shapes and dtypes of a model's parameters."""
    return variable_shapes(model, block_size)["params"]


def read_lines(model: nn.Module, variables: Any, tokens: Array) -> Array:
    """Return the logits of a model of any family for lines in rows. (B, T) -> (B, T, V)"""
    padding = getattr(model, "window", 1) - 1  # positions before the first full window
    return model.apply(variables, jnp.pad(tokens, [(0, 0), (padding, 0)]))
