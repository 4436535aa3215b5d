"""Manual gradients: each equals that of jax.grad, and training with them is equal, too."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close, published, run

from makemore_jax.lectures import backprop
from makemore_jax.losses import mean_loss

B, T, C, H, V = 7, 3, 5, 11, 13
SMALL = partial(backprop.init, vocab_size=V, block_size=T, n_embd=C, n_hidden=H)
NAMES = [*backprop.Intermediates._fields, *backprop.Params._fields]
SHORT = [f"{name}, short" for name in ("logits", "hprebn", *backprop.Params._fields)]


def batch(size=B, vocab_size=V):
    x_key, y_key = jax.random.split(jax.random.key(1))
    x = jax.random.randint(x_key, (size, T), 0, vocab_size)
    return x, jax.random.randint(y_key, (size,), 0, vocab_size)


def measure():
    """Return differences for a small model, the lecture's, and one with tiny batch variances."""
    small = SMALL(jax.random.key(0))
    flat = small._replace(W1=small.W1 * 2e-3)  # variances of the size of the epsilon
    return {
        "small": backprop.differences(small, *batch()),
        "lecture": backprop.differences(backprop.init(jax.random.key(0)), *batch(32, 27)),
        "flat": backprop.differences(flat, *batch()),
    }


MEASURE = """
import json, sys
sys.path.insert(0, "tests")
from test_backprop import measure
print(json.dumps(measure()))
"""


def check(measured, bound):
    for model, differences in measured.items():
        assert sorted(differences) == sorted(NAMES + SHORT)
        for name, difference in differences.items():
            assert difference <= bound, f"{name} of {model}: {difference}"


@pytest.mark.slow
def test_every_gradient_in_float32():
    measured = measure()
    check({"flat": measured.pop("flat")}, 1e-5)  # dividing by a tiny variance costs a digit
    check(measured, 1e-6)


def test_every_gradient_in_float64():
    done = run("-c", MEASURE, JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured.keys() == {"small", "lecture", "flat"}
    check(measured, 1e-12)
    assert max(measured["lecture"].values()) > 0  # nonzero, as they are computed in two ways


@pytest.mark.slow
def test_gradients_have_the_shapes_of_their_variables():
    params, (x, y) = SMALL(jax.random.key(0)), batch()
    loss, saved = jax.jit(backprop.forward)(params, x, y)
    by_params, by_saved = jax.jit(backprop.backward)(params, x, y, saved)
    for values, gradients in ((params, by_params), (saved, by_saved)):
        for name in values._fields:
            assert getattr(values, name).shape == getattr(gradients, name).shape, name
    assert saved.loss == loss and by_saved.loss == 1
    assert saved.emb.shape == (B, T, C) and saved.h.shape == (B, H) and saved.probs.shape == (B, V)
    # Only these two gradients are zero up to rounding.
    for name, a in (by_params._asdict() | by_saved._asdict()).items():
        assert (float(jnp.abs(a).max()) < 1e-6) == (name in ("b1", "logit_maxes")), name


@pytest.mark.slow
def test_the_loss_is_the_cross_entropy():
    params, (x, y) = SMALL(jax.random.key(0)), batch()
    loss, saved = jax.jit(backprop.forward)(params, x, y)
    assert_close(loss, mean_loss(saved.logits, y), 1e-6)
    assert_close(saved.probs, jax.nn.softmax(saved.logits), 1e-6)
    assert_close(saved.bnraw.mean(axis=0), np.zeros(H), 1e-6)
    assert_close(saved.bnraw.var(axis=0, ddof=1), np.ones(H), 1e-3)  # the epsilon makes it smaller
    with pytest.raises(ValueError, match=r"^1 windows; batch norm needs two or more$"):
        backprop.forward(params, x[:1], y[:1])


def test_gradient_of_equal_logits():
    dlogits = backprop.cross_entropy_backward(jnp.zeros((2, 4)), jnp.array([3, 0]))
    expected = np.array([[1, 1, 1, -3], [-3, 1, 1, 1]]) / 8
    assert_close(dlogits, expected, 1e-6)


@pytest.mark.slow
def test_training_with_manual_gradients_equals_training_with_jax():
    """300 steps on names give the same losses and parameters, and the losses fall."""
    splits, vocab = backprop.load(str(ROOT / "names.txt"))
    split = splits["train"]

    def by_jax(params, x, y):
        (loss, _), grads = jax.value_and_grad(backprop.forward, has_aux=True)(params, x, y)
        return loss, grads

    start, key = backprop.init(jax.random.key(3), vocab.size), jax.random.key(4)
    params, losses = backprop.train(start, key, split, steps=300)
    plain, plain_losses = backprop.train(start, key, split, steps=300, loss_and_grads=by_jax)
    assert losses.shape == (300,)
    assert_close(losses, plain_losses, 1e-5)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), params, plain)
    assert losses[:20].mean() > 3 and losses[-50:].mean() < 2.7
    for name, new, old in zip(params._fields, params, start, strict=True):
        assert (float(jnp.abs(new - old).max()) > 1e-3) == (name != "b1"), name

    x, y = (a[:10_000] for a in split)
    before, after = (
        backprop.evaluate(p, backprop.calibrate(p, x), (x, y)) for p in (start, params)
    )
    assert before > 3 and after < 2.7


