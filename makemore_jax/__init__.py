"""makemore in functional JAX: text in, more text like it out."""

import sys

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # python -m makemore_jax.MODULE, which is about to import jax
    from makemore_jax.cli import interrupts

    interrupts.exit_immediately()
