"""Mixture: networks of the family modern, and n-grams, whose probabilities are averaged."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax.config import Config
from makemore_jax.mixture import table
from makemore_jax.model_forms import ModernForms
from makemore_jax.models.layers import Positions
from makemore_jax.models.transformer import Carry


class Mixture(nn.Module):
    """The mean of the probabilities that `networks` networks predict.

    With `ngram_contexts`, n-grams are mixed in; they have the weight `ngram_weight`.
    The logits are logarithms of probabilities.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    dropout_rng: str = "threefry2x32"
    layer_loop: str = "unroll"
    networks: int = 1
    ngram_contexts: int | None = None  # rows of the table
    ngram_weight: float = 0.0
    blockwise: bool = True

    def network(self, **parent: None) -> ModernForms:
        """Return one of the networks, without parameters. With parent=None, it is no submodule."""
        sizes = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        options = ("dropout", "dropout_rng", "layer_loop", "blockwise")
        fields = {name: getattr(self, name) for name in (*sizes, *options)}
        return ModernForms(**fields, **parent)

    def setup(self):
        self.members = [self.network() for _ in range(self.networks)]
        if self.ngram_contexts:
            self.table = table.NgramTable(self.vocab_size, self.ngram_contexts)

    def __call__(self, tokens: Array, *, train: bool = False, positions: Positions = None) -> Array:
        """Return the logits of all positions. With `train`, the n-grams are left out.

        They were counted on the training lines and predict these too well, so the networks would
        learn little.
        """
        logits = [member(tokens, train=train, positions=positions) for member in self.members]
        if train or not self.ngram_contexts:
            return self._mix(logits)
        return self._mix(logits, table.histories(tokens, positions, self.vocab_size))

    def _mix(self, logits: list[Array], history: Array | None = None) -> Array:
        """Return the logarithms of the mixture. Each (..., V) -> (..., V)"""
        probs = sum(jax.nn.softmax(each) for each in logits) / self.networks
        if history is not None:
            ngram_probs = self.table(history).astype(probs.dtype)
            probs = (1 - self.ngram_weight) * probs + self.ngram_weight * ngram_probs
        return jnp.log(probs)

    def init_carry(self, batch_size: int) -> tuple[list[Carry], Array]:
        """Return the carries of the networks, and an empty history."""
        carries = [member.init_carry(batch_size) for member in self.members]
        return carries, table.empty_history(batch_size, self.vocab_size)

    def step(
        self, carry: tuple[list[Carry], Array], token: Array
    ) -> tuple[tuple[list[Carry], Array], Array]:
        carries, history = carry
        history = table.append(history, token)
        steps = [member.step(c, token) for member, c in zip(self.members, carries, strict=True)]
        carries, logits = [c for c, _ in steps], [each for _, each in steps]
        return (carries, history), self._mix(logits, history if self.ngram_contexts else None)


def mixture_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield the rules about the fields of a mixture."""
    model, train = config.model, config.train
    if model.kind != "mixture":
        return
    is_divisor = train.batch_size % (model.networks * train.accumulate) == 0
    rule = "divisible by model.networks * train.accumulate"
    yield "train.batch_size", is_divisor, f"{rule}={model.networks * train.accumulate}"
    if model.ngram_contexts is None:
        yield "model.ngram_weight", model.ngram_weight == 0, "0 without model.ngram_contexts"
    else:
        is_lines = config.data.kind == "lines"
        yield "model.ngram_contexts", is_lines, f"None for data.kind={config.data.kind}"
