"""microgpt: the published losses and names, and the same numbers in each of its forms."""

import random

import jax
import numpy as np
import pytest
from conftest import ROOT, enable_x64, published, run

from makemore_jax.data.lines import split_lines
from makemore_jax.lectures import microgpt, microgpt_numpy
from makemore_jax.lectures.microgpt import NUM_STEPS, Documents, Params

# Measured with the original in plain Python, on makemore's list.
LOSSES = {1: 3.3659669476, 2: 3.4242727839, 10: 3.2228882401, 1000: 2.6496944697}
NAMES = ["kamon", "ann", "karai", "jaire", "vialan", "karia", "yeran", "anna", "areli", "kaina"]


def start(lines: list[str]) -> tuple[Documents, Params, random.Random]:
    """Return the documents, the initial weights as lists, and the generator after both."""
    generator = random.Random(microgpt.SEED)
    documents = microgpt.shuffle(lines, generator)
    return documents, microgpt.init(generator, documents.bos + 1), generator


@pytest.mark.versions
def test_the_published_losses_and_names():
    with enable_x64(True):
        documents, lists, generator = start(split_lines(published("names").read_text("utf-8")))
        params = microgpt.as_arrays(lists)
        assert sum(a.size for a in params) == 4_192
        params, losses = microgpt.train(params, *microgpt.batches(documents, NUM_STEPS))
        assert losses.dtype == np.float64
        for step, expected in LOSSES.items():
            assert abs(losses[step - 1] - expected) < 1e-9, step
        names = [microgpt.sample(params, documents, generator) for _ in NAMES]
    assert names == NAMES


def test_all_forms_take_the_same_steps():
    """Each step of the scalar engine, NumPy by hand and jax.grad gives the same weights."""
    with enable_x64(True):
        documents, lists, _ = start(["aab", "ba", "cabd"])
        params = microgpt.as_arrays(lists)
        inputs, targets = microgpt.batches(documents, 3)
        _, losses = microgpt.train(params, inputs, targets)
        scalars = microgpt.init_state(lists)
        by_hand = microgpt.init_state(Params(*map(np.array, lists)))
        arrays, array_step = microgpt.init_state(params), jax.jit(microgpt.array_step)
        for i in range(3):
            line = microgpt.transitions(documents, i)
            scalars, scalar_loss = microgpt.scalar_step(scalars, i, *line)
            by_hand, numpy_loss = microgpt_numpy.step(by_hand, i, *line)
            arrays, loss = array_step(arrays, float(i), inputs[i], targets[i])
            assert np.ptp([scalar_loss, numpy_loss, loss, losses[i]]) < 1e-12
            for expected, *others in zip(
                arrays.params, by_hand.params, scalars.params, strict=True
            ):
                for other in others:
                    np.testing.assert_allclose(np.array(other), expected, rtol=0, atol=1e-12)


def test_a_line_is_cut_to_the_context():
    lines = ["aab", "cdefghijklmnopqrst"]
    documents = Documents(lines, "abcdefghijklmnopqrst")
    assert microgpt.transitions(documents, 0) == ([20, 0, 0, 1], [0, 0, 1, 20])
    inputs, targets = microgpt.transitions(documents, 3)  # the lines start again
    assert (len(inputs), inputs[:3], targets[-2:]) == (16, [20, 2, 3], [16, 17])
    inputs, targets = microgpt.batches(documents, 1)
    assert inputs[0].tolist() == [20, 0, 0, 1] + [0] * 12
    assert targets[0].tolist() == [0, 0, 1, 20] + [-1] * 12


@pytest.mark.slow
def test_the_command_prints_every_loss_and_twenty_names():
    done = run("-m", "makemore_jax.lectures.microgpt", "--data", ROOT / "names.txt")
    assert done.returncode == 0, done.stderr
    losses, names = done.stdout.split("\n\n")
    assert len(losses.splitlines()) == NUM_STEPS and len(names.splitlines()) == 20
    assert losses.startswith("step    1 loss 3.")
