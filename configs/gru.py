"""Gated recurrent units.

Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, arXiv:1406.1078.

    python train.py --config configs/gru.py

On names.txt, two CPU cores: 14 seconds, test loss 1.995. On makemore's list and split
after 20,000 steps: 2.001. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "gru"
    return config
