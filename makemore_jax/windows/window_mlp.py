"""Window MLP: the networks of the lectures, which read a fixed number of preceding characters.

Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3: one hidden layer reads the
concatenated embeddings of the window. With `fuse=2`, each layer joins pairs of neighbors and halves
the length of the window, as in the tree of WaveNet (van den Oord et al. 2016, arXiv:1609.03499,
figure 3). Batch norm: Ioffe and Szegedy 2015, arXiv:1502.03167.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax import Array

from makemore_jax.models.layers import embedding


class Scales(NamedTuple):
    """Standard deviations of the initial values, for weights as a function of n_in."""

    weight: Callable[[int], float]
    bias: float
    out_weight: Callable[[int], float]  # of the output layer
    out_bias: float


SCALES = {  # in the order of the lecture
    # All N(0, 1): the logits are large and the predictions confidently wrong.
    "normal": Scales(lambda n: 1.0, 1.0, lambda n: 1.0, 1.0),
    # Small logits: the loss starts at ln V, but most tanh units are saturated.
    "small_output": Scales(lambda n: 1.0, 1.0, lambda n: 0.01, 0.0),
    # Smaller hidden weights: tanh is no longer saturated.
    "small": Scales(lambda n: 0.2, 0.01, lambda n: 0.01, 0.0),
    # The same scale from a rule: a gain over the root of n_in (He et al. 2015). 5/3 is PyTorch's
    # gain of tanh.
    "kaiming": Scales(lambda n: 5 / 3 * n**-0.5, 0.01, lambda n: 0.01, 0.0),
    # With batch norm after every layer no gain is needed.
    "fan_in": Scales(lambda n: n**-0.5, 0.0, lambda n: 0.1 * n**-0.5, 0.0),
}


class BatchNorm(nn.Module):
    """Normalizes each feature over the batch, then applies a gain and a bias. (..., n) -> (..., n)

    Outside of training it uses running averages of the batches' mean and variance; `momentum` is
    the weight of the newest batch. Variances are divided by B - 1, as in torch's `var` and the
    lectures.
    """

    n: int
    momentum: float
    gain: float = 1.0  # initial value of `scale`

    def setup(self):
        self.scale = self.param("scale", init.constant(self.gain), (self.n,))
        self.bias = self.param("bias", init.zeros, (self.n,))
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.n,))
        self.var = self.variable("batch_stats", "var", jnp.ones, (self.n,))

    def __call__(self, x: Array, train: bool) -> Array:
        mean, var = self.mean.value, self.var.value
        if train:
            rows = x.reshape(-1, self.n)  # positions of a window count as examples
            mean, var = rows.mean(axis=0), rows.var(axis=0, ddof=1)
            self.mean.value += self.momentum * (mean - self.mean.value)
            self.var.value += self.momentum * (var - self.var.value)
        return self.scale * (x - mean) * jax.lax.rsqrt(var + 1e-5) + self.bias


class WindowMLP(nn.Module):
    """Tanh layers on the embeddings of a window. Each layer joins neighbors."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_embd: int
    n_embd2: int
    fuse: int | None
    batch_norm: str
    momentum: float
    output_norm: bool
    init_scale: str

    @property
    def window(self) -> int:
        """T, the number of tokens that the model reads."""
        return self.block_size

    def setup(self):
        scales, has_norm = SCALES[self.init_scale], self.batch_norm != "none"
        self.wte = embedding(self.vocab_size, self.n_embd)
        widths = [self.n_embd] + [self.n_embd2] * (self.n_layer - 1)
        fans = [n * width for n, width in zip(self._num_joined(), widths, strict=True)]
        self.h = [_linear(n, self.n_embd2, scales.weight, scales.bias, not has_norm) for n in fans]
        if has_norm:
            self.norms = [BatchNorm(self.n_embd2, self.momentum) for _ in fans]
        # With batch norm after it, the output layer is initialized like the others, because the
        # small gain of the norm keeps the logits small.
        out_weight = scales.weight if self.output_norm else scales.out_weight
        sizes = self.n_embd2, self.vocab_size
        self.lm_head = _linear(*sizes, out_weight, scales.out_bias, not self.output_norm)
        if self.output_norm:
            self.norm_f = BatchNorm(self.vocab_size, self.momentum, gain=0.1)

    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        """Return the logits after each full window. (B, S) -> (B, S - T + 1, V)"""
        T = self.window
        B, num = len(tokens), tokens.shape[1] - T + 1
        windows = jnp.arange(num)[:, None] + jnp.arange(T)
        x = self.wte(tokens[:, windows]).reshape(B * num, T, -1)  # (B * num, T, C)
        for i, (n, linear) in enumerate(zip(self._num_joined(), self.h, strict=True)):
            x = linear(x.reshape(B * num, x.shape[1] // n, -1))  # concatenate n neighbors
            if self.batch_norm != "none":
                x = self.norms[i](x, train)
            x = jnp.tanh(x)
        logits = self.lm_head(x.reshape(B * num, -1))
        if self.output_norm:
            logits = self.norm_f(logits, train)
        return logits.reshape(B, num, -1)

    def init_carry(self, batch_size: int) -> Array:
        """Return the last T tokens: all 0 before the first one. (B, T)"""
        return jnp.zeros((batch_size, self.window), jnp.int32)

    def step(self, carry: Array, token: Array) -> tuple[Array, Array]:
        carry = jnp.concatenate([carry[:, 1:], token[:, None]], axis=1)
        return carry, self(carry)[:, -1]

    def _num_joined(self) -> list[int]:
        """Return the number of neighbors that each layer joins."""
        if self.fuse:
            return [self.fuse] * self.n_layer
        return [self.window] + [1] * (self.n_layer - 1)


def _linear(n_in: int, n_out: int, std: Callable[[int], float], bias: float, use_bias: bool):
    return nn.Dense(
        n_out,
        use_bias=use_bias,
        kernel_init=init.normal(std(n_in)),
        bias_init=init.normal(bias),
    )
