"""Small runs of the benchmarks, which print and write their results."""

import json
import re

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, published, run, small_config

from makemore_jax import assemble

pytestmark = pytest.mark.slow
RUNS = {
    "train_speed": ("--models", "bigram", "--rounds", "1", "--seconds", "0.01"),
    "sample_speed": ("--models", "gru", "--rounds", "1", "--nums", "30"),
    "whole_run": (
        *("--models", "bigram", "--rounds", "1", "--steps", "20"),
        *("--ways", "cold", "PyTorch", "sample, first time", "sample, PyTorch"),
    ),
    "limit": ("--rounds", "1", "--repeats", "5"),
    "sweep_cost": ("--models", "bigram", "--nums", "1", "4"),
    "ablation": ("--models", "rnn", "--rounds", "1", "--seconds", "0.01"),
    "growth": (
        *("--batch", "32", "--context", "--width", "--lines", "1000"),
        *("--rounds", "1"),
    ),
}


def test_pytorch_losses(tmp_path, monkeypatch):
    """The stored losses are those that the command measures."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import pytorch_losses, reproduce

    losses = pytorch_losses.train("bigram", published("names"), steps=1_000)
    assert losses == pytest.approx({"1000": reproduce.pytorch_losses()["bigram"]["1000"]}, abs=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_benchmark(name, tmp_path):
    pytest.importorskip("torch")
    command = ("-m", f"benchmarks.{name}", *RUNS[name], "--out", tmp_path)
    # torch.compile would take half of the time; test_torch_compile_trains compiles.
    done = run(*command, TORCHDYNAMO_DISABLE="1")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / f"{name}.md").read_text("utf-8")
    assert table.strip() in done.stdout
    written = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert written["machine"]["cores"] >= 1 and "torch" in written["machine"]["versions"]
    if name == "train_speed":
        result = written["results"]["bigram"]
        times = result["milliseconds"]
        peers = [times[variant] for variant in ("eager", "fused", "compiled", "compiled, fused")]
        assert result["ratio"] == pytest.approx(min(peers) / times["makemore_jax"])
    if name == "whole_run":
        variants = written["results"]["bigram"]
        assert all(
            variant["seconds"] > 0.1 and variant["mebibytes"] > 50 for variant in variants.values()
        )


CHECK_ABLATION = """
import jax
from benchmarks.ablation import SPEED_UPS
from benchmarks.configs import config_of
from makemore_jax import models
from makemore_jax.assemble import load_data, programs

def program(kind):
    config = config_of(kind)
    dataset = load_data(config.data, config.seed)
    split = dataset.splits["train"]
    model = programs.create_model(config.model, dataset.vocab.size, dataset.block_size)
    layouts, num = programs.choose_layouts(split, model, 32, 1)
    gradient_fn = programs.make_gradient_fn(model, jax.make_mesh((1,), ("data",)), layouts, num)
    variables = models.variable_shapes(model, dataset.block_size)
    indices = jax.ShapeDtypeStruct((32,), "int32")
    return str(jax.make_jaxpr(gradient_fn)(variables, split, indices, jax.random.key(0)))

assert program("bigram") == program("bigram")
kinds_of = {}
for disable, kinds in SPEED_UPS.values():
    kinds_of.setdefault(disable, []).append(kinds[0])
for disable, kinds in kinds_of.items():
    before = [program(kind) for kind in kinds]
    disable()
    print(*(program(kind) != old for kind, old in zip(kinds, before)))
