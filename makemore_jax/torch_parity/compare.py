"""Train the same model in JAX and PyTorch in lockstep, and compare all numbers.

    python -m makemore_jax.torch_parity.compare --config configs/gru.py --steps 200
    python -m makemore_jax.torch_parity.compare --all --float64
    python -m makemore_jax.torch_parity.compare --config configs/shakespeare_cpu.py --steps 50

Both sides have the same weights, batches and optimizer. The comparison covers logits, loss and
gradients before the first step, the parameters after some steps, the loss of every step, and the
greedy continuations of ten prompts at the end. In float32 it also runs the compiled program of
train.py, which computes all steps in one call, on one device and on two. Prints a table and writes
parity.json and a figure of both loss curves to --workdir. Exits with 1 if a tolerance is exceeded,
and names the quantity.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("compare", "torch", "matplotlib")

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from flax import linen as nn
from ml_collections import config_flags

from makemore_jax import assemble, data
from makemore_jax.assemble import create_model, load_data, validate
from makemore_jax.cli import command_line, config_flag, startup
from makemore_jax.cli.fields import check_flag
from makemore_jax.config import AT_LEAST_1, Config
from makemore_jax.decoding import Decoding, LanguageModel
from makemore_jax.errors import UserError
from makemore_jax.losses import mean_loss
from makemore_jax.metrics import finite_mean
from makemore_jax.text.dataset import TextDataset
from makemore_jax.torch_parity import compiled, weights
from makemore_jax.torch_parity.difference import worst, worst_relative
from makemore_jax.torch_parity.models import MODELS
from makemore_jax.torch_parity.step import make_torch_step, torch_mean_loss
from makemore_jax.torch_parity.table import (
    as_details,
    as_table,
    draw_curves,
    replace_table,
    show_name,
)
from makemore_jax.training import state as state_lib
from makemore_jax.training.optimizer import make_optimizer
from makemore_jax.training.state import TrainState
from makemore_jax.training.step import gradients, make_train_step, step_keys
from makemore_jax.versions import versions
from makemore_jax.workdir import write_json

SNAPSHOTS = (1, 10, 100, 200)  # steps after which the parameters are compared
MAX_PROMPT = 3  # characters
LECTURE_WINDOW = 8  # characters that window_mlp reads, with --all
MAX_CONTINUATION = 100  # characters of a text; with a context of 256 more would take minutes

# Tolerances: absolute for the loss curve; for logits and loss relative to the largest logit and to
# the loss if that is above 1; for gradients and parameters relative to the largest entry of the
# tensor. Parameters have none in float32: Adam divides by the size of the gradient, so rounding
# errors move a parameter with an exact gradient of 0, such as the bias of the keys, as far as any
# other. The last four are those of the compiled program of train.py, on one device and on two.
TOLERANCES = {
    "float64": {"logits": 1e-12, "loss": 1e-12, "gradients": 1e-11, "parameters": 1e-9}
    | {"loss_curve": 1e-9, "continuations": 0},
    "float32": {"logits": 1e-5, "loss": 1e-6, "gradients": 1e-4}
    | {"loss_curve": 1e-3, "continuations": 0}
    | {"compiled_gradients_1": 1e-4, "compiled_loss_curve_1": 1e-3}
    | {"compiled_gradients_2": 1e-4, "compiled_loss_curve_2": 1e-3},
}


class Trained(NamedTuple):
    """The results of training both sides, one step at a time."""

    state: TrainState  # of the JAX side after the last step
    losses: dict[str, list[float]]  # of each step, by side
    seconds: dict[str, list[float]]  # of each step, by side
    parameters: dict[int, float]  # difference of the parameters, by step


def compare(config: Config, steps: int, has_compiled: bool = True) -> dict[str, Any]:
    """Train both models for `steps` steps. Return the largest differences, the curves and times.

    Both compute in float64 if jax_enable_x64 is set, else in float32. In float32 the compiled
    program of train.py is compared as well if `has_compiled` is set.
    """
    check_comparable(config)
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    dataset, kind = load_data(config.data, config.seed), config.model.kind
    start, module = _prepare(config, dataset, steps, dtype)
    keys = jax.random.split(start.key)
    draw = jax.jit(lambda i: data.draw(start.split, step_keys(keys, i)[0], start.batch_size)[:2])
    batches = [draw(i) for i in range(steps)]

    differences = _first_step(start.model, module, start.state.variables, batches[0], kind)
    torch_grads = {name: p.grad.numpy().copy() for name, p in _named_parameters(module)}
    trained = _train_both(config, start, module, batches)
    continuations = _continuations(
        _language_model(dataset, start.model, trained.state), module, _prompts(dataset)
    )
    losses = trained.losses["torch"]
    differences |= {
        "parameters": worst(trained.parameters.values()),
        "loss_curve": float(np.max(np.abs(np.subtract(trained.losses["jax"], losses)))),
        "continuations": sum(ours != theirs for _, ours, theirs in continuations),
    }
    not_compared = {}
    for num in compiled.DEVICE_COUNTS if has_compiled and dtype == jnp.float32 else ():
        if reason := compiled.why_not(num, start.batch_size):
            not_compared[num] = reason
            continue
        ours = compiled.train(start, steps, num)
        grads = weights.to_torch(ours.grads, kind)
        differences |= {
            f"compiled_gradients_{num}": worst_relative(grads, torch_grads),
            f"compiled_loss_curve_{num}": float(np.max(np.abs(np.subtract(ours.losses, losses)))),
        }
    return {
        "kind": kind,
        "num_params": state_lib.num_params(start.state.params),
        "dtype": dtype.__name__,
        "steps": steps,
        "differences": differences,
        "parameters_after": trained.parameters,
        "not_compared": not_compared,
        "exceeded": [
            name
            for name, bound in TOLERANCES[dtype.__name__].items()
            if name in differences and not differences[name] <= bound
        ],
        "milliseconds": {
            side: 1e3 * float(np.median(times)) for side, times in trained.seconds.items()
        },
        "curves": trained.losses,
        "continuations": continuations,
    }


def _prepare(
    config: Config, dataset: data.Dataset, steps: int, dtype: Any
) -> tuple[compiled.Start, torch.nn.Module]:
    """Return the training in JAX before its first step, and the module with the same weights."""
    model = create_model(config.model, dataset.vocab.size, dataset.block_size)
    optimizer = make_optimizer(config.optimizer, steps)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = state_lib.create(model, optimizer, init_key, dataset.block_size)
    variables = jax.tree.map(lambda a: a.astype(dtype), state.variables)
    params = variables.pop("params")
    state = TrainState(state.step, params, optimizer.init(params), variables)
    module = weights.reference(config, dataset.vocab.size, dataset.block_size)
    module = module.to(getattr(torch, dtype.__name__))
    weights.load_into(module, params, config.model.kind, variables.get("batch_stats"))
    split, batch_size = dataset.splits["train"], config.train.batch_size
    return compiled.Start(model, optimizer, state, split, key, batch_size), module


def _train_both(
    config: Config, start: compiled.Start, module: torch.nn.Module, batches: list[tuple]
) -> Trained:
    """Train both sides on the same batches."""
    state, keys = start.state, jax.random.split(start.key)
    train_step = jax.jit(make_train_step(gradients(start.model), start.optimizer, start.batch_size))
    torch_step = make_torch_step(module, config.optimizer, len(batches))
    losses, seconds = {"jax": [], "torch": []}, {"jax": [], "torch": []}
    differences = {}
    for i, batch in enumerate(batches, start=1):
        torch_batch = [torch.tensor(np.asarray(a), dtype=torch.long) for a in batch]
        jax_start = time.perf_counter()
        state, metrics = train_step(state, start.split, keys)
        losses["jax"].append(finite_mean(i, [float(metrics["train_loss"])]))
        torch_start = time.perf_counter()
        losses["torch"].append(torch_step(*torch_batch))
        seconds["jax"].append(torch_start - jax_start)
        seconds["torch"].append(time.perf_counter() - torch_start)
        if i in SNAPSHOTS or i == len(batches):
            theirs = {name: p.detach().numpy() for name, p in _named_parameters(module)}
            ours = weights.to_torch(state.params, config.model.kind)
            differences[i] = worst_relative(ours, theirs)
    return Trained(state, losses, seconds, differences)


def _language_model(dataset: data.Dataset, model: nn.Module, state: TrainState) -> LanguageModel:
    """Return the model at the end of the training, with a limit on the characters of a text."""
    max_len = dataset.max_len
    if isinstance(dataset, TextDataset):
        max_len = MAX_PROMPT + min(2 * dataset.block_size, MAX_CONTINUATION)
    return LanguageModel(model, state.variables, dataset.vocab, max_len, dataset.block_size)


def check_comparable(config: Config) -> None:
    """Raise UserError if JAX and PyTorch can not compute equal numbers for a config."""
    validate(config)
    weights.check_family(config.model.kind)
    if config.model.dropout:
        raise UserError("model.dropout: must be 0; JAX and PyTorch draw different random numbers")
    if config.model.dtype != "float32":
        raise UserError("model.dtype: must be float32; JAX and PyTorch round bfloat16 differently")
    if config.optimizer.name == "muon":
        raise UserError("optimizer.name: must be adamw or sgd; the comparison has no PyTorch Muon")


def _first_step(
    model: Any, module: torch.nn.Module, variables: dict[str, Any], batch: tuple, kind: str
) -> dict[str, Any]:
    """Compare logits, loss and the gradient of each parameter before the first step.

    Batch norm uses the statistics of the batch. Its running statistics do not change.
    """
    inputs, targets = batch
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def loss_fn(params: Any) -> tuple[jax.Array, jax.Array]:
        variables, options = {"params": params, **model_state}, {"mutable": list(model_state)}
        logits, _ = model.apply(variables, inputs, train=True, **options)
        return mean_loss(logits, targets), logits

    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, logits), grads = grad_fn(variables["params"])
    torch_logits = module(torch.tensor(np.asarray(inputs), dtype=torch.long))
    module.load_state_dict(buffers, strict=False)
    torch_loss = torch_mean_loss(torch_logits, torch.tensor(np.asarray(targets), dtype=torch.long))
    torch_loss.backward()
    theirs = {name: p.grad.numpy() for name, p in _named_parameters(module)}
    ours = weights.to_torch(grads, kind)
    by_name = {name: worst_relative({name: ours[name]}, {name: theirs[name]}) for name in theirs}
    their_logits = torch_logits.detach().numpy()
    scale = max(1.0, float(np.max(np.abs(their_logits))))
    return {
        "logits": float(np.max(np.abs(np.asarray(logits) - their_logits))) / scale,
        "loss": abs(float(loss) - torch_loss.item()) / max(1.0, torch_loss.item()),
        "gradients": worst(by_name.values()),
        "gradient_of_each": by_name,
    }


def _named_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Return all parameters by name. A tied parameter has two names."""
    return module.named_parameters(remove_duplicate=False)


