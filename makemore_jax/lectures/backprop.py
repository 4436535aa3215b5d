"""Lecture 5, back-propagation by hand: python -m makemore_jax.lectures.backprop --data FILE

The MLP of Bengio et al. 2003 with batch norm (Ioffe and Szegedy 2015) is split into steps with
one-line derivatives. Then cross-entropy and batch norm get a short formula each
(https://youtu.be/q8SA3rM6ckI). The command compares every gradient with jax.grad, trains with the
short formulas for 200,000 steps, and prints the losses: 2.0737 on train and 2.1144 on dev of the
course's names. Four other keys gave 2.0695 to 2.0746 and 2.1091 to 2.1147; the lecture has 2.0705
and 2.1099. The command draws the gradient with respect to the logits as dlogits.png, and the
losses as losses.png.

B batch, T characters of context, C channels, H hidden, V vocabulary. Parameters have the lecture's
names and shapes. `C` is therefore also the embedding table.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax.assemble import load_data
from makemore_jax.cli.arguments import Parser
from makemore_jax.config import DataConfig
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.lectures import command
from makemore_jax.lectures.bigram_counts import symbols
from makemore_jax.losses import mean_loss

BLOCK_SIZE, N_EMBD, N_HIDDEN = 3, 10, 200  # T, C and H of the lecture
LEARNING_RATES = 0.1, 0.01  # in the first and the second half of the steps
EPSILON = 1e-5  # added to the variance

Windows = tuple[Array, Array]  # x (N, T) and y (N,)


class Params(NamedTuple):
    """The lecture's parameters, 12,297 numbers with its sizes."""

    C: Array  # (V, C)
    W1: Array  # (T * C, H)
    b1: Array  # (H,); its gradient is 0, since batch norm subtracts the mean
    W2: Array  # (H, V)
    b2: Array  # (V,)
    bngain: Array  # (H,)
    bnbias: Array  # (H,)


class Intermediates(NamedTuple):
    """All intermediate results of the forward pass, in order."""

    emb: Array  # (B, T, C)
    embcat: Array  # (B, T * C)
    hprebn: Array  # (B, H)
    bnmeani: Array  # (H,)
    bndiff: Array  # (B, H)
    bndiff2: Array  # (B, H)
    bnvar: Array  # (H,)
    bnvar_inv: Array  # (H,): 1 / standard deviation
    bnraw: Array  # (B, H)
    hpreact: Array  # (B, H)
    h: Array  # (B, H)
    logits: Array  # (B, V)
    logit_maxes: Array  # (B, 1)
    norm_logits: Array  # (B, V): at most 0, so that exp can't overflow
    counts: Array  # (B, V)
    counts_sum: Array  # (B, 1)
    counts_sum_inv: Array  # (B, 1)
    probs: Array  # (B, V)
    logprobs: Array  # (B, V)
    loss: Array  # ()


def init(
    key: Array,
    vocab_size: int = 27,
    block_size: int = BLOCK_SIZE,
    n_embd: int = N_EMBD,
    n_hidden: int = N_HIDDEN,
) -> Params:
    """Draw the lecture's initial parameters.

    Biases and gains are not exactly 0 and 1, so that no gradient is correct by accident. W1 has the
    scale of He et al. 2015, with PyTorch's gain of tanh, 5/3.
    """
    keys = Params(*jax.random.split(key, len(Params._fields)))
    fan_in = block_size * n_embd
    return Params(
        C=jax.random.normal(keys.C, (vocab_size, n_embd)),
        W1=jax.random.normal(keys.W1, (fan_in, n_hidden)) * (5 / 3) / fan_in**0.5,
        b1=jax.random.normal(keys.b1, (n_hidden,)) * 0.1,
        W2=jax.random.normal(keys.W2, (n_hidden, vocab_size)) * 0.1,
        b2=jax.random.normal(keys.b2, (vocab_size,)) * 0.1,
        bngain=1 + jax.random.normal(keys.bngain, (n_hidden,)) * 0.1,
        bnbias=jax.random.normal(keys.bnbias, (n_hidden,)) * 0.1,
    )