"""


def test_the_ablation_disables_every_speed_up():
    """Packed lines and cut rows share a function. The number of devices is not in the program."""
    done = run("-c", CHECK_ABLATION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "False", "True", "True", "True", "True"]


def test_the_geometric_mean_excludes_a_gpt_on_a_text(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.train_speed import as_table

    def result(fused, both):
        variants = {"eager": 9.0, "fused": fused, "compiled": 9.0, "compiled, fused": both}
        return {"milliseconds": {"makemore_jax": 1.0, **variants}, "ratio": min(fused, both)}

    results = {"bigram": result(2.0, 1.0), "mlp": result(8.0, 4.0), "shakespeare_cpu": result(3, 6)}
    *rows, mean = as_table(results).splitlines()
    ratios = [row.split(" | ")[-2:] for row in rows[2:]]
    assert ratios == [["2.00", "1.00 |"], ["8.00", "4.00 |"], ["3.00", "3.00 |"]]
    assert mean.startswith("| geometric mean ") and mean.endswith(" 4.00 | 2.00 |")
    assert "mean" not in as_table({"shakespeare_cpu": result(3.0, 6.0)})


def test_pytorch_is_timed_with_the_step_of_the_comparison(monkeypatch):
    """The steps are equal, but the timed one uses PyTorch's own attention."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import torch_side
    from benchmarks.configs import config_of
    from makemore_jax.torch_parity import weights
    from makemore_jax.torch_parity.step import make_torch_step

    config = config_of("shakespeare_cpu")
    config.model.n_layer = 1
    torch.manual_seed(5)
    timed = weights.reference(config, 65, 64, fused_attention=True).double()
    compared = weights.reference(config, 65, 64).double()
    compared.load_state_dict(timed.state_dict())
    steps = (
        torch_side.make_step(timed, "fused", config),
        make_torch_step(compared, config.optimizer, config.train.steps),
    )
    for _ in range(3):
        batch = torch.randint(0, 65, (2, 3, 64))
        for step in steps:
            step(*batch)
    for result, known in zip(timed.parameters(), compared.parameters(), strict=True):
        torch.testing.assert_close(result, known, rtol=0, atol=1e-9)


