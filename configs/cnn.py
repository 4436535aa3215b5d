"""Dilated causal convolutions: four layers with dilations 1, 2, 4 and 8.

van den Oord et al. 2016, WaveNet: A Generative Model for Raw Audio, arXiv:1609.03499.

    python train.py --config configs/cnn.py

On names.txt, two CPU cores: 23 seconds, test loss 1.986. On makemore's list and split
after 20,000 steps: 1.975. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "cnn"
    return config