def test_the_learning_rate_falls_halfway():
    """With all gradients 1, the parameters show the sum of the learning rates."""
    split, zeros = batch(), jax.tree.map(jnp.zeros_like, SMALL(jax.random.key(0)))

    def ones(params, x, y):
        return jnp.float32(0), jax.tree.map(jnp.ones_like, params)

    for steps, expected in ((1, 0.1), (2, 0.11), (10, 0.55)):
        params, _ = backprop.train(zeros, jax.random.key(0), split, steps, loss_and_grads=ones)
        assert float(params.b2[0]) == pytest.approx(-expected)


def test_evaluation_with_batch_statistics_equals_the_training_loss():
    params, (x, y) = SMALL(jax.random.key(0)), batch()
    loss, saved = jax.jit(backprop.forward)(params, x, y)
    statistics = backprop.calibrate(params, x)
    assert_close(statistics.mean, saved.bnmeani, 1e-6)
    assert_close(statistics.variance, saved.bnvar, 1e-6)
    assert_close(backprop.evaluate(params, statistics, (x, y)), loss, 1e-6)


@pytest.mark.slow
def test_sizes_of_the_lecture():
    splits, vocab = backprop.load(str(published("names")))
    assert {name: len(y) for name, (_, y) in splits.items()} == {"train": 182_625, "dev": 22_655}
    assert splits["train"][0].shape == (182_625, 3)
    words = published("names").read_text("utf-8").split()
    assert sum(len(word) + 1 for word in words) - 182_625 - 22_655 == 22_866
    assert vocab.size == 27
    assert backprop.count_params(backprop.init(jax.random.key(0))) == 12_297


