"""The model card of an exported run: model, training command and losses."""

import copy
import json
import math
import runpy
import shlex
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from makemore_jax import config as config_lib
from makemore_jax import workdir
from makemore_jax.checkpoint import Checkpoints
from makemore_jax.cli import resources
from makemore_jax.config import Config
from makemore_jax.integrity import resume

CARD = """\
---
library_name: jax
tags:
- makemore
- character-level
---

# {kind}, {num_params:,} parameters

A character-level language model that samples {what}, trained with makemore_jax.

| | |
|---|---|
| data | `{data}`, sha256 `{sha256}` |
| vocabulary | {vocab_size} tokens |
| context | {block_size} tokens |
| checkpoint | step {step:,}, {checkpoint} |
| trained with | {versions} |

## Losses

{losses}

## Training command

The settings of the last start of this run. If the run was resumed, earlier steps may have used
other settings.

```
{command}
```

## Files

`model.safetensors` has the parameters, `vocab.json` the characters in token order, and `decode.jax`
the sampling loop, serialized by `jax.export`. `docs/export.md` of makemore_jax has a loader that
needs only jax, numpy and flatbuffers.
"""


def as_markdown(
    folder: Path,
    run: workdir.Run,
    num_params: int,
    checkpoint: str,
    checkpoints: Checkpoints,
) -> str:
    """Return the model card of the "best" or the "latest" checkpoint of a run."""
    config, step = run.config, checkpoints.steps()[checkpoint]
    versions = json.loads((folder / "config.json").read_text("utf-8")).get("versions", {})
    return CARD.format(
        kind=config.model.kind,
        num_params=num_params,
        what="lines" if run.vocab.has_end else "text",
        data=PureWindowsPath(run.data_file).name,
        sha256=run.data_sha256,
        vocab_size=run.vocab.size,
        block_size=config.data.block_size,
        step=step,
        checkpoint="lowest dev loss" if checkpoint == "best" else "latest",
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        losses=_losses(folder, config, step, checkpoints),
        command=train_command(config),
    )


def _losses(folder: Path, config: Config, step: int, checkpoints: Checkpoints) -> str:
    """Return a table of the losses of the checkpoint at `step`, or a sentence if there are none."""
    steps = checkpoints.steps()
    summary = resume.read_summary(folder, steps["latest"])
    if step != steps["best"] or not math.isfinite(checkpoints.best_dev_loss()):
        return "No losses are recorded for this checkpoint."
    if summary is None or summary["best_step"] != step:
        return f"dev {checkpoints.best_dev_loss():.4f} nats per token. Training is not finished."
    num_eval = config.train.eval_examples
    counts = {"test": num_eval, "dev": num_eval, "train": config.train.train_eval_examples}
    share = {name: f"at most {n:,}" if n else "all" for name, n in counts.items()}
    rows = [f"| {name} | {summary[f'{name}_loss']:.4f} | {share[name]} |" for name in counts]
    return "\n".join(
        [
            "Mean nats per token over each example once. The checkpoint has the lowest dev loss.",
            "",
            "| split | loss | examples |",
            "|---|---|---|",
            *rows,
        ]
    )


def public_config(config: Config) -> dict[str, Any]:
    """Return the config as JSON, without the folder of the data file."""
    config = copy.deepcopy(config)
    config.data.path = public_path(config.data.path)
    return config_lib.to_json(config)


def public_path(path: str) -> str:
    """Return a path without private folders: only the file name of an absolute path."""
    for kind in (PurePosixPath, PureWindowsPath):  # a run may come from another operating system
        if kind(path).is_absolute():
            return kind(path).name
    return path


def train_command(config: Config) -> str:
    """Return the train.py command for a config, with the bundled config that needs fewest flags."""
    target = config_lib.flatten(config)
    target["data.path"] = public_path(target["data.path"])
    overrides = {}
    for name in resources.config_names():
        get_config = runpy.run_path(str(resources.CONFIGS / f"{name}.py"))["get_config"]
        bundled = config_lib.flatten(get_config())
        overrides[name] = {
            field: value for field, value in target.items() if value != bundled[field]
        }
    name = min(overrides, key=lambda name: len(overrides[name]))
    parts = [f"--config.{field}={value}" for field, value in overrides[name].items()]
    return " \\\n    ".join(
        [f"python train.py --config configs/{name}.py", *map(shlex.quote, parts)]
    )
