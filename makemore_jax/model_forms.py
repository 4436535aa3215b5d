"""Forms of a model that change its speed, its memory or its number of parameters.

- a loop over the layers, which XLA compiles once (`layer_loop`)
- activations that are computed again for the gradient (`remat`)
- activations in bfloat16 (`dtype`)
- one table for the embeddings and the output layer (`tied`)
- attention in blocks (`blockwise`)
- dropout masks from the random generator of the device (`dropout_rng`)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from makemore_jax import kernels
from makemore_jax.data import Split
from makemore_jax.kernels.layer_loop import stack
from makemore_jax.models.layers import Linear, Positions
from makemore_jax.models.modern import Modern
from makemore_jax.models.transformer import Block, Cache, Decoder, Transformer
from makemore_jax.training.step import GradientFn, Sums


def _separate_inputs(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Keep XLA from fusing the computation of a linear layer's input into the product.

    XLA:TPU would compile a norm or an activation again in each product that reads it.
    """
    if isinstance(context.module, Linear) and context.method_name == "__call__":
        args = jax.lax.optimization_barrier(args)
    return call(*args, **kwargs)


class LoopedDecoder(Decoder):
    """A GPT that can loop over its layers.

    With layer_loop="scan", XLA compiles one block and loops over the layers. Without dropout,
    logits change only by rounding; with it, the masks differ. The tree of parameters is the same.
    """

    dropout_rng: str = "threefry2x32"
    layer_loop: str = "unroll"

    def _apply_blocks(self, x: Array, mask: Array, positions: Positions, train: bool) -> Array:
        if self.layer_loop != "scan" or self.is_initializing():
            return super()._apply_blocks(x, mask, positions, train)
        key = self.make_rng("dropout") if train and self.dropout else None
        args = (x, mask, positions, train)
        with nn.intercept_methods(_separate_inputs):
            return kernels.scan_layers(self.h[0], self._stacked(), *args, dropout_key=key)

    def _stacked(self) -> Any:
        """Return the parameters of all layers, stacked.

        In the training steps they are stacked already (`assemble/stacked_state.py`).
        """
        return stack(self.variables["params"], "h")["h_stacked"]

    def init_carry(self, batch_size: int) -> tuple[Array, list[Cache] | Cache]:
        """Return position 0 and empty caches. A loop has them stacked along a first axis."""
        position, caches = super().init_carry(batch_size)
        if self.layer_loop != "scan":
            return position, caches
        empty = jnp.zeros((self.n_layer, *caches[0][0].shape), caches[0][0].dtype)
        return position, (empty, empty)

    def step(self, carry: Any, token: Array) -> tuple[Any, Array]:
        if self.layer_loop != "scan":
            return super().step(carry, token)
        position, caches = carry
        x = self._embed(token, position)  # (B, C)
        caches, x = kernels.scan_layers_step(self.h[0], self._stacked(), caches, x, position)
        return (position + 1, caches), self._logits(x)


class ModernForms(LoopedDecoder, Modern):
    """The family modern with a loop over its layers."""


class TransformerForms(LoopedDecoder, Transformer):
    """A transformer with the options that save time and memory.

    With `tied`, the output layer is the transposed table of the embeddings. With dtype="bfloat16",
    products are computed in bfloat16; norms, softmax and logits stay float32. `remat` changes
    logits only by rounding. Only `tied` changes the tree of parameters.
    """

    tied: bool = False
    dtype: str = "float32"
    remat: bool = False

    @property
    def block_class(self) -> type[nn.Module]:
        """The class of a layer."""
        # `train`, argument number 4, is a Python bool.
        return nn.remat(Block, static_argnums=(4,)) if self.remat else Block

    def init_carry(self, batch_size: int) -> tuple[Array, list[Cache] | Cache]:
        position, caches = super().init_carry(batch_size)
        if self.dtype == "bfloat16":
            caches = jax.tree.map(lambda a: a.astype(jnp.bfloat16), caches)
        return position, caches

    def _embed(self, tokens: Array, positions: Array) -> Array:
        x = super()._embed(tokens, positions)
        return x.astype(jnp.bfloat16) if self.dtype == "bfloat16" else x

    def _logits(self, x: Array) -> Array:
        if not self.tied:
            return super()._logits(x)
        x = self.ln_f(x)
        logits = x.reshape(-1, self.n_embd) @ self.wte.embedding.T.astype(x.dtype)
        return kernels.at_least_float32(logits.reshape(*x.shape[:-1], self.vocab_size))


def for_platform(model: nn.Module, platform: str) -> nn.Module:
    """Return the model in its fastest form on a platform: "cpu", "gpu" or "tpu"."""
    form: dict[str, Any] = {}
    if hasattr(model, "blockwise"):
        form["blockwise"] = platform == "cpu"
    if getattr(model, "layer_loop", None) == "auto":
        form["layer_loop"] = "scan" if platform == "tpu" else "unroll"
    return model.clone(**form)


def unrolled(model: nn.Module) -> nn.Module:
    """Return the model with one module call per layer, so that each layer's outputs have a name.

    The parameters are the same. Dropout masks differ from those of a model with a loop over layers.
    """
    return model.clone(layer_loop="unroll") if hasattr(model, "layer_loop") else model


def dropout_key(model: nn.Module, key: Array) -> Array:
    """Return the key from which a model draws dropout masks, given a threefry key.

    For dropout_rng="rbg" the random bits come from the generator of the device.
    """
    if getattr(model, "dropout_rng", "threefry2x32") != "rbg":
        return key
    return jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")


def with_dropout_rng(gradient_fn: GradientFn, model: nn.Module) -> GradientFn:
    """Make dropout draw from the generator that the model names."""

    def with_key(variables: Any, split: Split, indices: Array, key: Array) -> Sums:
        return gradient_fn(variables, split, indices, dropout_key(model, key))

    return with_key