@pytest.mark.slow
def test_command(tmp_path, capsys, monkeypatch):
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    monkeypatch.setattr(pictures.plt, "close", lambda figure: None)
    backprop.main(["--data", str(ROOT / "names.txt"), "--steps", "20", "--out", str(tmp_path)])
    monkeypatch.undo()
    printed = capsys.readouterr().out
    for name in NAMES + SHORT:
        assert f"\n  {name} " in printed
    assert "\n12,297 parameters\n" in printed
    *_, losses, files = printed.splitlines()
    shown = re.fullmatch(r"train (3\.\d{4}), dev (3\.\d{4}) after \d+\.\d s", losses).groups()
    splits, vocab = backprop.load(str(ROOT / "names.txt"))
    init_key, _, train_key = jax.random.split(jax.random.key(0), 3)
    params = backprop.init(init_key, vocab.size)
    params, _ = backprop.train(params, train_key, splits["train"], 20)
    statistics = backprop.calibrate(params, splits["train"][0])  # of all windows
    expected = [backprop.evaluate(params, statistics, split) for split in splits.values()]
    np.testing.assert_allclose([float(loss) for loss in shown], expected, atol=1e-4)
    assert files == (
        f"{tmp_path / 'dlogits.png'} shows the gradient with respect to the logits, "
        f"{tmp_path / 'losses.png'} the losses"
    )
    for file in ("dlogits.png", "losses.png"):
        assert pictures.plt.imread(tmp_path / file).shape[1] == 1_000

    of_gradient, of_losses = map(pictures.plt.figure, pictures.plt.get_fignums())
    shown = of_gradient.axes[0].images[0].get_array()
    assert shown.shape == (32, 27)
    assert ((shown > 0).sum(axis=1) == 1).all()  # only the target's entry is positive
    assert_close(32 * shown.sum(axis=1), np.zeros(32), 1e-5)
    # The pair of each row's last character and its target occurs in the list.
    rows = [text.get_text() for text in of_gradient.axes[0].get_yticklabels()]
    columns = [text.get_text() for text in of_gradient.axes[0].get_xticklabels()]
    text = "...".join(["", *(ROOT / "names.txt").read_text("utf-8").split(), ""])
    for row, column in zip(rows, shown.argmax(axis=1), strict=True):
        assert row + columns[column] in text
    means, drop = of_losses.axes[0].lines
    assert means.get_ydata().shape == (20,) and drop.get_xdata() == [10, 10]
    pictures.plt.close("all")


def test_picture_of_losses(tmp_path, monkeypatch):
    """451 losses give means of two; the last loss, which has no pair, is left out."""
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    monkeypatch.setattr(pictures.plt, "close", lambda figure: None)
    pictures.losses(np.arange(451.0), 226, (0.3, 0.07), tmp_path / "losses.png")
    monkeypatch.undo()
    ax = pictures.plt.gcf().axes[0]
    means, drop = ax.lines
    np.testing.assert_array_equal(means.get_xdata(), np.arange(1, 451, 2))
    np.testing.assert_array_equal(means.get_ydata(), np.arange(0.5, 450, 2))
    assert list(drop.get_xdata()) == [226, 226]
    assert [text.get_text() for text in ax.texts] == ["learning rate 0.3", "0.07"]
    assert ax.get_title() == "training loss, mean of each 2 steps"
    pictures.plt.close("all")


def test_mistakes_give_one_line(tmp_path, capsys):
    few = tmp_path / "few.txt"
    few.write_text("ab\n" * 5, "utf-8")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("zoë\n".encode("latin-1"))
    names = str(ROOT / "names.txt")
    for arguments, message in (
        (
            ["--data", str(ROOT / "names.tx")],
            f"--data: {ROOT / 'names.tx'} does not exist; did you mean {names}?",
        ),
        (
            ["--data", str(few)],
            f"--data: {few} has 5 lines, too few: the lecture split leaves none for dev",
        ),
        (["--data", str(latin)], f"--data: {latin} is not utf-8 at byte 2; convert it"),
        (
            ["--data", names, "--out", str(few)],
            f"--out: {few / 'dlogits.png'} can't be written: ",
        ),
        (["--steps", "0"], "--steps: 0 must be from 1 to 2147483647"),
        (["--steps", "x"], "argument --steps: invalid int value: 'x'"),
        (["--what"], "unrecognized arguments: --what"),
    ):
        with pytest.raises(SystemExit) as exit:
            backprop.main(arguments)
        assert exit.value.code == 2
        printed, errors = capsys.readouterr()
        (line,) = errors.splitlines()
        assert (printed, line[: len(message) + 10]) == ("", f"backprop: {message}")


@pytest.mark.slow
def test_a_gradient_that_differs_is_named(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(backprop, "differences", lambda *arguments: {"h": 1e-7, "W1": 1e-5})
    with pytest.raises(SystemExit) as exit:
        backprop.main(["--data", str(ROOT / "names.txt"), "--steps", "1", "--out", str(tmp_path)])
    assert exit.value.code == 1
    assert capsys.readouterr().err == "backprop: gradients differ too much: W1\n"
