"""A plain recurrent network.

Mikolov et al. 2010, Recurrent neural network based language model, Interspeech.

    python train.py --config configs/rnn.py

On names.txt, two CPU cores: 12 seconds, test loss 2.035. On makemore's list and split
after 20,000 steps: 2.051. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "rnn"
    return config
