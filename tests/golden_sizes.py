"""Sizes of the stored arrays in tests/golden, mostly primes."""

from makemore_jax.config import OptimizerConfig

SIZES = {"vocab_size": 13, "block_size": 7, "n_layer": 2, "n_head": 3, "n_embd": 6, "n_embd2": 5}
BATCH = (3, 5)
STEPS = 7


def optimizer_configs() -> dict[str, OptimizerConfig]:
    """Return optimizer configs: AdamW by default, SGD with a step schedule, and a cosine."""
    return {
        "adamw": OptimizerConfig(learning_rate=0.01),
        "sgd": OptimizerConfig("sgd", 0.3, schedule="step", step_size=3, gamma=0.1),
        "cosine": OptimizerConfig(
            learning_rate=0.01, schedule="cosine", warmup_steps=2, min_learning_rate=1e-3
        ),
    }
