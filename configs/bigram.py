"""A bigram table: the logits of the next character depend on the current one only.

Shannon 1948, A Mathematical Theory of Communication, section 3.

    python train.py --config configs/bigram.py

On names.txt, two CPU cores: 4 seconds, test loss 2.428. On makemore's list and split
after 20,000 steps: 2.450. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "bigram"
    return config
