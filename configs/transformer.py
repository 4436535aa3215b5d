"""A small GPT: 4 layers, 4 heads, 64 channels.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2);
Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.

    python train.py --config configs/transformer.py

On names.txt, two CPU cores: 33 seconds, test loss 1.994. On makemore's list and split
after 10,000 steps: 1.961. Both measured by `python -m benchmarks.reproduce`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "transformer"
    config.train.steps = 10_000
    return config