def count_params(params: Params) -> int:
    """Return the number of trainable numbers."""
    return sum(a.size for a in params)


ZEROS = Intermediates(*[0.0] * len(Intermediates._fields))


def forward(
    params: Params, x: Array, y: Array, add: Intermediates = ZEROS
) -> tuple[Array, Intermediates]:
    """Return the mean loss in nats over windows x (B, T), y (B,), and all intermediates.

    `add` is added to the intermediates. At 0 the gradient with respect to `add` is the gradient
    with respect to the intermediates, so jax.grad can compute it. Raise ValueError for fewer than
    two windows: the variance divides by B - 1 (Bessel's correction).
    """
    B = len(y)
    if B < 2:
        raise ValueError(f"{B} windows; batch norm needs two or more")
    emb = params.C[x] + add.emb
    embcat = emb.reshape(B, -1) + add.embcat
    hprebn = embcat @ params.W1 + params.b1 + add.hprebn
    bnmeani = hprebn.sum(axis=0) / B + add.bnmeani
    bndiff = hprebn - bnmeani + add.bndiff
    bndiff2 = bndiff**2 + add.bndiff2
    bnvar = bndiff2.sum(axis=0) / (B - 1) + add.bnvar
    bnvar_inv = (bnvar + EPSILON) ** -0.5 + add.bnvar_inv
    bnraw = bndiff * bnvar_inv + add.bnraw
    hpreact = params.bngain * bnraw + params.bnbias + add.hpreact
    h = jnp.tanh(hpreact) + add.h
    logits = h @ params.W2 + params.b2 + add.logits
    logit_maxes = logits.max(axis=1, keepdims=True) + add.logit_maxes
    norm_logits = logits - logit_maxes + add.norm_logits
    counts = jnp.exp(norm_logits) + add.counts
    counts_sum = counts.sum(axis=1, keepdims=True) + add.counts_sum
    counts_sum_inv = 1 / counts_sum + add.counts_sum_inv
    probs = counts * counts_sum_inv + add.probs
    logprobs = jnp.log(probs) + add.logprobs
    loss = -logprobs[jnp.arange(B), y].mean() + add.loss
    return loss, Intermediates(
        emb, embcat, hprebn, bnmeani, bndiff, bndiff2, bnvar, bnvar_inv, bnraw, hpreact, h,
        logits, logit_maxes, norm_logits, counts, counts_sum, counts_sum_inv, probs, logprobs, loss,
    )  # fmt: skip


