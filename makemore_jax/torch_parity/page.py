"""Show JAX beside PyTorch: the code of both sides, and how far their results differ.

    python -m makemore_jax.torch_parity.page
    python -m makemore_jax.torch_parity.page --markdown docs/jax-beside-pytorch.md

Writes one HTML file, and with --markdown the same page without measured numbers. The code is read
from the source files and every pair is run, so the page is always up to date. Exits with 1 if a
difference exceeds its bound, and names the pair.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("page", "torch")

import sys
from pathlib import Path

import jax
import torch
from absl import flags

from makemore_jax.cli import command_line, startup
from makemore_jax.errors import UserError
from makemore_jax.torch_parity import measure, page_html, page_markdown
from makemore_jax.torch_parity.difference import Difference
from makemore_jax.torch_parity.page_content import sections
from makemore_jax.versions import versions


def measure_all() -> dict[str, Difference]:
    """Return the differences of all pairs by their anchors, and print them."""
    differences = {}
    for section in sections():
        for pair in section.pairs:
            difference = measure.measure(pair, section.kind)
            differences[section.anchor(pair)] = difference
            shown = [f"{value:9.1e}" if value is not None else " " * 9 for value in difference]
            print(f"{shown[0]} {shown[1]}  {section.title}: {pair.title}", flush=True)
    return differences


def about() -> dict[str, str]:
    """Return the versions and the sizes of the inputs."""
    numbers = versions() | {"torch": torch.__version__}
    sizes = measure.SIZES | {"vocabulary": measure.VOCAB_SIZE}
    return {
        "versions": ", ".join(f"{name} {number}" for name, number in numbers.items()),
        "sizes": ", ".join(f"{name} {size}" for name, size in sizes.items()),
    }


def main() -> None:
    startup.use_compilation_cache()
    if jax.config.jax_num_cpu_devices < 1:
        jax.config.update("jax_num_cpu_devices", 2)  # the program of train.py runs on two
    if len(jax.devices()) < 2:
        raise UserError(
            "the page needs two devices, but only one is available: set JAX_PLATFORMS=cpu and "
            "JAX_NUM_CPU_DEVICES=2"
        )
    html_file = Path(HTML.value)
    html_file.parent.mkdir(parents=True, exist_ok=True)
    # By default a TPU multiplies float32 in bfloat16 and a GPU in TF32. PyTorch does neither.
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", True)
    differences = measure_all()
    html_file.write_text(page_html.as_html(differences, about()), "utf-8")
    print(f"\n{html_file} has the page")
    if MARKDOWN.value:
        Path(MARKDOWN.value).write_text(page_markdown.as_markdown(), "utf-8")
        print(f"{MARKDOWN.value} has the page without numbers")
    exceeded = [
        f"{section.title}: {pair.title}"
        for section in sections()
        for pair in section.pairs
        if differences[section.anchor(pair)].exceeds(pair.bounds)
    ]
    for name in exceeded:
        print(f"page: {name}: JAX and PyTorch differ by more than the bound", file=sys.stderr)
    if exceeded:
        command_line.leave(1)


if __name__ == "__main__":
    HTML = flags.DEFINE_string("html", "runs/jax-beside-pytorch.html", "the HTML file to write")
    MARKDOWN = flags.DEFINE_string("markdown", None, "the Markdown file to write")
    command_line.run(main, __doc__, name="page")
