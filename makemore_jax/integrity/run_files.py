"""Bring the files of a run that resumes to the state of its last checkpoint."""

import os
import re
from pathlib import Path


def undo_replacements(workdir: Path) -> None:
    """Rename checkpoints back that a process was replacing when it was killed.

    `Checkpoints.save` renames a step that it saves again, now with a dev loss, to STEP.replaced.
    """
    for folder in (workdir / "checkpoints").glob("*.replaced"):
        if not (final := folder.with_suffix("")).exists():
            folder.rename(final)


def cut(workdir: Path, step: int, is_repeated: bool = False) -> float:
    """Delete what metrics.jsonl and samples.txt have of later steps. A new run has step 0.

    With `is_repeated`, also delete the dev loss and the samples of `step`: they will be written
    again. Return the training time until `step` in seconds.
    """
    lines = _cut(workdir / "metrics.jsonl", step, r'{"step": (\d+)')
    if is_repeated:
        _cut(workdir / "metrics.jsonl", step - 1, r'{"step": (\d+), "dev_loss"')
    _cut(workdir / "samples.txt", step - is_repeated, r"step (\d+)")
    matches = [re.search(r'"seconds": ([\d.e-]+)', line) for line in lines]
    return max((float(match[1]) for match in matches if match), default=0.0)


def _cut(file: Path, step: int, heading: str) -> list[str]:
    """Cut a file before the first `heading` of a later step. Return the lines that are left.

    The new file replaces the old one: a process that is killed here, or a full disk, loses nothing.
    """
    kept: list[str] = []
    text = file.read_text("utf-8", "replace") if step and file.exists() else ""
    # Not splitlines, which also splits at U+2028. A killed process left a part of the last line.
    for line in text.split("\n")[:-1]:
        match = re.match(heading, line)
        if match and int(match[1]) > step:
            break
        kept.append(line + "\n")
    partial = file.with_suffix(f"{file.suffix}.partial")
    partial.write_text("".join(kept), "utf-8")
    os.replace(partial, file)
    return kept