def backward(
    params: Params, x: Array, y: Array, saved: Intermediates
) -> tuple[Params, Intermediates]:
    """Return the gradients of the loss with respect to all parameters and intermediates.

    The gradient with respect to `z` is called `dz` and has the shape of `z`. A broadcast along an
    axis in `forward` becomes a sum over this axis here, and a sum becomes a broadcast.
    """
    B, V = saved.logits.shape
    is_target = jax.nn.one_hot(y, V, dtype=saved.logits.dtype)
    is_largest = jax.nn.one_hot(saved.logits.argmax(axis=1), V, dtype=saved.logits.dtype)

    dloss = jnp.ones_like(saved.loss)
    dlogprobs = -is_target / B * dloss
    dprobs = dlogprobs / saved.probs
    dcounts_sum_inv = (dprobs * saved.counts).sum(axis=1, keepdims=True)
    dcounts_sum = -dcounts_sum_inv / saved.counts_sum**2
    dcounts = dprobs * saved.counts_sum_inv + dcounts_sum  # used twice: the gradients add up
    dnorm_logits = dcounts * saved.counts
    dlogit_maxes = -dnorm_logits.sum(axis=1, keepdims=True)  # 0: the loss does not depend on it
    dlogits = dnorm_logits + dlogit_maxes * is_largest

    dh = dlogits @ params.W2.T
    dW2 = saved.h.T @ dlogits
    db2 = dlogits.sum(axis=0)
    dhpreact = dh * (1 - saved.h**2)

    dbngain = (dhpreact * saved.bnraw).sum(axis=0)
    dbnbias = dhpreact.sum(axis=0)
    dbnraw = dhpreact * params.bngain
    dbnvar_inv = (dbnraw * saved.bndiff).sum(axis=0)
    dbnvar = -0.5 * (saved.bnvar + EPSILON) ** -1.5 * dbnvar_inv
    dbndiff2 = jnp.broadcast_to(dbnvar / (B - 1), saved.bndiff2.shape)
    dbndiff = dbnraw * saved.bnvar_inv + dbndiff2 * 2 * saved.bndiff
    dbnmeani = -dbndiff.sum(axis=0)
    dhprebn = dbndiff + dbnmeani / B

    dembcat = dhprebn @ params.W1.T
    dW1 = saved.embcat.T @ dhprebn
    db1 = dhprebn.sum(axis=0)
    demb = dembcat.reshape(saved.emb.shape)
    dC = jnp.zeros_like(params.C).at[x].add(demb)  # a character's gradients add up

    return Params(dC, dW1, db1, dW2, db2, dbngain, dbnbias), Intermediates(
        demb, dembcat, dhprebn, dbnmeani, dbndiff, dbndiff2, dbnvar, dbnvar_inv, dbnraw, dhpreact,
        dh, dlogits, dlogit_maxes, dnorm_logits, dcounts, dcounts_sum, dcounts_sum_inv, dprobs,
        dlogprobs, dloss,
    )  # fmt: skip


def cross_entropy_backward(logits: Array, y: Array) -> Array:
    """Return the gradient of the mean loss: (probs - one_hot(y)) / B. (B, V) -> (B, V)

    In each row the gradient of the target is minus the sum of all others.
    """
    B, V = logits.shape
    return (jax.nn.softmax(logits) - jax.nn.one_hot(y, V, dtype=logits.dtype)) / B


def batch_norm_backward(dhpreact: Array, bngain: Array, bnraw: Array, bnvar_inv: Array) -> Array:
    """Return the gradient with respect to the input of batch norm, given that of its output.

    Both are (B, H). Shifting or scaling the input has no effect, so the gradient has mean 0 and no
    component along bnraw. The variance divides by B - 1 (Bessel's correction); the paper, section
    3.1, divides by B.
    """
    B = len(dhpreact)
    along_bnraw = bnraw * (dhpreact * bnraw).sum(axis=0) / (B - 1)
    return bngain * bnvar_inv * (dhpreact - dhpreact.mean(axis=0) - along_bnraw)


def short_backward(params: Params, x: Array, y: Array, saved: Intermediates) -> Params:
    """Return the gradients with respect to the parameters only, with the short formulas."""
    dlogits = cross_entropy_backward(saved.logits, y)
    dhpreact = dlogits @ params.W2.T * (1 - saved.h**2)
    dhprebn = batch_norm_backward(dhpreact, params.bngain, saved.bnraw, saved.bnvar_inv)
    demb = (dhprebn @ params.W1.T).reshape(saved.emb.shape)
    return Params(
        C=jnp.zeros_like(params.C).at[x].add(demb),
        W1=saved.embcat.T @ dhprebn,
        b1=dhprebn.sum(axis=0),
        W2=saved.h.T @ dlogits,
        b2=dlogits.sum(axis=0),
        bngain=(dhpreact * saved.bnraw).sum(axis=0),
        bnbias=dhpreact.sum(axis=0),
    )


LossAndGrads = Callable[[Params, Array, Array], tuple[Array, Params]]


def loss_and_grads_by_hand(params: Params, x: Array, y: Array) -> tuple[Array, Params]:
    """Compute the same as jax.value_and_grad of the loss of `forward`."""
    loss, saved = forward(params, x, y)
    return loss, short_backward(params, x, y, saved)