def _prompts(dataset: data.Dataset) -> list[str]:
    """Return the beginnings of ten lines of dev, or of ten parts of a dev text."""
    if isinstance(dataset, TextDataset):
        dev = dataset.splits["dev"]
        starts = [i * dev.num_chars // 10 for i in range(10)]
        (text,) = dataset.vocab.decode_rows(np.asarray(dev.tokens)[None])
        beginnings = [text[start : start + MAX_PROMPT] for start in starts]
    else:
        beginnings = dataset.words["dev"][:10]
    return [text[: 1 + i % MAX_PROMPT] for i, text in enumerate(beginnings)]


def _continuations(
    lm: LanguageModel, module: torch.nn.Module, prompts: list[str]
) -> list[tuple[str, str, str]]:
    """Return greedy continuations: (prompt, in JAX with the carry, in PyTorch)."""
    greedy, continuations = Decoding(temperature=0), []
    for prompt in prompts:
        (sample,) = assemble.sample(lm, jax.random.key(0), 1, prompt, greedy)
        continuations.append((prompt, sample.text, _continue_in_torch(lm, module, prompt)))
    return continuations


@torch.no_grad()
def _continue_in_torch(lm: LanguageModel, module: torch.nn.Module, prompt: str) -> str:
    """Continue as makemore and nanoGPT do: read the last `block_size` tokens for each new one.

    A family that reads windows needs a full one: zeros before the first token.
    """
    start = [0] * getattr(module.eval(), "window", 1) if lm.vocab.has_end else []
    tokens = start + lm.vocab.encode(prompt)
    while len(tokens) - len(start) < lm.max_len - lm.vocab.has_end:
        token = int(module(torch.tensor([tokens[-lm.block_size :]]))[0, -1].argmax())
        if lm.vocab.has_end and token == 0:
            break
        tokens.append(token)
    return lm.vocab.decode_rows(np.array([tokens[len(start) :]]))[0]


def _with_kind(config: Config, kind: str) -> Config:
    """Return the config for another family. window_mlp reads windows, as in the lectures."""
    config = replace(config, model=replace(config.model, kind=kind))
    if (kind == "window_mlp") == (config.data.kind == "windows"):
        return config
    is_window = kind == "window_mlp"
    data_config = replace(
        config.data,
        kind="windows" if is_window else "lines",
        block_size=LECTURE_WINDOW if is_window else None,
    )
    return replace(config, data=data_config)


def main() -> None:
    check_flag("steps", STEPS.value, AT_LEAST_1)
    startup.configure_jax()  # makes CPU cores devices: the compiled program also runs on two
    # By default a TPU multiplies float32 in bfloat16 and a GPU in TF32. PyTorch does neither.
    jax.config.update("jax_default_matmul_precision", "highest")
    if FLOAT64.value:
        jax.config.update("jax_enable_x64", True)
    if CONFIG.value is None and not ALL.value:
        raise UserError("--config is missing; give one, such as --config gru, or --all")
    config = config_flag.read(CONFIG) if CONFIG.value else Config()
    kinds = list(MODELS) if ALL.value else [config.model.kind]
    configs = [_with_kind(config, kind) for kind in kinds]
    results = [compare(config, STEPS.value, COMPILED.value) for config in configs]
    print(as_table(results))
    for r in results:
        for num, reason in r["not_compared"].items():
            print(f"{r['kind']}: the compiled program on {num} devices is not compared: {reason}")
    if not ALL.value:
        print(as_details(results[0]))
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"versions": versions() | {"torch": torch.__version__}, "tolerances": TOLERANCES}
    write_json(folder / "parity.json", content | {"results": results})
    draw_curves(results, folder / "parity.png")
    if DOC.value:
        replace_table(Path(DOC.value), results[0]["dtype"], as_table(results))
    print(f"\n{folder / 'parity.json'} and {folder / 'parity.png'} have all results")
    for r in results:
        for name in r["exceeded"]:
            bound = TOLERANCES[r["dtype"]][name]
            print(
                f"compare: {r['kind']} in {r['dtype']}: {show_name(name)} differ by "
                f"{r['differences'][name]:.2e}, more than {bound:.0e}",
                file=sys.stderr,
            )
    if any(r["exceeded"] for r in results):
        command_line.leave(1)


if __name__ == "__main__":
    # Flags are global, and programs that import this module define flags of the same names.
    CONFIG = config_flags.DEFINE_config_file(
        "config", None, "config file, or the name of one in configs/"
    )
    ALL = flags.DEFINE_bool(
        "all", False, "compare all families, with the other settings of the config"
    )
    STEPS = flags.DEFINE_integer("steps", 200, "number of training steps")
    FLOAT64 = flags.DEFINE_bool("float64", False, "compute in float64 on both sides")
    COMPILED = flags.DEFINE_bool(
        "compiled", True, "in float32, also compare the compiled program of train.py"
    )
    WORKDIR = flags.DEFINE_string("workdir", "runs/parity", "folder for parity.json and the figure")
    DOC = flags.DEFINE_string("doc", None, "Markdown page; replace its table of this precision")
    command_line.run(main, __doc__, config_required=False, name="compare")
