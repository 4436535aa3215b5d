"""What goes on inside a network: saturated units, dead ones, and how far each weight moves.

The pictures of the course's lecture 4, Activations & Gradients, BatchNorm
(https://youtu.be/P6sfmUTpUmc), as numbers, and for any model: none has to know of it. The program
of the loss, as jax.make_jaxpr gives it, is gone through equation by equation; behind each
nonlinearity its values are tapped, and zeros are added to them. The gradient of the loss by those
zeros is the gradient by the activations.

A nonlinearity is a tanh, a sigmoid, an erf or a ReLU. One inside of another function is its gate:
GELU is x (1 + tanh(...)) / 2, SiLU is x sigmoid(x). A gate that is saturated for all tokens makes
a unit that is always 0, as dead as that of a ReLU, where it is shut, and a linear one where open.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.extend import core

from makemore_jax import models
from makemore_jax.data import Batch
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import sum_loss

N_BINS = 50
SATURATED = 0.97  # of the way from the middle of the range to an end: the lecture's, for tanh

# By primitive: its name here, the middle of its range, and how far from there the ends are.
SQUASHING = {
    "tanh": ("tanh", 0.0, 1.0),
    "logistic": ("sigmoid", 0.5, 0.5),
    "erf": ("erf", 0.0, 1.0),
    "erfc": ("erf", 1.0, 1.0),  # 1 - erf, of which GELU is made where it is not of tanh
}
# Equations that hold a program and do no more than run it once, as is.
WRAPPERS = {
    *("jit", "pjit", "closed_call", "checkpoint", "remat2"),
    *("custom_jvp_call", "custom_vjp_call"),
}


class Tap(NamedTuple):
    """A nonlinearity in a program, and what its values will be."""

    name: str  # of its module and of the function, as in "h_0.mlp tanh"
    primitive: str
    shape: tuple[int, ...]
    dtype: Any
    num_stacked: int  # how many axes, the first ones, are steps of scans


def trace(
    function: Callable[..., Any], *args: Any
) -> tuple[list[Tap], Callable[..., tuple[Any, list[Array]]]]:
    """The nonlinearities of function(*args), in their order, and a way to them.

    That is the function (add, *args) -> (function(*args), values), for args of these shapes: `add`
    has an array for each tap, which is added to its values as they are computed. What is inside of
    branches and `while` loops is computed, but has no taps. A function with a gradient of its own
    keeps it, but where taps are inside: there it is the gradient of what the function computes.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(*args)

    def tapped(add: Sequence[Array], *args: Any) -> tuple[Any, list[Array]]:
        outs, values = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), add)
        return jax.tree.unflatten(jax.tree.structure(out), outs), values

    taps = _find(closed.jaxpr)
    total, so_far = Counter(tap.name for tap in taps), Counter()
    for i, tap in enumerate(taps):
        if total[tap.name] > 1:
            so_far[tap.name] += 1
            taps[i] = tap._replace(name=f"{tap.name} {so_far[tap.name]}")
    return taps, tapped


def _find(jaxpr: core.Jaxpr, path: tuple[str, ...] = ()) -> list[Tap]:
    """The taps of a program that stands in the module `path`."""
    return [tap for eqn in jaxpr.eqns for tap in _find_in(eqn, path)]


def _find_in(eqn: core.JaxprEqn, path: tuple[str, ...] = ()) -> list[Tap]:
    # The stack has the model's class, then modules, and behind each its method, "h_0._gated"; and
    # jax's transforms of the program.
    stack = eqn.source_info.name_stack.stack
    path += tuple(scope.name for scope in stack if type(scope).__name__ == "Scope")
    if primitive := _nonlinearity(eqn):
        module = ".".join(name for name in path[1:] if "." not in name)
        function = SQUASHING[primitive][0] if primitive in SQUASHING else "relu"
        out = eqn.outvars[0].aval
        return [Tap(f"{module} {function}".strip(), primitive, out.shape, out.dtype, 0)]
    if eqn.primitive.name == "scan":
        num = eqn.params["length"]
        taps = _find(eqn.params["jaxpr"].jaxpr, path)
        return [t._replace(shape=(num, *t.shape), num_stacked=t.num_stacked + 1) for t in taps]
    inner = _inside(eqn)
    return _find(inner.jaxpr, path) if inner else []