# The exact gradients of these are 0. Each is a sum; compare with the size of its terms.
SUMS_OF = {"logit_maxes": "norm_logits", "b1": "hprebn"}


def differences(params: Params, x: Array, y: Array) -> dict[str, float]:
    """Return the difference of each gradient from jax.grad's, relative to its largest entry.

    Entries named "..., short" belong to the short formulas: gradients with respect to the logits,
    hprebn and each parameter.
    """
    # The default precision of accelerators is lower than the differences to measure.
    with jax.default_matmul_precision("highest"):
        result = _differences(params, x, y)
    short = [f"{name}, short" for name in ("logits", "hprebn", *Params._fields)]
    return {name: float(result[name]) for name in (*Intermediates._fields, *Params._fields, *short)}


@jax.jit
def _differences(params: Params, x: Array, y: Array) -> dict[str, Array]:
    _, saved = forward(params, x, y)
    zeros = jax.tree.map(jnp.zeros_like, saved)
    by_params, by_saved = jax.grad(lambda p, add: forward(p, x, y, add)[0], (0, 1))(params, zeros)
    expected = by_params._asdict() | by_saved._asdict()

    def difference(name: str, a: Array) -> Array:
        scale = jnp.abs(expected[SUMS_OF.get(name, name)]).max()
        return jnp.abs(a - expected[name]).max() / scale

    hand_params, hand_saved = backward(params, x, y, saved)
    dhprebn = batch_norm_backward(hand_saved.hpreact, params.bngain, saved.bnraw, saved.bnvar_inv)
    short = short_backward(params, x, y, saved)._asdict()
    short |= {"logits": cross_entropy_backward(saved.logits, y), "hprebn": dhprebn}
    by_hand = hand_saved._asdict() | hand_params._asdict()
    long = {name: difference(name, a) for name, a in by_hand.items()}
    return long | {f"{name}, short": difference(name, a) for name, a in short.items()}


def first_half(steps: int) -> int:
    """Return the number of steps with the first learning rate."""
    return (steps + 1) // 2


@partial(jax.jit, static_argnames=("steps", "batch_size", "loss_and_grads"))
def train(
    params: Params,
    key: Array,
    split: Windows,
    steps: int = 200_000,
    batch_size: int = 32,
    loss_and_grads: LossAndGrads = loss_and_grads_by_hand,
) -> tuple[Params, Array]:
    """Train with gradient descent and LEARNING_RATES. -> new parameters, losses (steps,)

    Each batch is drawn from all windows of the split.
    """
    x, y = split

    def step(params: Params, i: Array) -> tuple[Params, Array]:
        indices = jax.random.randint(jax.random.fold_in(key, i), (batch_size,), 0, len(y))
        loss, grads = loss_and_grads(params, x[indices], y[indices])
        learning_rate = jnp.where(i < first_half(steps), *LEARNING_RATES)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), loss

    return jax.lax.scan(step, params, jnp.arange(steps))


class NormStatistics(NamedTuple):
    """The mean and variance that batch norm uses for evaluation."""

    mean: Array  # (H,)
    variance: Array  # (H,)


@jax.jit
def calibrate(params: Params, x: Array) -> NormStatistics:
    """Compute the statistics of batch norm over all windows x (N, T), N >= 2, at once."""
    hprebn = _hprebn(params, x)
    return NormStatistics(hprebn.mean(axis=0), hprebn.var(axis=0, ddof=1))


@jax.jit
def evaluate(params: Params, statistics: NormStatistics, split: Windows) -> Array:
    """Return the mean loss over a split in nats, with these statistics in batch norm."""
    x, y = split
    bndiff = _hprebn(params, x) - statistics.mean
    bnraw = bndiff * (statistics.variance + EPSILON) ** -0.5
    logits = jnp.tanh(params.bngain * bnraw + params.bnbias) @ params.W2 + params.b2
    return mean_loss(logits, y)


