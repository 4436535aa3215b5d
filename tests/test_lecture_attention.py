"""The lecture's versions of attention, compared with each other and with the transformer."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

from makemore_jax import kernels
from makemore_jax.cli import missing_device
from makemore_jax.lectures import attention, backprop, bigram_counts
from makemore_jax.lectures import command as lecture_command
from makemore_jax.lectures.attention import (
    Head,
    attention_weights,
    average_by_loop,
    average_by_product,
    average_by_softmax,
    causal_mask,
    cross_attention,
    init_head,
    measure_scores,
    self_attention,
)
from makemore_jax.models.transformer import BlockConfig, CausalSelfAttention

B, T, S, C, HS = 3, 5, 11, 7, 13
X = jax.random.normal(jax.random.key(0), (B, T, C))
SOURCE = jax.random.normal(jax.random.key(1), (B, S, C))
HEAD = init_head(jax.random.key(2), C, HS)
AVERAGE = Head(jnp.zeros((C, HS)), jnp.zeros((C, HS)), jnp.eye(C))


def attend(x):
    return self_attention(HEAD, x, causal_mask(x.shape[1]))


def average_by_attention(x):
    return self_attention(AVERAGE, x, causal_mask(x.shape[1]))


AVERAGES = [average_by_loop, average_by_product, average_by_softmax, average_by_attention]


@pytest.mark.parametrize("average", AVERAGES)
def test_averages_match_numpy(average):
    x = np.asarray(X)
    expected = np.cumsum(x, axis=1) / np.arange(1, T + 1)[:, None]
    assert_close(average(X), expected, 1e-6)
    assert_close(average(X[:, :1]), x[:, :1], 1e-6)


@pytest.mark.parametrize("version", [*AVERAGES, attend])
def test_later_positions_change_no_earlier_output(version):
    for t in range(1, T):
        changed = version(X.at[:, t:].add(1.0))
        np.testing.assert_array_equal(changed[:, :t], version(X)[:, :t])
        assert (jnp.abs(changed[:, t:] - version(X)[:, t:]).max(axis=(0, 2)) > 0.01).all()


def test_attention_is_not_uniform():
    """Random queries and keys give unequal weights, and 0 to masked positions."""
    weights = attention_weights(X @ HEAD.query, X @ HEAD.key, causal_mask(T))
    assert weights.shape == (B, T, T)
    assert_close(weights.sum(axis=-1), np.ones((B, T)), 1e-6)
    assert (weights[:, ~causal_mask(T)] == 0).all()
    assert float(jnp.abs(weights[:, -1] - 1 / T).max()) > 0.1
    assert_close(attend(X), weights @ X @ HEAD.value, 1e-6)


def test_without_a_mask_attention_ignores_the_order():
    """Without a mask, permuting the inputs permutes the outputs; with a causal mask it does not."""
    order = jnp.array([3, 0, 4, 1, 2])
    assert_close(self_attention(HEAD, X[:, order]), self_attention(HEAD, X)[:, order], 1e-6)
    assert float(jnp.abs(attend(X[:, order]) - attend(X)[:, order]).max()) > 0.1
    full_mask = jnp.ones((T, T), bool)
    assert_close(self_attention(HEAD, X, full_mask), self_attention(HEAD, X), 1e-6)


def test_cross_attention():
    y = cross_attention(HEAD, X, SOURCE)
    assert y.shape == (B, T, HS)
    q, k, v = (np.asarray(a) for a in (X @ HEAD.query, SOURCE @ HEAD.key, SOURCE @ HEAD.value))
    for b in range(B):
        for t in range(T):
            by_key = np.exp([q[b, t] @ k[b, s] / np.sqrt(HS) for s in range(S)])
            assert_close(y[b, t], by_key / by_key.sum() @ v[b], 1e-6)
    # The order of the source does not matter; its content does.
    assert_close(cross_attention(HEAD, X, SOURCE[:, ::-1]), y, 1e-6)
    assert float(jnp.abs(cross_attention(HEAD, X, -SOURCE) - y).max()) > 0.1


def test_cross_attention_with_a_mask_for_each_row():
    """The mask (B, T, S) hides the padding after the end of each row."""
    ends = jnp.array([11, 6, 1])
    mask = jnp.broadcast_to(jnp.arange(S) < ends[:, None, None], (B, T, S))
    y = cross_attention(HEAD, X, SOURCE, mask)
    for b, end in enumerate(ends.tolist()):
        alone = cross_attention(HEAD, X[b : b + 1], SOURCE[b : b + 1, :end])
        assert_close(y[b : b + 1], alone, 1e-6)


@pytest.mark.parametrize("mask", [None, causal_mask(T)])
def test_cross_attention_to_itself_is_self_attention(mask):
    assert_close(cross_attention(HEAD, X, X, mask), self_attention(HEAD, X, mask), 1e-6)


@pytest.mark.slow
def test_one_head_matches_the_transformer():
    """Compare values and gradients with CausalSelfAttention at n_head=1, with its projection."""
    head = init_head(jax.random.key(3), C, C)
    c_proj = jax.random.normal(jax.random.key(4), (C, C))
    mix = jax.random.normal(jax.random.key(5), (B, T, C))
    layer = CausalSelfAttention(BlockConfig(n_head=1, n_embd=C))

    def by_layer(head, c_proj, x):
        c_attn = jnp.concatenate([head.query, head.key, head.value], axis=1)
        params = {
            "c_attn": {"kernel": c_attn, "bias": jnp.zeros(3 * C)},
            "c_proj": {"kernel": c_proj, "bias": jnp.zeros(C)},
        }
        return layer.apply({"params": params}, x, kernels.causal_mask(T, None), None, False)

    def by_head(head, c_proj, x):
        return self_attention(head, x, causal_mask(T)) @ c_proj

    assert_close(by_head(head, c_proj, X), by_layer(head, c_proj, X), 1e-6)
    result, expected = (
        jax.grad(lambda *args, f=f: (f(*args) * mix).sum(), (0, 1, 2))(head, c_proj, X)
        for f in (by_head, by_layer)
    )
    jax.tree.map(lambda a, b: assert_close(a, b, 3e-6), result, expected)


@pytest.mark.parametrize("head_size", [1, 16, 256])
def test_scaling_keeps_the_variance_at_1(head_size):
    plain, scaled = (
        float(measure_scores(jax.random.key(6), head_size, s).variance) for s in (False, True)
    )
    assert plain / head_size == pytest.approx(1, abs=0.1)
    assert scaled == pytest.approx(1, abs=0.1)
    assert plain == pytest.approx(head_size * scaled, rel=1e-5)


def test_scaling_keeps_softmax_soft():
    """Without scaling, larger heads attend to fewer keys; with it the size hardly matters."""
    sizes = (1, 16, 256)
    plain, scaled = (
        [measure_scores(jax.random.key(7), size, s) for size in sizes] for s in (False, True)
    )
    assert plain[0].entropy > plain[1].entropy > plain[2].entropy
    assert plain[0].largest < plain[1].largest < plain[2].largest
    assert plain[2].largest > 0.9 and plain[2].entropy < 0.2
    assert all(result.largest < 0.45 and result.entropy > 1.5 for result in scaled)
    assert scaled[0] == plain[0]  # a head of size 1 is scaled by 1


def test_a_single_key_has_weight_1():
    result = measure_scores(jax.random.key(8), 4096, True, num_queries=50, num_keys=1)
    assert (float(result.entropy), float(result.largest)) == (0, 1)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return the lines that the command prints, the file that it writes, and its axes."""
    pictures = pytest.importorskip("makemore_jax.lectures.pictures")
    file = tmp_path_factory.mktemp("attention") / "new" / "attention.png"
    printed = io.BytesIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pictures.plt, "close", lambda figure: None)
        patched.setattr(sys, "stdout", io.TextIOWrapper(printed))
        attention.main(["--out", str(file.parent)])
        lines = printed.getvalue().decode().splitlines()
    yield lines, file, pictures.plt.gcf().axes
    pictures.plt.close("all")


