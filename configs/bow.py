"""A causal bag of words: the average of all characters so far.

Like CBOW (Mikolov et al. 2013, arXiv:1301.3781, section 3.1), but causal, as in makemore.

    python train.py --config configs/bow.py

On names.txt, two CPU cores: 9 seconds, test loss 2.134. On makemore's list and split
after 20,000 steps: 2.160. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "bow"
    return config
