"""Tap the nonlinearities of a function: read their values, and differentiate with respect to them.

The function is traced to a jaxpr, which is evaluated equation by equation. Zeros are added to the
output of each nonlinearity. The gradient with respect to these zeros is the gradient with respect
to the activations.

The nonlinearities are tanh, sigmoid, erf and ReLU. GELU is x (1 + tanh(...)) / 2 and SiLU is
x sigmoid(x), so their taps show the gate. A unit with a gate that is closed for all tokens is
always 0, like a dead ReLU; a unit with a gate that is open for all tokens is linear.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core


class Squashing(NamedTuple):
    """A nonlinearity with values in center - radius .. center + radius."""

    name: str
    center: float
    radius: float


SQUASHING = {  # by primitive
    "tanh": Squashing("tanh", 0.0, 1.0),
    "logistic": Squashing("sigmoid", 0.5, 0.5),
    "erf": Squashing("erf", 0.0, 1.0),
    "erfc": Squashing("erf", 1.0, 1.0),  # 1 - erf; the exact GELU uses it
}
# Primitives that run a jaxpr once, without changes.
WRAPPERS = {
    *("jit", "pjit", "closed_call", "checkpoint", "remat2"),
    *("custom_jvp_call", "custom_vjp_call"),
}


class Tap(NamedTuple):
    """A nonlinearity in a jaxpr, and the shape of its values."""

    name: str  # module and function, such as "h_0.mlp tanh"
    primitive: str
    shape: tuple[int, ...]
    dtype: Any
    num_stacked: int  # number of leading axes that scans have stacked


def trace(
    function: Callable[..., Any], *args: Any
) -> tuple[list[Tap], Callable[..., tuple[Any, list[Array]]]]:
    """Return the taps of function(*args) in program order, and a tapped version of the function.

    The tapped function maps (add, *args) to (function(*args), values) for args of these shapes.
    `add` has an array for each tap, which is added to the values of the tap. Branches and `while`
    loops have no taps. A function with a custom gradient keeps it, unless there are taps inside:
    then JAX differentiates its primal computation.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(*args)

    def tapped(add: Sequence[Array], *args: Any) -> tuple[Any, list[Array]]:
        outs, values = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), add)
        return jax.tree.unflatten(jax.tree.structure(out), outs), values

    return _number_repeated_names(_find_taps(closed.jaxpr)), tapped


def _number_repeated_names(taps: list[Tap]) -> list[Tap]:
    """Append 1, 2, ... to names that occur more than once."""
    total, so_far = Counter(tap.name for tap in taps), Counter()
    numbered = []
    for tap in taps:
        so_far[tap.name] += 1
        is_repeated = total[tap.name] > 1
        numbered.append(tap._replace(name=f"{tap.name} {so_far[tap.name]}") if is_repeated else tap)
    return numbered


def _find_taps(jaxpr: core.Jaxpr, path: tuple[str, ...] = ()) -> list[Tap]:
    """Return the taps of a jaxpr. `path` are the scopes that contain it."""
    return [tap for eqn in jaxpr.eqns for tap in _taps_of(eqn, path)]


def _taps_of(eqn: core.JaxprEqn, path: tuple[str, ...] = ()) -> list[Tap]:
    # The name stack has the model's class, then modules, each followed by its method, such as
    # "h_0._gated", and transforms of jax, which are not scopes.
    stack = eqn.source_info.name_stack.stack
    path += tuple(scope.name for scope in stack if type(scope).__name__ == "Scope")
    if primitive := _nonlinearity(eqn):
        module = ".".join(name for name in path[1:] if "." not in name)
        function = SQUASHING[primitive].name if primitive in SQUASHING else "relu"
        out = eqn.outvars[0].aval
        return [Tap(f"{module} {function}".strip(), primitive, out.shape, out.dtype, 0)]
    if eqn.primitive.name == "scan":
        num = eqn.params["length"]
        taps = _find_taps(eqn.params["jaxpr"].jaxpr, path)
        return [t._replace(shape=(num, *t.shape), num_stacked=t.num_stacked + 1) for t in taps]
    inner = _wrapped_jaxpr(eqn)
    return _find_taps(inner.jaxpr, path) if inner else []


