"""Parity with PyTorch without torch: compare with the arrays of make_golden.py in float64."""

import jax
import numpy as np
import pytest
from conftest import FAMILIES, ROOT, enable_x64, make_batch_step, quick_of, set_sizes
from golden_sizes import SIZES, STEPS, optimizer_configs

from makemore_jax import models
from makemore_jax.assemble import create_model
from makemore_jax.config import ModelConfig
from makemore_jax.errors import UserError
from makemore_jax.losses import mean_loss
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.table import as_details, as_table
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState

pytestmark = pytest.mark.versions

CHANGED = "results changed: fix the code, or run tests/make_golden.py if this is intended"


def stored(kind: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "golden" / f"{kind}.npz") as arrays:
        return dict(arrays)


def part(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays under a name, as a state_dict."""
    name = f"{name}/"
    return {k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)}


def small(kind: str):
    config = ModelConfig(kind=kind)
    set_sizes(config, **SIZES)
    return create_model(config, SIZES["vocab_size"], SIZES["block_size"])


def max_difference(ours: dict, theirs: dict) -> float:
    """Return the largest difference, relative to the largest entry of its tensor."""
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max() for k in ours)


def differences(kind: str) -> dict[str, float]:
    """Return the differences from the stored arrays. Requires jax_enable_x64."""
    golden, model = stored(kind), small(kind)
    template = models.variable_shapes(model, SIZES["block_size"])["params"]
    tensors = weights.without_masks(part(golden, "weights"), kind, SIZES["block_size"])
    params = jax.tree.map(jax.numpy.asarray, weights.from_torch(tensors, template, kind))
    inputs, targets = golden["inputs"], golden["targets"]

    def loss_fn(params):
        logits = model.apply({"params": params}, inputs)
        return mean_loss(logits, targets), logits

    (loss, logits), gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    assert logits.dtype == np.float64
    result = {
        "logits": np.abs(logits - golden["logits"]).max(),
        "loss": np.abs(loss - golden["loss"]),
        "gradients": max_difference(weights.to_torch(gradients, kind), part(golden, "gradients")),
    }
    for name, config in optimizer_configs().items():
        optimizer = make_optimizer(config, STEPS)
        state = TrainState(jax.numpy.int32(0), params, optimizer.init(params))
        step = jax.jit(make_batch_step(model, optimizer))
        for known in golden[f"losses/{name}"]:
            state, metrics = step(state, (inputs, targets), jax.random.key(0))
            result[f"{name} loss"] = max(
                result.get(f"{name} loss", 0.0), abs(float(metrics["train_loss"]) - known)
            )
        result[name] = max_difference(weights.to_torch(state.params, kind), part(golden, name))
    return {name: float(value) for name, value in result.items()}


@pytest.mark.parametrize("kind", quick_of(FAMILIES, ["bigram", "mlp", "rnn"]))
def test_float64(kind):
    with enable_x64(True):
        measured = differences(kind)
    bounds = {"logits": 1e-12, "loss": 1e-12, "gradients": 1e-11}
    for name, value in measured.items():
        assert value <= bounds.get(name, 1e-9), f"{name} is off by {value}; {CHANGED}"
    assert len(measured) == 3 + 2 * len(optimizer_configs())


@pytest.mark.parametrize("kind", FAMILIES)
def test_float32(kind):
    """Use the same weights in the precision of training."""
    golden, model = stored(kind), small(kind)
    template = models.variable_shapes(model, SIZES["block_size"])["params"]
    tensors = weights.without_masks(part(golden, "weights"), kind, SIZES["block_size"])
    params = jax.tree.map(np.float32, weights.from_torch(tensors, template, kind))
    logits = jax.jit(model.apply)({"params": params}, golden["inputs"])
    assert logits.dtype == np.float32
    assert np.abs(logits - golden["logits"]).max() < 1e-5, CHANGED
    assert abs(mean_loss(logits, golden["targets"]) - golden["loss"]) < 1e-6, CHANGED


@pytest.mark.parametrize("kind", FAMILIES)
def test_conversion_and_back_keeps_every_bit(kind):
    tensors = part(stored(kind), "weights")
    parameters = weights.without_masks(tensors, kind, SIZES["block_size"])
    template = models.variable_shapes(small(kind), SIZES["block_size"])["params"]
    back = weights.to_torch(weights.from_torch(parameters, template, kind), kind)
    assert back.keys() == parameters.keys()
    for name, tensor in parameters.items():
        assert back[name].shape == tensor.shape
        assert back[name].tobytes() == tensor.tobytes()
    assert (len(tensors) > len(parameters)) == (kind in ("bow", "transformer"))  # with masks


def test_a_buffer_that_is_not_a_causal_mask_is_refused():
    masks = {"transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 3, 3)))}
    assert weights.without_masks(masks, "transformer", 3) == {}
    masks["transformer.h.0.attn.bias"][0, 0, 0, 2] = 1
    with pytest.raises(UserError, match="bias is not a causal mask"):
        weights.without_masks(masks, "transformer", 3)


def test_the_table_of_a_comparison():
    """It counts the continuations that agree and marks exceeded tolerances."""
    result = {
        "kind": "gru",
        "differences": {
            **dict.fromkeys(("logits", "loss", "gradients", "parameters", "loss_curve"), 1e-7),
            "continuations": 3,
            "compiled_gradients_1": 3e-6,
            "compiled_loss_curve_2": 4e-5,
        },
        "parameters_after": {1: 2e-6},
        "exceeded": ["loss", "compiled_loss_curve_2"],
    }
    cells = "1.0e-07 | 1.0e-07 (!) | 1.0e-07 | 2.0e-06 | 1.0e-07 | 7 of 10"
    one_step, compiled = (table.splitlines() for table in as_table([result]).split("\n\n"))
    assert one_step[-1] == f"| gru | {cells} |"
    assert compiled[0].startswith("| model | compiled, 1 device: gradients |")
    assert compiled[-1] == "| gru | 3.0e-06 | 4.0e-05 (!) |"
    result["milliseconds"], result["continuations"] = {"jax": 1.5, "torch": 2.25}, []
    result["differences"]["gradient_of_each"] = {}
    assert "one step at a time: JAX 1.50, PyTorch 2.25\n" in as_details(result)
