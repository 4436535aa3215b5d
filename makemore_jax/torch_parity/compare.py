"""Train the same model here and in PyTorch, in lockstep, and hold every number side by side.

    python -m makemore_jax.torch_parity.compare --config configs/gru.py --steps 200
    python -m makemore_jax.torch_parity.compare --all --float64
    python -m makemore_jax.torch_parity.compare --config configs/shakespeare_cpu.py --steps 50

Same weights, same batches, same optimizer: logits, loss and gradients before the first step, the
parameters on the way, the loss of every step, and the likeliest continuations of ten prompts at
the end. Prints a table, writes parity.json and a picture of both loss curves into --workdir, and
exits with 1 when a tolerance is exceeded, naming what.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("compare", "torch", "matplotlib")

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from ml_collections import config_flags

from makemore_jax import data, sampling
from makemore_jax.assemble import create_model, load_data
from makemore_jax.cli import command_line, config_flag
from makemore_jax.config import Config, validate
from makemore_jax.errors import UserError
from makemore_jax.losses import mean_loss
from makemore_jax.metrics import check_finite, versions, write_json
from makemore_jax.text.dataset import TextDataset
from makemore_jax.torch_parity import weights
from makemore_jax.torch_parity.models import MODELS
from makemore_jax.torch_parity.step import make_torch_step, torch_mean_loss
from makemore_jax.torch_parity.table import as_details, as_table, draw_curves, replace_table
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.step import make_train_step

SNAPSHOTS = (1, 10, 100, 200)  # after so many steps the parameters are compared
LONGEST_PROMPT = 3  # characters
MOST_CONTINUED = 100  # characters of a text; at a context of 256 more would take minutes

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
    if config.model.dtype != "float32":
        raise UserError("model.dtype: must be float32, the two worlds round bfloat16 differently")
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    dataset = load_data(config.data, config.seed)
    block_size, kind, split = dataset.block_size, config.model.kind, dataset.splits["train"]
    model = create_model(config.model, dataset.vocab.size, block_size)
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
            theirs = {name: p.detach().numpy() for name, p in _named_parameters(module)}
            snapshots[i] = _worst(weights.to_torch(state.params, kind), theirs)

    max_len = block_size
    if config.data.kind == "text":
        max_len = LONGEST_PROMPT + min(2 * block_size, MOST_CONTINUED)
    lm = sampling.LanguageModel(model, state.variables, dataset.vocab, max_len, block_size)
    continuations = _continuations(lm, module, _prompts(dataset))
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
    theirs = {name: p.grad.numpy() for name, p in _named_parameters(module)}
    ours = weights.to_torch(gradients, kind)
    each = {name: _worst({name: ours[name]}, {name: theirs[name]}) for name in theirs}
    return {
        "logits": float(np.max(np.abs(np.asarray(logits) - torch_logits.detach().numpy()))),
        "loss": abs(float(loss) - torch_loss.item()),
        "gradients": max(each.values()),
        "gradient_of_each": each,
    }


def _named_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A tied one under both of its names."""
    return module.named_parameters(remove_duplicate=False)


def _worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of any tensor, relative to the largest entry of that tensor."""
    assert ours.keys() == theirs.keys()
    tiny = np.finfo(np.float64).tiny
    return max(
        float(np.max(np.abs(ours[k] - theirs[k])) / max(np.max(np.abs(theirs[k])), tiny))
        for k in theirs
    )


def _prompts(dataset: data.Dataset) -> list[str]:
    """The first characters of ten lines of dev, or of each tenth of it where it is a text."""
    if isinstance(dataset, TextDataset):
        dev = dataset.splits["dev"]
        starts = [i * dev.num_chars // 10 for i in range(10)]
        (text,) = dataset.vocab.decode_rows(np.asarray(dev.tokens)[None])
        beginnings = [text[start : start + LONGEST_PROMPT] for start in starts]
    else:
        beginnings = dataset.words["dev"][:10]
    return [text[: 1 + i % LONGEST_PROMPT] for i, text in enumerate(beginnings)]


def _continuations(
    lm: sampling.LanguageModel, module: torch.nn.Module, prompts: list[str]
) -> list[tuple[str, str, str]]:
    """The likeliest continuations: (prompt, here through the carry, in PyTorch)."""
    greedy, found = sampling.Decoding(temperature=0), []
    for prompt in prompts:
        (drawn,) = sampling.sample(lm, jax.random.key(0), 1, prompt, greedy)
        found.append((prompt, drawn.text, _continue_in_torch(lm, module, prompt)))
    return found


@torch.no_grad()
def _continue_in_torch(lm: sampling.LanguageModel, module: torch.nn.Module, prompt: str) -> str:
    """By makemore's loop, and nanoGPT's: the last `block_size` tokens are read for each one."""
    before = [0] if lm.vocab.has_end else []
    tokens = before + lm.vocab.encode(prompt)
    while len(tokens) < lm.max_len:
        token = int(module(torch.tensor([tokens[-lm.block_size :]]))[0, -1].argmax())
        if lm.vocab.has_end and token == 0:
            break
        tokens.append(token)
    return lm.vocab.decode_rows(np.array([tokens[len(before) :]]))[0]


def main() -> None:
    if STEPS.value < 1:
        raise UserError(f"--steps: {STEPS.value} must be at least 1")
    # By default a TPU multiplies float32 in bfloat16, and a GPU in TF32; PyTorch does neither.
    jax.config.update("jax_default_matmul_precision", "highest")
    if FLOAT64.value:
        jax.config.update("jax_enable_x64", True)
    if CONFIG.value is None and not ALL.value:
        raise UserError("--config is missing, such as --config gru; or --all for all eight")
    config = config_flag.read(CONFIG) if CONFIG.value else Config()
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
    # Defined here, not above: programs that import this file have flags of the same names.
    CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment: a file of configs/")
    ALL = flags.DEFINE_bool("all", False, "all eight families; the config gives all but the kind")
    STEPS = flags.DEFINE_integer("steps", 200, "how many steps to train")
    FLOAT64 = flags.DEFINE_bool("float64", False, "compute in float64 on both sides")
    WORKDIR = flags.DEFINE_string("workdir", "runs/parity", "where parity.json and the picture go")
    DOC = flags.DEFINE_string("doc", None, "a page in which to replace the table of this precision")
    command_line.run(main, __doc__, config_required=False, name="compare")
