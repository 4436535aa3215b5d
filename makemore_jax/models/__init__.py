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

A family that reads windows of a fixed size declares the field `window`, their number of tokens, and
returns logits for each full window: (B, S) -> (B, S - window + 1, V). `windows/whole_lines.py`
reads lines with it.

Dimensions in all files: B batch, T tokens of a row (block_size, or the width of packed rows), S
keys of a row (T, or 2 T in packed rows), C channels (n_embd), V vocabulary, nh heads, hs head size.
Weights have makemore's names.

To add a family, write one file with such a class, one line in MODELS and one file in configs/.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from makemore_jax.config import ModelConfig, show
from makemore_jax.errors import UserError, look_up
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

    Raise UserError for a kind that is not in `families`, or if a field that the class does not
    declare differs from its default.
    """
    cls = look_up("model.kind", config.kind, families)
    declared = {f.name for f in dataclasses.fields(cls)}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in declared | {"kind"} and value != f.default:
            rule = f"must be {show(f.default)}: {config.kind} models do not have it"
            raise UserError(f"model.{f.name}: {show(value)} {rule}")
    values = dataclasses.asdict(config) | {"vocab_size": vocab_size, "block_size": block_size}
    return cls(**{name: values[name] for name in declared & values.keys()})


def variable_shapes(model: nn.Module, block_size: int) -> dict[str, Any]:
    """Return the shapes and dtypes of the variables that a model is applied to.

    They are `params` and, if the model has them, `batch_stats` and `ngrams`. Nothing is computed.
    """
    tokens = jax.ShapeDtypeStruct((1, block_size), "int32")
    return jax.eval_shape(model.init, jax.random.key(0), tokens)