def test_command_prints(command):
    printed, file, _ = command
    averages = [
        line.split()[-2 * T :]
        for line in printed
        if line.startswith(("loop", "product", "softmax", "attention of 0"))
    ]
    assert len(averages) == 4 and averages.count(averages[0]) == 4
    assert [line.split()[0] for line in printed[-7:-2]] == ["1", "4", "16", "64", "256"]
    assert printed[-1] == f"{file} shows the weights of each version, and both measures"


def test_command_draws_the_weights(command):
    _, file, axes = command
    tables = {ax.get_title(): np.asarray(ax.images[0].get_array()) for ax in axes[:6]}
    expected = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    for name in ("loop", "product", "softmax of masked zeros"):
        assert_close(tables[name], expected, 1e-6)
    seen = np.tril(tables["without mask"])
    assert (tables["without mask"] > 0).all()
    assert_close(tables["self-attention"], seen / seen.sum(axis=1, keepdims=True), 1e-6)
    assert tables["across another sequence"].shape == (5, 3)
    for ax, table in zip(axes, tables.values(), strict=False):
        assert_close(table.sum(axis=1), np.ones(5), 1e-6)
        assert len(ax.texts) == table.size
        for text in ax.texts:
            column, row = text.get_position()
            assert float(text.get_text()) == pytest.approx(table[row, column], abs=0.0051)
    header = file.read_bytes()[:24]
    assert int.from_bytes(header[16:20], "big") == 1_000  # pixels across


def test_command_draws_its_measurements(command):
    printed, _, axes = command
    rows = np.array([line.split() for line in printed[-7:-2]], float)
    for ax, columns in zip(axes[6:], ([3, 4], [5, 6]), strict=True):
        for line, column in zip(ax.lines, columns, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), rows[:, 0])
            assert_close(line.get_ydata(), rows[:, column], 5.1e-4)


def test_a_missing_device_is_one_line(monkeypatch, capsys):
    def fail():
        raise AssertionError  # as jax does for some names of platforms

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(missing_device, "_has_devices", lambda: False)
    with pytest.raises(SystemExit) as exit:
        lecture_command.run("attention", fail)
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attention: JAX_PLATFORMS: cuda has no device that jax can use here")


def test_mistakes_give_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("mine", "utf-8")
    for arguments, message in (
        (["--head", "3"], "unrecognized arguments: --head 3"),
        (
            ["--out", str(tmp_path / "file")],
            f"--out: {tmp_path / 'file' / 'attention.png'} can't be written: ",
        ),
    ):
        with pytest.raises(SystemExit) as exit:
            attention.main(arguments)
        assert exit.value.code == 2
        printed, errors = capsys.readouterr()
        (line,) = errors.splitlines()
        assert (printed, line[: len(message) + 11]) == ("", f"attention: {message}")


@pytest.mark.parametrize(
    ("lecture", "picture"),
    [(attention, "attention.png"), (backprop, "dlogits.png"), (bigram_counts, "counts.png")],
)
def test_without_matplotlib(lecture, picture, tmp_path, monkeypatch, capsys):
    """This error comes first: names.txt is missing here, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as exit:
        lecture.main([])
    assert exit.value.code == 2
    name = lecture.__name__.rpartition(".")[2]
    message = f"{name}: {picture} needs matplotlib: pip install matplotlib\n"
    assert capsys.readouterr() == ("", message)
    assert not list(tmp_path.iterdir())
