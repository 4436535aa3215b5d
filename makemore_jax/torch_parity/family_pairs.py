"""The pairs of each model family: initial values, parts, all positions, one position.

A new family is one entry in FAMILIES:

    "trigram": family("trigram", "Trigram"),

with the name of its file in `models/` and of its class, which is also the name of the PyTorch
class. Further pairs compare its parts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from makemore_jax.kernels import causal_mask, token_positions
from makemore_jax.models.modern import rotate
from makemore_jax.torch_parity.pairs import IDIOMS, Bounds, Code, Pair

REFERENCES = "torch_parity/models.py"

# The inputs of parts, as in `pairs.TOKENS`.
STREAM = "B T n_embd"
HIDDEN = "B n_embd2"
EMBEDDED = "B n_embd"


class Family(NamedTuple):
    """The pairs of a family: its initial values, its parts, all positions, one position."""

    about: str
    pairs: tuple[Pair, ...]


def read_by_steps(apply: Callable[..., Any], tokens: Array) -> Array:
    """Return the logits of each position, computed with the method `step`. (B, T) -> (B, T, V)"""

    def step(carry: Any, token: Array) -> tuple[Any, Array]:
        return apply("step", carry, token)

    carry = apply("init_carry", len(tokens))
    return jax.lax.scan(step, carry, tokens.T)[1].swapaxes(0, 1)


def family(
    file: str,
    cls: str,
    *parts: Pair,
    about: str = "",
    torch_init: tuple[str, ...] = (),
    init: tuple[str, ...] = (),
    torch_forward: tuple[str, ...] = (),
    forward: tuple[str, ...] = (),
    forward_elsewhere: tuple[Code, ...] = (),
    step: tuple[str, ...] = (),
    step_elsewhere: tuple[Code, ...] = (),
    folder: str = "models",
    init_differs: str = "",
    positions_about: str = "Training reads whole lines: tokens (B, T), logits (B, T, V).",
) -> Family:
    """Return the pairs of a family. The defaults are the methods of a class without a base class.

    `torch_init` and `torch_forward` name code of `torch_parity/models.py`, the others code of the
    family's file. `forward_elsewhere` and `step_elsewhere` are code of other files. `init_differs`
    says why the initial values of the two sides are not compared.
    """
    path = f"{folder}/{file}.py"
    first = Pair(
        "Initial values",
        (Code(REFERENCES, torch_init or (f"{cls}.__init__",)),),
        (Code(path, init or (f"{cls}.setup",)),),
        "`__init__` creates the parameters inside the module. `setup` only declares them; "
        "`model.init(key, tokens)` returns their values as a tree."
        f"{init_differs and ' ' + init_differs}",
        Bounds(output=None if init_differs else 0.1, gradient=None),
        measured_as="nothing" if init_differs else "initial_values",
        value="mean and standard deviation of many draws",
    )
    whole = Pair(
        "All positions",
        (Code(REFERENCES, torch_forward or (f"{cls}.forward",)),),
        (Code(path, forward or (f"{cls}.__call__",)), *forward_elsewhere),
        positions_about,
        run_torch=lambda module, tokens: module(tokens),
        run_jax=lambda apply, tokens: apply("__call__", tokens),
    )
    one = Pair(
        "One position",
        (Code(IDIOMS, ("next_logits",)),),
        (Code(path, step or (f"{cls}.init_carry", f"{cls}.step")), *step_elsewhere),
        "Sampling adds one token at a time. makemore computes the whole line again for each new "
        "character. In JAX, `step` reads one token and a carry, which holds what it needs of the "
        "tokens before. `step` is the body of a `lax.scan`.",
        run_torch=_read_by_prefixes,
        run_jax=read_by_steps,
    )
    return Family(about, (first, *parts, whole, one))


def _read_by_prefixes(module: Any, tokens: Any) -> Any:
    """Return the logits of each position, computed from the tokens up to it. (B, T, V)

    A family on windows has zeros before the first token.
    """
    import torch

    from makemore_jax.torch_parity.idioms import next_logits

    T, window = tokens.shape[1], getattr(module, "window", 1)
    tokens = torch.nn.functional.pad(tokens, (window - 1, 0))
    ends = range(window, window + T)
    return torch.stack([next_logits(module, tokens[:, :end], window + T) for end in ends], dim=1)


def _part(
    title: str,
    torch: tuple[str, ...],
    jax: tuple[str, ...],
    file: str,
    about: str,
    *,
    elsewhere: tuple[Code, ...] = (),
    **options: Any,
) -> Pair:
    """Return the pair of a part of a family. `elsewhere` has code in JAX from other files."""
    sides = (Code(REFERENCES, torch),), (Code(file, jax), *elsewhere)
    return Pair(title, *sides, about, **options)


def _recurrent_cell(cell: str, function: str, about: str, inputs: tuple[str, ...]) -> Pair:
    """Return the pair of a recurrent cell. The last input is the embedded token."""

    def run_torch(module: Any, *inputs: Any) -> Any:
        *state, x = inputs
        return module.cell(state[0] if len(state) == 1 else tuple(state), x)[1]

    def run_jax(apply: Callable[..., Array], *inputs: Array) -> Array:
        *state, x = inputs
        return apply(
            lambda m: m.cell_fn(
                m.cell.state_weights(),
                state[0] if len(state) == 1 else tuple(state),
                m.cell.input_projections(x),
            )[1]
        )

    return _part(
        "Cell",
        (f"{cell}.forward",),
        (function,),
        "models/recurrent.py",
        about,
        inputs=inputs,
        run_torch=run_torch,
        run_jax=run_jax,
    )


_RECURRENT = {
    "torch_forward": ("Recurrent.first_state", "Recurrent.forward"),
    "forward": (
        *("Recurrent.__call__", "Recurrent._inputs", "Recurrent.init_carry"),
        *("Cell.input_projections", "Cell.state_weights", "Cell._kernels"),
    ),
    "step": ("Recurrent.init_carry", "Recurrent.step"),
}

FAMILIES: dict[str, Family] = {
    "bigram": family("bigram", "Bigram", about="A table: row i has the logits after token i."),
    "bow": family(
        "bow",
        "BoW",
        _part(
            "Block",
            ("CausalAverage.forward", "ContextBlock.forward"),
            ("ContextBlock", "MLP"),
            "models/bow.py",
            "PyTorch computes the average inside the block, as attention with equal scores. In "
            "JAX it is an argument, because `step` keeps a running sum instead.",
            inputs=(STREAM,),
            run_torch=lambda module, x: module.context_block(x),
            run_jax=lambda apply, x: apply(lambda m: m.context_block(x, _causal_average(x))),
        ),
        about="The average of the embeddings so far, and an MLP.",
        torch_init=("BoW.__init__", "CausalAverage.__init__", "ContextBlock.__init__"),
    ),
    "mlp": family(
        "mlp",
        "MLP",
        about="The last `block_size` tokens and one hidden layer (Bengio et al. 2003).",
        forward=("MLP.__call__", "MLP._logits"),
    ),
    "cnn": family(
        "cnn",
        "CNN",
        _part(
            "Block",
            ("CausalConv.forward", "GatedBlock.forward"),
            ("CausalConv.__call__", "Block.__call__", "Block._gated"),
            "models/cnn.py",
            "A dilated convolution with two taps is a linear layer of two concatenated inputs.",
            inputs=(STREAM,),
            run_torch=lambda module, x: sum(a.sum(-1) for a in module.h[0](x)),
            run_jax=lambda apply, x: sum(a.sum(-1) for a in apply(lambda m: _cnn_block(m, x))),
            value="sum of both outputs over channels",
        ),
        about="Dilated causal convolutions with gates (WaveNet, van den Oord et al. 2016).",
        torch_init=("CausalConv.__init__", "GatedBlock.__init__", "CNN.__init__"),
        init=("CausalConv.setup", "Block.setup", "CNN.setup"),
        forward=("CNN.__call__", "CNN._logits"),
        step=(
            *("CausalConv.init_carry", "CausalConv.step", "Block.step"),
            *("CNN.init_carry", "CNN.step"),
        ),
    ),
    "rnn": family(
        "recurrent",
        "RNN",
        _recurrent_cell(
            "RNNCell",
            "rnn_cell",
            "PyTorch applies a linear layer to the concatenation [x, h]. JAX adds a product with "
            "x and a product with h, which is the same. The products with x do not depend on h, so "
            "they are computed for all positions before the loop over time, and the cell receives "
            "them instead of x.",
            (HIDDEN, EMBEDDED),
        ),
        about="The plain recurrent network. Its first state is a parameter.",
        torch_init=("RNNCell.__init__", "Recurrent.__init__", "RNN"),
        init=("RNN", "Recurrent.setup", "Cell.setup"),
        **_RECURRENT,
    ),
    "gru": family(
        "recurrent",
        "GRU",
        _recurrent_cell(
            "GRUCell",
            "gru_cell",
            "makemore's form: r resets h before the product. `torch.nn.GRU` and flax's `GRUCell` "
            "reset after it.",
            (HIDDEN, EMBEDDED),
        ),
        about="Gated recurrent units (Cho et al. 2014).",
        torch_init=("GRUCell.__init__", "Recurrent.__init__", "GRU"),
        init=("GRU", "Recurrent.setup", "Cell.setup"),
        **_RECURRENT,
    ),
    "lstm": family(
        "recurrent",
        "LSTM",
        _recurrent_cell(
            "LSTMCell",
            "lstm_cell",
            "The four gates are four linear layers in PyTorch and one product in JAX. The state is "
            "a pair (h, c).",
            (HIDDEN, HIDDEN, EMBEDDED),
        ),
        about="Long short-term memory (Graves 2013, without peephole connections).",
        torch_init=("LSTMCell.__init__", "Recurrent.__init__", "LSTM"),
        init=("LSTM", "Recurrent.setup", "Cell.setup"),
        **_RECURRENT,
    ),
    "transformer": family(
        "transformer",
        "Transformer",
        _part(
            "Attention",
            ("CausalSelfAttention.forward",),
            ("CausalSelfAttention.project", "CausalSelfAttention.__call__"),
            "models/transformer.py",
            "`kernels.attention` computes softmax(q k / sqrt(hs)) v with a causal mask. "
            "`prepend_previous_row` returns its input if every row is one line. A packed line "
            "may begin in the row before, whose keys and values it needs.",
            inputs=(STREAM,),
            run_torch=lambda module, x: module.transformer["h"][0].attn(x),
            run_jax=lambda apply, x: apply(
                lambda m: m.h[0].attn(x, causal_mask(x.shape[1], None), None, False)
            ),
        ),
        _part(
            "Block",
            ("Block.forward",),
            ("Block.__call__", "MLP"),
            "models/transformer.py",
            "The MLP is a part of the block in PyTorch and a module of its own in JAX. Both have "
            "the tanh form of GELU.",
            inputs=(STREAM,),
            run_torch=lambda module, x: module.transformer["h"][0](x),
            run_jax=lambda apply, x: apply(
                lambda m: m.h[0](x, causal_mask(x.shape[1], None), None, False)
            ),
        ),
        about="GPT-2's block (Radford et al. 2019).",
        torch_init=("CausalSelfAttention.__init__", "Block.__init__", "Transformer.__init__"),
        init=("BlockConfig", "CausalSelfAttention.setup", "Block.setup", "Transformer.setup"),
        forward=(
            *("Decoder.__call__", "Decoder._apply_blocks"),
            *("Transformer._embed", "Transformer._logits"),
        ),
        step=(
            *("CausalSelfAttention.step", "Block.step"),
            *("Decoder.init_carry", "Decoder.step"),
        ),
    ),
    "window_mlp": family(
        "window_mlp",
        "WindowMLP",
        about="The networks of the lectures, which read a window of characters.",
        torch_init=("BatchNorm.__init__", "WindowMLP.__init__"),
        init=("BatchNorm.setup", "WindowMLP.setup", "WindowMLP._num_joined"),
        torch_forward=("BatchNorm.forward", "WindowMLP.forward"),
        forward=("BatchNorm.__call__", "WindowMLP.__call__"),
        folder="windows",
        init_differs="The lectures improve the initial values from one network to the next. The "
        "PyTorch side has those of `torch.nn`, so the two sides can't be compared.",
        positions_about="Training reads windows of block_size tokens and predicts one token after "
        "each. A longer row of S tokens has S - block_size + 1 windows.",
    ),
    "modern": family(
        "modern",
        "Modern",
        _part(
            "Rotary positions",
            ("rotate",),
            ("rotate",),
            "models/modern.py",
            "PyTorch rotates complex numbers, JAX pairs of real ones. The input is one head.",
            inputs=(STREAM,),
            run_torch=lambda module, x: _torch_rotate(x),
            run_jax=lambda apply, x: apply(
                lambda m: rotate(x[:, :, None], token_positions(x, None))[:, :, 0]
            ),
        ),
        _part(
            "Block",
            ("rms_norm", "ModernAttention.forward", "ModernBlock.forward"),
            ("norm", "CausalSelfAttention", "MLP", "Block"),
            "models/modern.py",
            "Queries and keys are rotated and then normalized. No layer has a bias or a gain. In "
            "JAX, the methods of the block are those of the transformer's block. Attention "
            "overrides `setup` and `project`, and has no dropout on its weights.",
            elsewhere=(
                Code("models/transformer.py", ("CausalSelfAttention.__call__", "Block.__call__")),
            ),
            inputs=(STREAM,),
            run_torch=lambda module, x: module.h[0](x),
            run_jax=lambda apply, x: apply(
                lambda m: m.h[0](x, causal_mask(x.shape[1], None), None, False)
            ),
        ),
        about="The block of nanochat (Karpathy 2025): RMSNorm, rotary positions, normalized "
        "queries and keys, relu squared.",
        torch_init=("ModernAttention.__init__", "ModernBlock.__init__", "Modern.__init__"),
        init=("CausalSelfAttention.setup", "Block.setup", "Modern.setup"),
        forward=("Modern._embed", "Modern._logits"),
        forward_elsewhere=(
            Code("models/transformer.py", ("Decoder.__call__", "Decoder._apply_blocks")),
        ),
        step=("CausalSelfAttention.project",),
        step_elsewhere=(
            Code(
                "models/transformer.py",
                (
                    *("CausalSelfAttention.step", "Block.step"),
                    *("Decoder.init_carry", "Decoder.step"),
                ),
            ),
        ),
    ),
}


def _torch_rotate(x: Any) -> Any:
    from makemore_jax.torch_parity.models import rotate

    return rotate(x)


def _causal_average(x: Array) -> Array:
    """Return the average of the positions up to each one. (B, T, C) -> (B, T, C)"""
    count = token_positions(x, None)[..., None] + 1
    return x.cumsum(axis=1) / count


def _cnn_block(model: Any, x: Array) -> tuple[Array, Array]:
    return model.h[0](x, token_positions(x, None))
