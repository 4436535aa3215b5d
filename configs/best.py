"""The lowest held-out loss on makemore's list: a network mixed with counted n-grams.

The block of 2025 (modern.py), 128 channels wide, with dropout, trained by Muon; its predictions are
mixed with those of n-grams (makemore_jax/ngrams/mixture.py).

    python train.py --config configs/best.py --config.data.path=data/makemore_names.txt \
        --config.data.split=makemore
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.model.kind = "mixture"
    config.model.networks = 4
    config.model.dropout = 0.1
    config.model.ngram_contexts = 131_072
    config.model.ngram_weight = 0.35
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.train.batch_size = 256
    config.train.steps = 10_000
    config.train.eval_every = 10_000  # the last model is the result: no step is chosen
    config.train.sample_every = 10_000
    return config
