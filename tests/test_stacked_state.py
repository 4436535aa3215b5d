"""Training steps on stacked layers: the same results, bit-exact resuming, the original tree."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import assert_close, assert_same, quick_of, small_config

from makemore_jax.assemble import create_model, programs
from makemore_jax.config import MeshConfig, OptimizerConfig
from makemore_jax.kernels.layer_loop import stack, unstack
from makemore_jax.kernels.layouts import Rows
from makemore_jax.parallel.mesh import make_mesh
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer

OPTIMIZERS = [
    OptimizerConfig(learning_rate=0.01, decay="matrices", weight_decay=0.5, grad_clip=0.5),
    OptimizerConfig("muon", learning_rate=0.01, decay="matrices", weight_decay=0.5),
    OptimizerConfig("sgd", learning_rate=0.01, weight_decay=0.5),
]
CASES = [(kind, optimizer) for optimizer in OPTIMIZERS for kind in ("transformer", "mixture")]
QUICK = [("transformer", OPTIMIZERS[0])]


def compile_run(names, kind, optimizer, **model_fields):
    """Return the functions () -> state and (state, number of steps) -> (state, metrics)."""
    config = replace(small_config(kind).model, networks=2 if kind == "mixture" else 1)
    model = create_model(replace(config, **model_fields), names.vocab.size, names.block_size)
    tx = make_optimizer(optimizer, steps=10)
    mesh = make_mesh(MeshConfig(data=1), 8, num_params=0)
    steps = programs.compile_steps(model, tx, 8, [Rows(names.block_size)], mesh)
    create = partial(state_lib.create, model, tx, jax.random.key(3), names.block_size)
    return create, lambda state, num: steps(state, names.splits["train"], jax.random.key(4), num)


@pytest.mark.parametrize(
    "case", quick_of(CASES, QUICK), ids=lambda case: f"{case[0]}-{case[1].name}"
)
def test_training_on_stacked_layers(case, names):
    """With a loop over layers, steps update all layers at once, and all networks of a mixture.

    After a call the state has its original tree.
    """
    results = []
    for layer_loop in "unroll", "scan":
        create, train = compile_run(names, *case, layer_loop=layer_loop)
        structure = jax.tree.structure(create())
        state, metrics = train(create(), 5)
        assert jax.tree.structure(state) == structure
        results.append(jax.tree_util.tree_leaves_with_path((state, metrics)))
    for (path, expected), (same_path, result) in zip(*results, strict=True):
        assert same_path == path
        # The gradients of keys' biases are zero except for rounding, which AdamW scales up.
        if "c_attn/bias" not in jax.tree_util.keystr(path, simple=True, separator="/"):
            assert_close(result, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.versions
def test_stacked_training_is_bit_exact_however_it_is_divided(names):
    """For a mixture with dropout that is trained by Muon, as in configs/shakespeare_best.py."""
    fields = {"layer_loop": "scan", "dropout": 0.3}
    create, train = compile_run(names, "mixture", OptimizerConfig("muon"), **fields)
    whole, _ = train(create(), 3)
    divided = create()
    for _ in range(3):
        divided, _ = train(divided, 1)
    assert_same(divided, whole)


def test_stacking():
    """It acts on every dict with such parts, also where the parts have no arrays."""
    layers = {"h_0": {"a": np.zeros(2)}, "h_1": {"a": np.ones(2)}, "h_x": np.ones(3)}
    tree = {"params": layers, "masked": {"h_0": {}, "h_1": {}, "head": {}}}
    stacked = stack(tree, "h")
    assert stacked["masked"] == {"h_stacked": {}, "head": {}}
    assert stacked["params"].keys() == {"h_stacked", "h_x"}
    assert_same(stacked["params"]["h_stacked"]["a"], np.array([[0, 0], [1, 1]]))
    assert_same(stack(stacked, "h"), stacked)
    assert_same(unstack(stacked, "h", 2), tree)