def _hprebn(params: Params, x: Array) -> Array:
    """Compute the input of batch norm. (N, T) -> (N, H)"""
    return params.C[x].reshape(len(x), -1) @ params.W1 + params.b1


def load(path: str) -> tuple[dict[str, Windows], Vocab]:
    """Load the windows of the lecture's train and dev split of a file of lines, and its vocabulary.

    Raise UserError if the file can't be read or has too few lines.
    """
    config = DataConfig(path=path, kind="windows", split="lecture", block_size=BLOCK_SIZE)
    with command.reading_data():
        dataset = load_data(config, seed=0)
    splits = {}
    for name in ("train", "dev"):
        x, y, _ = dataset.splits[name].take(jnp.arange(dataset.splits[name].size))
        splits[name] = x, y[:, 0]
    return splits, dataset.vocab


BOUNDS = {"float32": 1e-6, "float64": 1e-12}  # on the result of `differences`


class GradientsDiffer(UserError):
    """Gradients differ by more than their bound."""

    exit_code = 1  # 2 is for errors of the command line


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.backprop", __doc__)
    parser.add_argument("--data", default="names.txt", help="a file of lines (names.txt)")
    parser.add_argument("--out", default="runs/backprop", help="folder (runs/backprop)")
    parser.add_argument("--steps", type=int, default=200_000, help="training steps (200,000)")
    parser.add_argument("--float64", action="store_true", help="compute in float64")
    arguments = parser.parse_args(argv)
    command.run("backprop", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Check the gradients, train, and draw the gradient and the losses."""
    if arguments.float64:
        jax.config.update("jax_enable_x64", True)
    command.need_matplotlib("dlogits.png")
    from makemore_jax.lectures import pictures

    steps, folder = arguments.steps, Path(arguments.out)
    if not 1 <= steps < 2**31:
        raise UserError(f"--steps: {steps} must be from 1 to {2**31 - 1}")
    splits, vocab = load(arguments.data)
    init_key, batch_key, train_key = jax.random.split(jax.random.key(0), 3)
    params = init(init_key, vocab.size)
    x, y = splits["train"]
    indices = jax.random.randint(batch_key, (32,), 0, len(y))
    batch = x[indices], y[indices]
    with command.writing(folder, "dlogits.png") as dlogits_file:
        _, saved = jax.jit(forward)(params, *batch)
        dlogits = cross_entropy_backward(saved.logits, batch[1])
        table, windows = np.asarray(dlogits), np.asarray(batch[0])
        pictures.logit_gradients(table, windows, symbols(vocab), dlogits_file)

    for name, (_, targets) in splits.items():
        print(f"{name}: {len(targets):,} windows of {BLOCK_SIZE} characters")
    print(f"{count_params(params):,} parameters\n")
    dtype = str(params.C.dtype)
    print(f"gradients by hand and by jax.grad in {dtype}: largest difference / largest entry")
    by_name = differences(params, *batch)
    for title, difference in by_name.items():
        print(f"  {title:<16} {difference:.1e}")

    print(f"\ntraining for {steps:,} steps with the gradients by hand", flush=True)
    start = time.perf_counter()
    params, losses = jax.block_until_ready(train(params, train_key, splits["train"], steps))
    seconds = time.perf_counter() - start
    statistics = calibrate(params, x)
    means = (f"{n} {evaluate(params, statistics, split):.4f}" for n, split in splits.items())
    print(f"{', '.join(means)} after {seconds:.1f} s")
    with command.writing(folder, "losses.png") as losses_file:
        pictures.losses(np.asarray(losses), first_half(steps), LEARNING_RATES, losses_file)
    print(f"{dlogits_file} shows the gradient with respect to the logits, {losses_file} the losses")
    exceeded = [title for title, difference in by_name.items() if not difference <= BOUNDS[dtype]]
    if exceeded:
        raise GradientsDiffer(f"gradients differ too much: {'; '.join(exceeded)}")


if __name__ == "__main__":
    main()
