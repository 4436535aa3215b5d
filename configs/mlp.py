"""An MLP on the concatenated embeddings of the characters so far.

Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3.

    python train.py --config configs/mlp.py

On names.txt, two CPU cores: 11 seconds, test loss 2.038. On makemore's list and split
after 20,000 steps: 2.042. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "mlp"
    return config