def _inside(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The program that an equation wraps."""
    if eqn.primitive.name not in WRAPPERS:
        return None
    inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _nonlinearity(eqn: core.JaxprEqn) -> str | None:
    """Its primitive, where an equation is one or wraps nothing but one, as jax.nn.relu does."""
    if inner := _inside(eqn):
        return _nonlinearity(inner.eqns[0]) if len(inner.eqns) == 1 else None
    name = eqn.primitive.name
    if name == "max" and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        literals = [v.val for v in eqn.invars if isinstance(v, core.Literal)]
        return name if any(value == 0 for value in literals) else None
    return name if name in SQUASHING else None


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], add: Sequence[Array]
) -> tuple[list[Any], list[Array]]:
    """What a program gives with `add` at its taps, and the values there."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    values: list[Array] = []
    for eqn in jaxpr.eqns:
        given, num = [read(v) for v in eqn.invars], len(_find_in(eqn))
        here, add = add[:num], add[num:]
        found: list[Array] = []
        if not num:
            outs = _bind(eqn, given)
        elif _nonlinearity(eqn):
            # As a whole where it is wrapped: by its own rule jax.nn.relu has a gradient of 0 at 0.
            outs = found = [_bind(eqn, given)[0] + here[0]]
        elif eqn.primitive.name == "scan":
            outs, found = _scan(eqn, given, here)
        else:
            inner = _inside(eqn)
            outs, found = _evaluate(inner.jaxpr, inner.consts, given, here)
        values += found
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars], values


def _scan(
    eqn: core.JaxprEqn, given: list[Any], add: Sequence[Array]
) -> tuple[list[Any], list[Array]]:
    """A scan of which each step takes its part of `add` too, and gives its values."""
    p = eqn.params
    closed = p["jaxpr"]

    def num_axes(variables: Sequence[Any]) -> list[int]:
        return [len(v.aval.shape) for v in variables]

    # What has an axis less inside is gone through. Versions of jax differ in how else they say it.
    inside, outside = num_axes(closed.jaxpr.invars), num_axes(eqn.invars)
    at_xs = sum(n == m for n, m in zip(inside, outside, strict=True))
    inside, outside = num_axes(closed.jaxpr.outvars), num_axes(eqn.outvars)
    num_carry = sum(n == m for n, m in zip(inside, outside, strict=True))
    at_carry = at_xs - num_carry

    def body(carry: list[Any], each: tuple[list[Any], list[Array]]) -> tuple[list[Any], Any]:
        args = [*given[:at_carry], *carry, *each[0]]
        outs, values = _evaluate(closed.jaxpr, closed.consts, args, each[1])
        return outs[:num_carry], (outs[num_carry:], values)

    start, xs = given[at_carry:at_xs], (given[at_xs:], list(add))
    carry, (ys, values) = jax.lax.scan(body, start, xs, p["length"], p["reverse"], p["unroll"])
    return [*carry, *ys], values