def _wrapped_jaxpr(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Return the jaxpr that an equation wraps, or None."""
    if eqn.primitive.name not in WRAPPERS:
        return None
    inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _nonlinearity(eqn: core.JaxprEqn) -> str | None:
    """Return the primitive if an equation is a nonlinearity or wraps only one, like jax.nn.relu."""
    if inner := _wrapped_jaxpr(eqn):
        return _nonlinearity(inner.eqns[0]) if len(inner.eqns) == 1 else None
    name = eqn.primitive.name
    if name == "max" and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        literals = [v.val for v in eqn.invars if isinstance(v, core.Literal)]
        return name if any(value == 0 for value in literals) else None
    return name if name in SQUASHING else None


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], add: Sequence[Array]
) -> tuple[list[Any], list[Array]]:
    """Evaluate a jaxpr with `add` added at its taps. Return its outputs and the tapped values."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    values: list[Array] = []
    for eqn in jaxpr.eqns:
        inputs, num_taps = [read(v) for v in eqn.invars], len(_taps_of(eqn))
        eqn_add, add = add[:num_taps], add[num_taps:]
        eqn_values: list[Array] = []
        if not num_taps:
            outs = _bind(eqn, inputs)
        elif _nonlinearity(eqn):
            # Keep the wrapper: the custom gradient of jax.nn.relu is 0 at 0.
            outs = eqn_values = [_bind(eqn, inputs)[0] + eqn_add[0]]
        elif eqn.primitive.name == "scan":
            outs, eqn_values = _evaluate_scan(eqn, inputs, eqn_add)
        else:
            inner = _wrapped_jaxpr(eqn)
            outs, eqn_values = _evaluate(inner.jaxpr, inner.consts, inputs, eqn_add)
        values += eqn_values
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars], values


def _evaluate_scan(
    eqn: core.JaxprEqn, inputs: list[Any], add: Sequence[Array]
) -> tuple[list[Any], list[Array]]:
    """Evaluate a scan that also scans over `add` and stacks the values at its taps."""
    p = eqn.params
    closed = p["jaxpr"]

    def num_axes(variables: Sequence[Any]) -> list[int]:
        return [len(v.aval.shape) for v in variables]

    # Scanned variables have one axis less inside. The parameters that give these numbers directly
    # differ between versions of jax.
    inside, outside = num_axes(closed.jaxpr.invars), num_axes(eqn.invars)
    num_unscanned = sum(n == m for n, m in zip(inside, outside, strict=True))  # consts and carry
    inside, outside = num_axes(closed.jaxpr.outvars), num_axes(eqn.outvars)
    num_carry = sum(n == m for n, m in zip(inside, outside, strict=True))
    num_consts = num_unscanned - num_carry

    def body(carry: list[Any], x: tuple[list[Any], list[Array]]) -> tuple[list[Any], Any]:
        scanned, step_add = x
        args = [*inputs[:num_consts], *carry, *scanned]
        outs, values = _evaluate(closed.jaxpr, closed.consts, args, step_add)
        return outs[:num_carry], (outs[num_carry:], values)

    start, xs = inputs[num_consts:num_unscanned], (inputs[num_unscanned:], list(add))
    carry, (ys, values) = jax.lax.scan(body, start, xs, p["length"], p["reverse"], p["unroll"])
    return [*carry, *ys], values


def _bind(eqn: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Compute one equation."""
    params, functions = eqn.primitive.get_bind_params(eqn.params), ()
    if isinstance(params, tuple):  # older versions of jax
        functions, params = params
    outs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]
