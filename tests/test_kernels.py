"""Each kernel equals its plain reference: values within 1e-6, gradients within 1e-5."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FAMILIES, assert_close, make_loss_and_grads, quick_of, small_config
from flax import linen as nn

from makemore_jax import data, kernels, models
from makemore_jax.assemble import create_model
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.kernels import blocked_attention, plain
from makemore_jax.kernels.layer_loop import stack
from makemore_jax.kernels.layouts import take_packed
from makemore_jax.models import bow, cnn, layers, mlp, transformer

B, T, C = 3, 5, 7


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def check(fast, reference, *args):
    """Compare the values of two functions and their gradients with respect to all of `args`."""
    expected = reference(*args)
    assert_close(jax.jit(fast)(*args), expected, 1e-6)
    mix = normal(*expected.shape, seed=9)

    def gradients(function):
        return jax.jit(jax.grad(lambda args: (function(*args) * mix).sum()))(args)

    jax.tree.map(partial(assert_close, tolerance=1e-5), gradients(fast), gradients(reference))


def test_the_plain_kernels_have_the_same_names_and_signatures():
    assert sorted(plain.__all__) == sorted(kernels.__all__)
    for name in kernels.__all__:
        fast, reference = getattr(kernels, name), getattr(plain, name)
        assert inspect.signature(fast) == inspect.signature(reference), name


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5)])
def test_matmul(shape):
    """Kernels that are tall, wide and square."""
    check(kernels.matmul, plain.matmul, normal(11, shape[0]), normal(*shape, seed=1))


def test_standardize():
    check(kernels.standardize, plain.standardize, 3 + 2 * normal(B, C))


@pytest.mark.parametrize("vocab_size", [C - 2, C + 4])
def test_embed_linear(vocab_size):
    """Vocabularies with fewer and with more entries than channels."""
    tokens = jax.random.randint(jax.random.key(0), (B, T, 3), 0, vocab_size)
    args = normal(vocab_size, C), normal(3 * C, 11, seed=1), normal(11, seed=2)
    fast, reference = (
        lambda *args, f=f: f(*args, tokens) for f in (kernels.embed_linear, plain.embed_linear)
    )
    check(fast, reference, *args)


@pytest.mark.parametrize("packed", quick_of([False, True], [True]))
@pytest.mark.parametrize("block", quick_of([4, 9], [4]))
@pytest.mark.parametrize("has_dropout", [False, True])
def test_attention(packed, block, has_dropout, monkeypatch):
    monkeypatch.setattr(blocked_attention, "QUERY_BLOCK", block)
    positions = None
    if packed:
        words = ["ab", "abcdefg", "a", "hgfedcb", "bb", "cdc", "hhhhhh"]
        split = data.lines.encode(words, Vocab(tuple("abcdefgh")), block_size=9)
        positions = take_packed(split, jnp.arange(len(words)), 5, width=9).options["positions"]
    num_rows, T, nh = 5, 9, 2
    mask = kernels.causal_mask(T, positions)
    q, k, v = (normal(num_rows, T, nh, 4, seed=seed) for seed in range(3))
    k, v = kernels.prepend_previous_row(k, positions), kernels.prepend_previous_row(v, positions)
    S = k.shape[1]
    whole = jax.random.bernoulli(jax.random.key(4), 0.7, (num_rows, nh, T, S)) / 0.7
    sizes = []

    def dropout_mask_fn(ones):
        """Return the part of the whole mask for the next block of queries."""
        start, end = sum(sizes), sum(sizes) + ones.shape[2]
        sizes.append(ones.shape[2])
        keys = S - T + end
        return whole[:, :, start:end, keys - ones.shape[3] : keys]

    def fast(q, k, v):
        sizes.clear()
        return kernels.attention(q, k, v, mask, dropout_mask_fn if has_dropout else None)

    def reference(q, k, v):
        return plain.attention(q, k, v, mask, (lambda ones: whole) if has_dropout else None)

    check(fast, reference, q, k, v)
    if has_dropout:
        assert sizes == ([4, 4, 1] if block == 4 else [9])


@pytest.mark.parametrize("blockwise", [False, True])
def test_decode_attention(blockwise):
    """Check every position of a cache with a length that is not a multiple of four."""
    q, keys, values = normal(B, 6), normal(T, B, 6, seed=1), normal(T, B, 6, seed=2)
    for position in jnp.arange(T):
        fast, reference = (
            lambda *args, f=f, position=position: f(*args, position, 2, blockwise)
            for f in (kernels.decode_attention, plain.decode_attention)
        )
        check(fast, reference, q, keys, values)


class Layer(nn.Module):
    """A layer with dropout and a cache."""

    @nn.compact
    def __call__(self, x, scale, train):
        y = nn.Dropout(0.5)(nn.Dense(C, name="dense")(x), deterministic=not train)
        return x + scale * jnp.tanh(y)

    def step(self, cache, x, position):
        cache = cache.at[position].set(x)
        return cache, self(x, 0.1 + cache.mean(), False)


class Stack(nn.Module):
    """Three layers, applied by the given kernels."""

    kernels: object

    def setup(self):
        self.h = [Layer() for _ in range(3)]

    def __call__(self, x, train=False):
        if self.is_initializing():
            return [layer(x, 0.5, False) for layer in self.h]
        key = self.make_rng("dropout") if train else None
        args = (self.h[0], self.stacked(), x, 0.5, train)
        return self.kernels.scan_layers(*args, dropout_key=key)

    def step(self, caches, x, position):
        return self.kernels.scan_layers_step(self.h[0], self.stacked(), caches, x, position)

    def stacked(self):
        return stack(self.variables["params"], "h")["h_stacked"]


@pytest.mark.slow
def test_scan_layers():
    """With and without dropout: both forms give each layer the same key."""
    fast, reference = Stack(kernels), Stack(plain)
    x = normal(B, C)
    params = fast.init(jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(1)}
    for train in (False, True):
        check(*(partial(m.apply, train=train, rngs=rngs) for m in (fast, reference)), params, x)
    caches = normal(3, T, B, C)
    result, expected = (m.apply(params, caches, x, 2, method="step") for m in (fast, reference))
    jax.tree.map(partial(assert_close, tolerance=1e-6), result, expected)


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["mlp", "transformer"]))
def test_families_have_the_same_loss_and_gradients_with_plain_kernels(kind, monkeypatch):
    config = small_config(kind).model
    vocab = Vocab(tuple("abcdefgh"))
    model = create_model(config, vocab.size, 9)
    split = data.lines.encode(["ab", "abcdefg", "hgfedcb", "cdc", "hhhhhh"], vocab, block_size=9)
    shapes, rng = models.variable_shapes(model, 9)["params"], np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), a.dtype), shapes)

    def loss_and_gradients():
        step = jax.jit(make_loss_and_grads(model))
        (loss, _), grads = step(params, {}, split.take(jnp.arange(5)), jax.random.key(0))
        return loss, grads

    loss, grads = loss_and_gradients()
    for module in (bow, cnn, layers, mlp, transformer):
        monkeypatch.setattr(module, "kernels", plain)
    plain_loss, plain_grads = loss_and_gradients()
    assert_close(loss, plain_loss, 1e-6)
    jax.tree.map(partial(assert_close, tolerance=1e-5), grads, plain_grads)
