"""The attention weights of the families transformer and modern."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makemore_jax.cli import sample_rules
from makemore_jax.data.lines import encode
from makemore_jax.decoding import LanguageModel


def attention_weights(lm: LanguageModel, names: list[str]) -> list[np.ndarray]:
    """Return the attention weights of each name: (n_layer, nh, T, T), T = characters + 1.

    Row t is a distribution over the tokens up to t. Token 0 is the start of the line. The list is
    empty for a model without attention (Vaswani et al. 2017, section 3.2.1). Raise UserError if a
    name is too long or has an unknown character.
    """
    sample_rules.check_lines(names, lm.vocab, lm.max_len, "names")
    outputs = capture_outputs(lm, names)
    if not outputs:
        return []
    by_layer = [_weights(*_queries_and_keys(layer, lm.model.n_head)) for layer in outputs]
    by_name = np.stack(by_layer, axis=1)  # (B, n_layer, nh, T, T)
    sizes = [len(name) + 1 for name in names]
    return [weights[..., :T, :T] for weights, T in zip(by_name, sizes, strict=True)]


def capture_outputs(lm: LanguageModel, names: list[str]) -> list[dict[str, Array]]:
    """Return outputs inside each attention block.

    The list has {"c_attn": (B, T, 3 C), "c_proj": (B, T, C)} for each layer. For the family modern,
    "project" takes the place of "c_attn": queries, keys and values, each (B, T, nh, hs).
    """
    params = lm.variables["params"]
    blocks = [f"h_{i}" for i in range(len(params))]
    blocks = [block for block in blocks if "attn" in params.get(block, {})]
    if not blocks:
        return []
    width = max(map(len, names)) + 1
    tokens, *_ = encode(names, lm.vocab, lm.max_len).take(jnp.arange(len(names)), width)

    def is_captured(module: Any, method: str) -> bool:
        return method == "project" or module.name in ("c_attn", "c_proj")

    @jax.jit
    def intermediates(variables: Any) -> Any:
        _, captured = lm.model.apply(
            variables,
            tokens,
            capture_intermediates=is_captured,
            mutable=["intermediates"],
        )
        return captured["intermediates"]

    captured = intermediates(lm.variables)
    return [
        {
            name: (output if name == "project" else output["__call__"])[0]
            for name, output in captured[block]["attn"].items()
        }
        for block in blocks
    ]


def _queries_and_keys(outputs: dict[str, Any], n_head: int) -> tuple[Array, Array]:
    """Return (B, T, nh, hs) each."""
    if "project" in outputs:
        return outputs["project"][:2]
    q, k, _ = jnp.split(outputs["c_attn"], 3, axis=-1)
    return tuple(a.reshape(*a.shape[:2], n_head, -1) for a in (q, k))


@jax.jit
def _weights(q: Array, k: Array) -> Array:
    """(B, T, nh, hs) each -> (B, nh, T, T)"""
    T = q.shape[1]
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf))
