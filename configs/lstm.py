"""Long short-term memory.

Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850.

    python train.py --config configs/lstm.py

On names.txt, two CPU cores: 19 seconds, test loss 1.988. On makemore's list and split
after 20,000 steps: 2.003. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "lstm"
    return config
