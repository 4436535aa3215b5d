"""What a sweep shows of its runs: table, picture, the best run, divergence."""

import numpy as np
import pytest
from report_helpers import axes_of

from makemore_jax import sweep
from makemore_jax.plots.sweep import draw_sweep
from makemore_jax.sweep import training
from makemore_jax.sweep.results import Result, Row


def result(rate, seed, best, last, trained=None):
    values = {"optimizer.learning_rate": rate, "model.n_embd2": 8}
    return Result(values, seed, 1.0, last, best, [1.0], trained)


def test_the_table_and_the_picture_name_the_lowest_mean(tmp_path):
    """Of the best losses; neither the lowest of one seed nor the last losses count."""
    runs = [result(0.1, 1, 2.0, 4.5), result(0.1, 2, 2.25, 4.5)]
    runs += [result(0.2, 1, 1.5, 3.5), result(0.2, 2, 3.5, 3.75)]
    rows = sweep.aggregate_seeds(runs)
    assert sweep.as_table(rows).splitlines()[2:] == [
        "| 0.1 | 8 | 2.1250 (best) | 2.0000 | 2.2500 |  |",
        "| 0.2 | 8 | 2.5000 | 1.5000 | 3.5000 |  |",
    ]
    (ax,) = axes_of(draw_sweep, rows, tmp_path / "sweep.png")
    assert ax.get_title() == "lowest mean: 2.1250 at 0.1"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["n_embd2 8"]


@pytest.mark.parametrize(("values", "scale"), [((4, 5), "linear"), ((1e-4, 1e-2), "log")])
def test_the_picture_has_the_range_of_the_seeds_and_a_fitting_scale(values, scale, tmp_path):
    rows = [Row({"optimizer.b1": value}, 2.0, 1.5, 2.75, 0, 3) for value in values]
    (ax,) = axes_of(draw_sweep, rows, tmp_path / "sweep.png")
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1.5, 2.75)
    assert ax.get_xscale() == scale


def test_the_best_run_has_the_lowest_loss_of_all_evaluations():
    runs = [result(0.1, 1, 2.0, 4.0, "run"), result(0.2, 1, 2.5, 2.5, "run")]
    assert sweep.best_run(runs) == runs[0]


def test_a_run_that_starts_above_uniform_guessing_has_not_diverged():
    """It has only if its last loss is also above its first."""
    losses = np.array([[9.0, 2.0], [5.0, 6.0]])  # after two calls, of two runs
    first, state = np.array([20.0, 3.0]), np.zeros(2)
    history = training.History(state, state, first, [10, 20], losses, [1, 2], [20], losses[1:])
    members = [{"optimizer.b1": b1, "seed": 1} for b1 in (0.1, 0.2)]
    results = training._make_results(members, history, vocab_size=27)
    assert [result.diverged for result in results] == [False, True]
