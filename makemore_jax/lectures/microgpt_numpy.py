"""The gradients of microgpt by hand, in NumPy.

This is what jax.grad derives from `microgpt.loss`. Each line of the backward pass undoes one line
of the forward pass, in reverse order. `python -m benchmarks.microgpt` measures its speed.
"""

from collections.abc import Sequence

import numpy as np

from makemore_jax.lectures.microgpt import (
    HEAD_SIZE,
    N_EMBD,
    N_HEAD,
    NORM_EPSILON,
    Params,
    State,
    adam,
)


def _norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x divided by its root mean square, and the factor. (T, C) -> (T, C), (T, 1)"""
    scale = (np.mean(x * x, axis=-1, keepdims=True) + NORM_EPSILON) ** -0.5
    return x * scale, scale


def _norm_backward(dy: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the gradient of the input, given the output y = x * scale and its gradient."""
    return scale * (dy - y * np.mean(y * dy, axis=-1, keepdims=True))


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _split_heads(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), N_HEAD, HEAD_SIZE).transpose(1, 0, 2)  # (T, C) -> (nh, T, hs)


def _join_heads(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 0, 2).reshape(-1, N_EMBD)  # (nh, T, hs) -> (T, C)


def loss_and_grads(
    params: Params, inputs: Sequence[int], targets: Sequence[int]
) -> tuple[float, Params]:
    """Return the loss of one line and its gradients. The lists have no padding."""
    wte, wpe, lm_head, wq, wk, wv, wo, fc1, fc2 = params
    T = len(inputs)
    rows = np.arange(T)

    x0, scale0 = _norm(wte[inputs] + wpe[:T])  # (T, C)
    h1, scale1 = _norm(x0)
    q, k, v = (_split_heads(h1 @ w.T) for w in (wq, wk, wv))
    scores = q @ k.transpose(0, 2, 1) / HEAD_SIZE**0.5  # (nh, T, T)
    weights = _softmax(np.where(np.tri(T, dtype=bool), scores, -np.inf))
    y = _join_heads(weights @ v)
    x1 = x0 + y @ wo.T
    h2, scale2 = _norm(x1)
    hidden = np.maximum(h2 @ fc1.T, 0)  # (T, 4 C)
    x2 = x1 + hidden @ fc2.T
    probabilities = _softmax(x2 @ lm_head.T)  # (T, V)
    loss = -np.log(probabilities[rows, targets]).mean()

    dlogits = probabilities.copy()
    dlogits[rows, targets] -= 1
    dlogits /= T
    dx2 = dlogits @ lm_head
    dhidden = (dx2 @ fc2) * (hidden > 0)
    dx1 = dx2 + _norm_backward(dhidden @ fc1, h2, scale2)
    dy = _split_heads(dx1 @ wo)
    dweights = dy @ v.transpose(0, 2, 1)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    dscores /= HEAD_SIZE**0.5
    dq, dk = _join_heads(dscores @ k), _join_heads(dscores.transpose(0, 2, 1) @ q)
    dv = _join_heads(weights.transpose(0, 2, 1) @ dy)
    dx0 = dx1 + _norm_backward(dq @ wq + dk @ wk + dv @ wv, h1, scale1)
    dembedded = _norm_backward(dx0, x0, scale0)
    dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    np.add.at(dwte, inputs, dembedded)  # a token may occur more than once
    dwpe[:T] = dembedded
    return loss, Params(
        dwte,
        dwpe,
        lm_head=dlogits.T @ x2,
        wq=dq.T @ h1,
        wk=dk.T @ h1,
        wv=dv.T @ h1,
        wo=dx1.T @ y,
        fc1=dhidden.T @ h2,
        fc2=dx2.T @ hidden,
    )


def step(
    state: State, step: int, inputs: Sequence[int], targets: Sequence[int]
) -> tuple[State, float]:
    """Take a training step. The state has NumPy arrays."""
    loss, gradients = loss_and_grads(state.params, inputs, targets)
    return adam(state, gradients, step), float(loss)
