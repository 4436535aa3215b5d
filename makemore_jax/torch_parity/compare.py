"""Train the same model here and in PyTorch, in lockstep, and hold every number side by side.

    python -m makemore_jax.torch_parity.compare --config configs/gru.py --steps 200
    python -m makemore_jax.torch_parity.compare --all --float64

Same weights, same batches, same optimizer: logits, loss and gradients before the first step, the
parameters on the way, the loss of every step, and the likeliest continuations of ten prompts at
the end. Prints a table, writes parity.json and a picture of both loss curves into --workdir, and
exits with 1 when a tolerance is exceeded, naming what.
"""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from ml_collections import config_flags
from torch.nn import functional as F

from makemore_jax import command_line, data, models, sampling
from makemore_jax.config import Config, OptimizerConfig, validate
from makemore_jax.errors import UserError
from makemore_jax.losses import mean_loss
from makemore_jax.metrics import check_finite, versions, write_json
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.models import MODELS
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import make_train_step

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment: a file of configs/")
ALL = flags.DEFINE_bool("all", False, "all eight families; the config gives all but the kind")
STEPS = flags.DEFINE_integer("steps", 200, "how many steps to train")
FLOAT64 = flags.DEFINE_bool("float64", False, "compute in float64 on both sides")
WORKDIR = flags.DEFINE_string("workdir", "runs/parity", "where parity.json and the picture go")
DOC = flags.DEFINE_string("doc", None, "a page in which to replace the table of this precision")

SNAPSHOTS = (1, 10, 100, 200)  # after so many steps the parameters are compared

# What may differ: logits, loss and the loss curve absolutely, gradients and parameters relative to
# the largest entry of their tensor. In float32 a parameter whose true gradient is 0, such as the
# bias of the keys, is moved by rounding alone, since Adam divides by its size; so the parameters
# have no tolerance there, the loss curve has.
TOLERANCES = {
    "float64": {"logits": 1e-12, "loss": 1e-12, "gradients": 1e-11, "parameters": 1e-9}
    | {"loss_curve": 1e-9, "continuations": 0},
    "float32": {"logits": 1e-5, "loss": 1e-6, "gradients": 1e-4}
    | {"loss_curve": 1e-3, "continuations": 0},
}


def compare(config: Config, steps: int) -> dict[str, Any]:
    """Train both models for so many steps; the largest differences, the curves and the times.

    In float64 where jax_enable_x64 is set, else in float32.
    """
    validate(config)
    if config.model.dropout:
        raise UserError("model.dropout: must be 0, the random streams of the two worlds differ")
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    dataset = data.load(config.data, config.seed)
    block_size, kind, split = dataset.block_size, config.model.kind, dataset.splits["train"]
    model = models.create(config.model, dataset.vocab.size, block_size)
    optimizer = make_optimizer(config.optimizer, steps)
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    start = state_lib.create(model, optimizer, init_key, block_size)
    params = jax.tree.map(lambda a: a.astype(dtype), start.params)
    state = state_lib.TrainState(start.step, params, optimizer.init(params))
    module = weights.reference(config, dataset.vocab.size, block_size)
    module = weights.load_into(module.to(getattr(torch, dtype.__name__)), params, kind)

    draw = jax.jit(lambda i: data.draw(split, jax.random.fold_in(data_key, i), batch_size))
    batch_size = config.train.batch_size
    batches = [draw(i) for i in range(steps)]
    found = _first_step(model, module, params, batches[0], kind)
    train_step = jax.jit(make_train_step(model, optimizer))
    torch_step = make_torch_step(module, config.optimizer, steps)

    curves, seconds, snapshots = {"jax": [], "torch": []}, {"jax": [], "torch": []}, {}
    no_key = jax.random.key(0)
    for i, batch in enumerate(batches, start=1):
        torch_batch = [torch.tensor(np.asarray(a), dtype=torch.long) for a in batch]
        began = time.perf_counter()
        state, metrics = train_step(state, batch, no_key)
        curves["jax"].append(check_finite(i, float(metrics["train_loss"])))
        between = time.perf_counter()
        curves["torch"].append(torch_step(*torch_batch))
        seconds["jax"].append(between - began)
        seconds["torch"].append(time.perf_counter() - between)
        if i in SNAPSHOTS or i == steps:
            theirs = {name: p.detach().numpy() for name, p in module.named_parameters()}
            snapshots[i] = _worst(weights.to_torch(state.params, kind), theirs)

    lm = sampling.LanguageModel(model, state.variables, dataset.vocab, block_size)
    continuations = _continuations(lm, module, dataset.words["dev"])
    found |= {
        "parameters": max(snapshots.values()),
        "loss_curve": float(np.max(np.abs(np.subtract(curves["jax"], curves["torch"])))),
        "continuations": sum(ours != theirs for _, ours, theirs in continuations),
    }
    tolerances = TOLERANCES[dtype.__name__]
    return {
        "kind": kind,
        "num_params": state_lib.num_params(params),
        "dtype": dtype.__name__,
        "steps": steps,
        "differences": found,
        "parameters_after": snapshots,
        "exceeded": [name for name, bound in tolerances.items() if not found[name] <= bound],
        "milliseconds": {side: 1e3 * float(np.median(times)) for side, times in seconds.items()},
        "curves": curves,
        "continuations": continuations,
    }