def test_torch_compile_trains(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import torch_side
    from benchmarks.configs import config_of
    from makemore_jax.torch_parity import weights

    config, batch = config_of("bigram"), (torch.ones(3, 5, dtype=torch.long),) * 2
    losses = []
    for variant in ("eager", "compiled"):
        torch.manual_seed(5)
        step = torch_side.make_step(weights.reference(config, 7, 5), variant, config)
        losses.append([step(*batch).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0][0] > losses[0][2]


def leaderboard_results():
    """Return results of two networks and two n-grams with up to three seeds."""

    def run(test_loss, **more):
        losses = {"train_loss": 1.5, "dev_loss": test_loss + 0.01, "test_loss": test_loss}
        return {"num_params": 1_234, **losses, "new": 0.25, "unique": 0.75, "held_out": 0.5} | more

    def timed(test_loss, seconds_to_target):
        times = {"seconds": 9.0, "milliseconds_per_step": 0.5}
        return run(test_loss, seconds_to_target=seconds_to_target, **times)

    return {
        "gru/lecture/3407": timed(1.9, 3.0),
        "gru/lecture/3408": timed(2.1, 5.0),
        "gru/lecture/3409": timed(2.0, 4.0),
        "rnn/lecture/3407": timed(1.8, 3.0),
        "rnn/lecture/3408": timed(1.8, None),  # a seed that never reached the target
        "rnn/makemore/3407": timed(1.7, 3.0),
        "2-gram/lecture/3407": run(2.5),
        "5-gram/lecture/3407": run(1.95),
    }


def test_rows_of_the_leaderboard(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import leaderboard, leaderboard_page

    metrics = [
        {"step": 100, "train_loss": 2.3, "seconds": 1.5},
        {"step": 200, "dev_loss": 2.11},
        {"step": 200, "train_loss": 2.2, "seconds": 2.5},
        {"step": 400, "dev_loss": 2.09},
        {"step": 400, "train_loss": 2.1, "seconds": 4.0},
    ]
    assert leaderboard.seconds_to_target(metrics) == 4.0
    assert leaderboard.seconds_to_target(metrics[:3]) is None
    samples = (["eva", "eva", "zed", "q"], ["train", "dev", "new", "cut"])
    assert leaderboard.shares(*samples) == {"new": 0.25, "unique": 0.75, "held_out": 0.25}

    results = leaderboard_results()
    table = leaderboard_page.as_markdown(results, "lecture")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert {len(row) for row in rows} == {11}
    names = [row[0] for row in rows[2:]]
    # Three seeds are the rule, and n-grams the baseline of the networks.
    assert names == ["rnn (2 seeds)", "5-gram (1 seed)", "gru \\*", "2-gram (1 seed)"]
    rnn, _, gru, _ = rows[2:]
    assert gru[2:6] == ["1.5000", "2.0100 ± 0.100", "2.0000 ± 0.100", "2.885"]
    assert (rnn[-2:], gru[-2:]) == (["-", "0.50"], ["4.0", "0.50"])
    untimed = leaderboard_page.as_markdown(results, "makemore").splitlines()
    assert {line.count(" | ") for line in untimed} == {8}
    readme = leaderboard_page.as_readme_rows(results)
    assert [line.split(" | ")[0] for line in readme.splitlines()[2:]] == [
        "| rnn (2 seeds)",
        "| 5-gram (1 seed)",
        "| gru \\*",
    ]


def test_a_benchmark_adds_to_the_results_of_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import leaderboard

    file = tmp_path / "new" / "results.json"
    leaderboard.store({"gru/lecture/3407": {"test_loss": 2.0}}, file)
    content = leaderboard.store({"best/lecture/3407": {"test_loss": 1.9}}, file)
    assert list(content["results"]) == ["gru/lecture/3407", "best/lecture/3407"]
    assert json.loads(file.read_text("utf-8")) == content


def test_the_machine_of_the_leaderboard_is_the_one_that_measured_times(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import leaderboard

    machines = iter("abcd")
    monkeypatch.setattr(leaderboard.sides, "machine", lambda: next(machines))
    for name, result, machine in (
        ("gru/makemore/3407", {"seconds": 3.0}, "a"),
        ("gru/lecture/3407", {"seconds": 3.0}, "b"),
        ("2-gram/lecture/3407", {}, "b"),
        ("gru/names.txt/3407", {"seconds": 3.0}, "b"),
    ):
        assert leaderboard.store({name: result}, tmp_path / "results.json")["machine"] == machine


def test_the_names_in_a_figure_do_not_overlap(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import leaderboard_page
    from makemore_jax.plots import style

    figure, ax = style.plt.subplots(figsize=(3.9, 3.7), layout="constrained")
    points = {f"model{i}": (10_000 + 2_000 * i, 2 + 0.01 * (i % 2)) for i in range(6)}
    points["at the right"] = (100_000, 2.2)
    ax.scatter(*zip(*points.values(), strict=True))
    ax.set_xscale("log")
    ax.margins(x=0.2, y=0.1)
    boxes = [text.get_window_extent() for text in leaderboard_page.place_labels(figure, ax, points)]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert box.x1 < ax.get_window_extent().x1
    style.plt.close(figure)


def test_the_loss_without_what_makes_losses_incomparable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import traps

    words = (ROOT / "names.txt").read_text("utf-8").split()[:80]
    (tmp_path / "few.txt").write_text("\n".join(words + words[:40]), "utf-8")
    config = small_config("bigram", steps=20, log_every=10, eval_every=10)
    config.data.path, config.train.num_samples = str(tmp_path / "few.txt"), 0
    config.data.split = "makemore"  # 108 train, 12 test lines
    summary = assemble.train(config, str(tmp_path / "run"))
    found = traps.measure(str(tmp_path / "run"))

    dataset = assemble.load_data(config.data, config.seed)
    test = dataset.words["test"]
    known = [word for word in test if word in dataset.words["train"]]
    assert 0 < len(known) < len(test) == 12
    assert found["known_share"] == len(known) / 12
    assert found["best_test"] == pytest.approx(summary["test_loss"], abs=1e-5)
    assert found["best_train"] == pytest.approx(summary["train_loss"], abs=1e-5)
    num, num_known = (sum(len(word) + 1 for word in part) for part in (test, known))
    total = num_known * found["best_known"] + (num - num_known) * found["best_unknown"]
    assert total == pytest.approx(num * found["best_test"])
    # The embedding of the start decides the first character of every name.
    lm = assemble.load_language_model(tmp_path / "run", assemble.read_run(tmp_path / "run"))
    logits = lm.model.apply(lm.variables, jnp.zeros((1, 1), jnp.int32))[0, 0]
    first = [-jax.nn.log_softmax(logits)[lm.vocab.encode(word)[0]] for word in test]
    rest = num * found["best_test"] - float(sum(first))
    assert found["best_without_first"] == pytest.approx(rest / (num - 12), abs=1e-5)
    assert 0 < found["best_standard_error"] < 1


ACCELERATOR = ("-m", "benchmarks.accelerator", "--quick", "--out")


def read_accelerator(folder):
    return json.loads((folder / "accelerator.json").read_text("utf-8"))


def test_the_accelerator_page_has_the_mean_and_the_best_of_the_seeds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.accelerator_page import as_page

    losses = {"train_loss": 1.25, "dev_loss": 1.5, "crops_loss": 1.4}
    run = {"num_params": 1_234, "best_step": 2_000, "seconds": 60.4, **losses}
    results = {"1337": run, "1338": run | {"dev_loss": 1.47, "crops_loss": 1.44}}
    page = as_page({"shakespeare_best": {"status": "finished, 9 s", **results}})
    lines = [line.strip("| ").split(" | ") for line in page.splitlines()]
    assert ["1337", "1,234", "2,000", "1.2500", "1.5000", "1.4000", "60"] in lines
    assert ["mean", "", "", "", "1.4850", "1.4200"] in lines
    assert ["best", "", "", "", "1.4700", "1.4000"] in lines


def test_the_rows_of_the_shakespeare_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import shakespeare_choices, shakespeare_time

    seconds = {"first": 30.0, "later": 21.5}
    reached = {"steps": 500, "milliseconds": 40.0, "seconds": seconds}
    results = {
        "quick": reached | {"dev_loss": 1.87, "crops_loss": 1.865},
        "slow": {"steps": None, "max_steps": 6_000},
    }
    rows = shakespeare_time.as_table(results).splitlines()
    assert rows[2] == "| quick | 500 | 20.0 | 40.0 | 30.0 | 21.5 | 1.8700 | 1.8650 |"
    assert rows[3].startswith("| slow | not in 6,000 | - |")
    row = {"num_params": 1_234, "best_step": 300, "train_loss": 1.5, "dev_loss": 1.75}
    table = shakespeare_choices.as_table({"Muon": row | {"milliseconds": 98.6}})
    assert table.splitlines()[2] == "| Muon | 1,234 | 300 | 1.500 | 1.750 | 99 |"


@pytest.mark.parametrize("lowest", [350, 1_300])
def test_the_shortest_schedule_that_reaches_the_target(lowest, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import shakespeare_time

    def train(words):
        steps = int(re.search(r"train\.steps=(\d+)", " ".join(words))[1])
        assert f"--config.optimizer.decay_steps={steps}" in words
        lines = [{"step": steps, "dev_loss": 1.85 if steps >= lowest else 1.9}]
        return shakespeare_time.Training(1.0, lines, {})

    monkeypatch.setattr(shakespeare_time, "train", train)
    recipe = shakespeare_time.Recipe((), None, 1_200)
    steps = shakespeare_time.steps_to_target(recipe, "--config.data.path=text.txt")
    assert steps == (350 if lowest == 350 else None)


def test_the_accelerator_benchmark_trains_samples_and_sweeps(tmp_path):
    pytest.importorskip("torch")
    items = ["shakespeare", "shakespeare_best", "shakespeare_best_choices", "sample", "sweep"]
    done = run(*ACCELERATOR, tmp_path, "--limit", "600", "--items", *items)
    assert done.returncode == 0, done.stdout + done.stderr
    results = read_accelerator(tmp_path)
    assert list(results) == items
    training = results["shakespeare"]["run"]
    assert training["step"] == 6 and training["seconds"] > 0
    assert training["crops_loss"] == pytest.approx(training["dev_loss"], abs=0.2)
    best = results["shakespeare_best"]["5"]
    assert best["best_step"] <= 6 and best["crops_loss"] == pytest.approx(best["dev_loss"], abs=0.2)
    choice = results["shakespeare_best_choices"]["dropout 0.4"]
    assert choice["step"] == 6 and choice["dev_loss"] > 0
    assert {"makemore_jax", "makemore's loop"} == results["sample"]["bigram"].keys()
    assert results["sweep"]["bigram"].keys() == {"1", "3"}
    page = (tmp_path / "accelerator.md").read_text("utf-8")
    assert page.strip() in done.stdout
    assert page.count("finished") == 5 and page.count("| bigram |") == 2


@pytest.mark.parametrize("item", ["train", "parity"])
def test_the_accelerator_benchmark_compares_with_pytorch(item, tmp_path):
    pytest.importorskip("torch")
    command = (*ACCELERATOR, tmp_path, "--limit", "600", "--items", item)
    done = run(*command, TORCHDYNAMO_DISABLE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    result = read_accelerator(tmp_path)[item]["bigram"]
    if item == "train":
        assert {"makemore_jax", "eager", "compiled"} <= result.keys()
    else:
        assert result["exceeded"] == []


def test_the_accelerator_benchmark_keeps_earlier_results(tmp_path):
    """An item that fails or takes too long deletes no result of another item or model."""
    stored = {
        "train": {"status": "finished, 1 s", "lstm": {"makemore_jax": 0.3}},
        "sample": {"status": "finished, 1 s", "gru": {"makemore_jax": 0.5}},
    }
    (tmp_path / "accelerator.json").write_text(json.dumps(stored), "utf-8")
    items = ("--items", "train", "--kinds", "bigram", "--limit", "0.1")
    done = run(*ACCELERATOR, tmp_path, *items)
    assert done.returncode == 1
    assert done.stderr.endswith("accelerator: train did not finish\n")
    results = read_accelerator(tmp_path)
    assert results["sample"] == stored["sample"]
    assert results["train"]["status"].startswith("stopped at its time limit")
    assert results["train"]["lstm"] == {"makemore_jax": 0.3}
    assert "| gru | 500.0 |" in (tmp_path / "accelerator.md").read_text("utf-8")


def test_the_accelerator_benchmark_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')", "utf-8")
    results = tmp_path / "results.jsonl"
    code = f"""
import pathlib
from benchmarks import accelerator_items, accelerator_settings
accelerator_items.HAS_TORCH = False
if __name__ == "__main__":
    for item in ("train", "sample"):
        accelerator_items.run_item(item, accelerator_settings.QUICK, pathlib.Path({str(results)!r}))
"""
    done = run("-c", code, fresh=True, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    result = [line["value"].keys() for line in lines if line["key"] == "bigram"]
    assert result == [{"makemore_jax"}, {"makemore_jax"}]


def test_arithmetic_of_a_step(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import accelerator_text
    from benchmarks.arithmetic import flops_per_step
    from makemore_jax.config import Config

    config = Config()  # 204,480 parameters, 4 layers of 64 channels, 32 lines of 15 tokens
    assert flops_per_step(config) == 32 * 15 * (6 * 204_480 + 12 * 4 * 64 * 15)
    assert accelerator_text.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert accelerator_text.peak_flops("NVIDIA L4") == 121e12
    assert accelerator_text.peak_flops("NVIDIA L40S") is accelerator_text.peak_flops("cpu") is None
