"""A small GPT with nanochat's block instead of GPT-2's: 4 layers, 4 heads, 64 channels.

karpathy/nanochat (2025), nanochat/gpt.py; makemore_jax/models/modern.py names the papers.

    python train.py --config configs/modern.py

On names.txt, two CPU cores: 47 seconds, test loss 1.986. On makemore's list and split after 10,000
steps: 1.953. Both by `python -m benchmarks.reproduce`.
docs/results.md compares this model with configs/transformer.py, each with AdamW and with Muon
(--config.optimizer.name=muon).
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "modern"
    config.train.steps = 10_000
    return config