def _first_step(
    model: Any, module: torch.nn.Module, params: Any, batch: tuple, kind: str
) -> dict[str, Any]:
    """How far logits, loss and the gradient of each parameter are apart before any step."""
    inputs, targets = batch
    logits = jax.jit(model.apply)({"params": params}, inputs)
    torch_logits = module(torch.tensor(np.asarray(inputs), dtype=torch.long))

    def loss_fn(params: Any) -> jax.Array:
        return mean_loss(model.apply({"params": params}, inputs), targets)

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(params)
    torch_loss = torch_mean_loss(torch_logits, torch.tensor(np.asarray(targets), dtype=torch.long))
    torch_loss.backward()
    theirs = {name: p.grad.numpy() for name, p in module.named_parameters()}
    ours = weights.to_torch(gradients, kind)
    each = {name: _worst({name: ours[name]}, {name: theirs[name]}) for name in theirs}
    return {
        "logits": float(np.max(np.abs(np.asarray(logits) - torch_logits.detach().numpy()))),
        "loss": abs(float(loss) - torch_loss.item()),
        "gradients": max(each.values()),
        "gradient_of_each": each,
    }


def _worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of any tensor, relative to the largest entry of that tensor."""
    assert ours.keys() == theirs.keys()
    tiny = np.finfo(np.float64).tiny
    return max(
        float(np.max(np.abs(ours[k] - theirs[k])) / max(np.max(np.abs(theirs[k])), tiny))
        for k in theirs
    )


def torch_mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """makemore's loss: the mean over targets that are not -1."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def make_torch_step(module: torch.nn.Module, config: OptimizerConfig, steps: int) -> Any:
    """The function (inputs, targets) -> loss that takes one step with PyTorch's own optimizers."""
    peak, parameters = config.learning_rate, list(module.parameters())
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        optimizer = torch.optim.AdamW(
            parameters, peak, betas, eps=1e-8, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(parameters, peak, weight_decay=config.weight_decay)

    def factor(i: int) -> float:
        """The learning rate of step i, as a multiple of its peak."""
        if i < config.warmup_steps:
            return (i + 1) / config.warmup_steps
        i -= config.warmup_steps
        if config.schedule == "step":
            return config.gamma ** (i // config.step_size)
        if config.schedule == "cosine":
            floor = config.min_learning_rate / peak
            part = min(1.0, i / max(1, steps - config.warmup_steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part))
        return 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        loss = torch_mean_loss(module(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        schedule.step()
        return loss.item()

    return step


def _continuations(
    lm: sampling.LanguageModel, module: torch.nn.Module, words: list[str]
) -> list[tuple[str, str, str]]:
    """The likeliest continuation of ten prompts: (prompt, here through the carry, in PyTorch)."""
    prompts = [word[: 1 + i % 3] for i, word in enumerate(words[:10])]
    greedy, found = sampling.Decoding(temperature=0), []
    for prompt in prompts:
        (line,) = sampling.sample(lm, jax.random.key(0), 1, prompt, greedy)
        tokens = [0, *lm.vocab.encode(prompt)]
        while len(tokens) < lm.max_len:
            with torch.no_grad():
                token = int(module(torch.tensor([tokens]))[0, -1].argmax())
            if token == 0:
                break
            tokens.append(token)
        found.append((prompt, line.text, lm.vocab.decode(tokens[1:])))
    return found


def as_table(results: list[dict[str, Any]]) -> str:
    """The differences of each model as a table in Markdown, exceeded ones marked."""
    columns = ("logits", "loss", "gradients", "parameters", "loss_curve", "continuations")
    snapshots = sorted({i for r in results for i in r["parameters_after"]})
    titles = ["model", "logits", "loss", "gradients"]
    titles += [f"parameters after {i}" for i in snapshots]
    titles += ["loss curve", "continuations", "ms a step, JAX", "PyTorch"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for r in results:
        cells = {name: f"{r['differences'][name]:.1e}" for name in columns[:-1]}
        cells["continuations"] = f"{10 - r['differences']['continuations']} of 10"
        for name in r["exceeded"]:
            cells[name] += " (!)"
        after = [f"{r['parameters_after'].get(i, math.nan):.1e}" for i in snapshots]
        after[-1] += " (!)" if "parameters" in r["exceeded"] else ""
        row = [r["kind"], cells["logits"], cells["loss"], cells["gradients"], *after]
        row += [cells["loss_curve"], cells["continuations"]]
        row += [f"{r['milliseconds'][side]:.2f}" for side in ("jax", "torch")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def as_details(result: dict[str, Any]) -> str:
    """What the table sums up: the gradient of each parameter, and the ten continuations."""
    lines = ["", "gradients before the first step, largest difference relative to largest entry:"]
    for name, value in result["differences"]["gradient_of_each"].items():
        lines.append(f"  {value:.1e}  {name}")
    lines += ["", "likeliest continuations of ten prompts:"]
    for prompt, ours, theirs in result["continuations"]:
        same = "both" if ours == theirs else f"here; in PyTorch {theirs}"
        lines.append(f"  {prompt}: {ours} ({same})")
    return "\n".join(lines)


def replace_table(page: Path, dtype: str, table: str) -> None:
    """Put a table between the page's comments that name its precision."""
    begin, end = f"<!-- {dtype} -->", f"<!-- end of {dtype} -->"
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"--doc: {page} has no {begin} and {end}")
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


def draw_curves(results: list[dict[str, Any]], file: Path) -> None:
    """Both loss curves of each model over each other, and their difference below."""
    from makemore_jax import plots

    plots.paired_curves({r["kind"]: r["curves"] for r in results}, file)


def main() -> None:
    if STEPS.value < 1:
        raise UserError(f"--steps: {STEPS.value} must be at least 1")
    if FLOAT64.value:
        jax.config.update("jax_enable_x64", True)
    if CONFIG.value is None and not ALL.value:
        raise UserError("--config is missing, as configs/gru.py; or --all for all eight")
    config = CONFIG.value or Config()
    kinds = list(MODELS) if ALL.value else [config.model.kind]
    configs = [replace(config, model=replace(config.model, kind=kind)) for kind in kinds]
    results = [compare(config, STEPS.value) for config in configs]
    print(as_table(results))
    if not ALL.value:
        print(as_details(results[0]))
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"versions": versions() | {"torch": torch.__version__}, "tolerances": TOLERANCES}
    write_json(folder / "parity.json", found | {"results": results})
    draw_curves(results, folder / "parity.png")
    if DOC.value:
        replace_table(Path(DOC.value), results[0]["dtype"], as_table(results))
    print(f"\n{folder / 'parity.json'} and {folder / 'parity.png'} hold the whole of it")
    for r in results:
        for name in r["exceeded"]:
            bound = TOLERANCES[r["dtype"]][name]
            print(
                f"compare: {r['kind']} in {r['dtype']}: {name} differ by "
                f"{r['differences'][name]:.2e}, more than {bound:.0e}",
                file=sys.stderr,
            )
    if any(r["exceeded"] for r in results):
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main, __doc__, config_required=False, name="compare")