def _bind(eqn: core.JaxprEqn, given: list[Any]) -> list[Any]:
    """One equation, computed."""
    params, functions = eqn.primitive.get_bind_params(eqn.params), ()
    if isinstance(params, tuple):  # in older versions of jax
        functions, params = params
    outs = eqn.primitive.bind(*functions, *given, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def counted(tap: Tap, inputs: Array, targets: Array) -> Array | None:
    """Which values of a tap belong to a token that has a target: bool, in a shape to broadcast.

    In rows or packed, inputs and targets (B, T), the values may be (B, T, ..., C); (T, B, ..., C),
    as a scan over time stacks them; or (B * T, ..., C); what other scans stack comes before that.
    In any other shape all count, and so they do on windows, inputs (B, T) and targets (B, 1).

    None where there is one number for each token, or for all: these are no units but, say, a
    variance that is kept from being negative.
    """
    num, real, has_units = tap.num_stacked, targets != -1, len(tap.shape) > 1
    places = [(num, real), (num - 1, real.T), (num, real.ravel()), (num, real.T)]
    for before, mask in places if inputs.shape == targets.shape else []:
        behind = len(tap.shape) - before - mask.ndim
        if before >= 0 and tap.shape[before : before + mask.ndim] == mask.shape:
            if behind > 0:  # else the units may have been taken for time, where T of them are
                return mask.reshape(*[1] * before, *mask.shape, *[1] * behind)
            has_units = False
    return jnp.ones([1] * len(tap.shape), bool) if has_units else None


def histogram(x: Array, counts: Array) -> dict[str, Array]:
    """The numbers of x for which `counts`, bool of a shape that broadcasts to x's, is true.

    N_BINS counts, in equal bins from `low` to `high`, the least and the largest number; mean and
    standard deviation. Without any number low and high are infinite.
    """
    counts = jnp.broadcast_to(counts, x.shape)
    num = jnp.maximum(counts.sum(), 1)
    low = jnp.where(counts, x, jnp.inf).min()
    high = jnp.where(counts, x, -jnp.inf).max()
    mean = jnp.where(counts, x, 0).sum() / num
    std = jnp.sqrt(jnp.where(counts, (x - mean) ** 2, 0).sum() / num)
    share = jnp.where(high > low, (x - low) / (high - low), 0)  # of the way up
    bins = jnp.clip((share * N_BINS).astype(jnp.int32), 0, N_BINS - 1)
    bins = jnp.zeros(N_BINS, jnp.int32).at[bins].add(counts)
    return {"low": low, "high": high, "counts": bins, "mean": mean, "std": std}


def saturated_and_dead(tap: Tap, values: Array, counts: Array) -> tuple[Array, Array]:
    """The share of values that are saturated, and of units that are so for every token.

    Saturated is a value within 1.5% of the range from one of its ends, where the slope of tanh is
    below 0.06, that of a sigmoid below 0.015; and a 0 of a ReLU, where it is 0. Units are the
    entries of the last axis; `counts` is what `counted` gives.
    """
    if tap.primitive in SQUASHING:
        _, middle, reach = SQUASHING[tap.primitive]
        is_saturated = jnp.abs(values - middle) > SATURATED * reach
    else:
        is_saturated = values == 0
    counts = jnp.broadcast_to(counts, values.shape)
    share = (is_saturated & counts).sum() / jnp.maximum(counts.sum(), 1)
    is_dead = (is_saturated | ~counts).reshape(-1, values.shape[-1]).all(axis=0)
    return share, is_dead.mean()


Diagnose = Callable[[TrainState, Batch, Array], dict[str, dict[str, Any]]]


def make_diagnose(model: nn.Module, optimizer: optax.GradientTransformation) -> Diagnose:
    """The pure function (state, batch, dropout key) -> what the step on them shows.

    The step is not taken. The result is for JSON, with None for what is not finite:

        saturated, dead                     by layer, as `saturated_and_dead` has them
        activations, activation_gradients   by layer, as `histogram` has them
        grad_to_data, update_to_data        by parameter: the standard deviation of the gradient,
                                            and of what the optimizer adds, learning rate included,
                                            over that of the parameter; None where its numbers are
                                            all the same
        gradients                           by parameter, of two axes or more, as `histogram`
    """

    loss_fn = partial(sum_loss, models.unrolled(model))

    @jax.jit
    def compute(state: TrainState, batch: Batch, dropout_key: Array) -> dict[str, Any]:
        inputs, targets, *_ = batch

        def loss_of(params: Any) -> Array:
            loss, (count, _) = loss_fn(params, state.model_state, batch, dropout_key)
            return loss / jnp.maximum(count, 1)

        taps, tapped = trace(loss_of, state.params)
        zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in taps]
        gradient = jax.grad(tapped, argnums=(0, 1), has_aux=True)
        (by_values, grads), values = gradient(zeros, state.params)
        updates, _ = optimizer.update(grads, state.opt_state, state.params)

        kinds = ("saturated", "dead", "activations", "activation_gradients")
        kinds += ("grad_to_data", "update_to_data", "gradients")
        found = OrderedDict((kind, OrderedDict()) for kind in kinds)  # jit would sort a dict
        for tap, y, dy in zip(taps, values, by_values, strict=True):
            if (counts := counted(tap, inputs, targets)) is None:
                continue
            shares = saturated_and_dead(tap, y, counts)
            found["saturated"][tap.name], found["dead"][tap.name] = shares
            found["activations"][tap.name] = histogram(y, counts)
            found["activation_gradients"][tap.name] = histogram(dy, counts)
        trees = (jax.tree.leaves(tree) for tree in (grads, updates))
        data = jax.tree_util.tree_leaves_with_path(state.params)
        for (path, p), dp, update in zip(data, *trees, strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            # That of equal numbers is not 0 but what rounding makes of it.
            std = jnp.where(p.std() > 1e-6 * jnp.abs(p).max(), p.std(), jnp.nan)
            found["grad_to_data"][name] = dp.std() / std
            found["update_to_data"][name] = update.std() / std
            if p.ndim > 1:
                found["gradients"][name] = histogram(dp, jnp.ones((), bool))
        return found

    def diagnose(state: TrainState, batch: Batch, dropout_key: Array) -> dict[str, dict[str, Any]]:
        return jax.tree.map(_plain, jax.device_get(compute(state, batch, dropout_key)))

    return diagnose


def _plain(a: np.ndarray) -> float | list[int] | None:
    """A number, or counts, for JSON, which has no nan."""
    if a.ndim:
        return a.tolist()
    return float(a) if math.isfinite(a) else None
