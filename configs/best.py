"""The lowest held-out loss on makemore's list: four networks and counted n-grams as one model.

Each network has the block of modern.py and is trained by Muon, with dropout. The prediction is the
mean of the networks, mixed with n-grams (makemore_jax/mixture/).

    python -m makemore_jax.download names
    python train.py --config configs/best.py --config.data.path=data/makemore_names.txt \
        --config.data.split=makemore

The test loss is 1.855; that of configs/transformer.py is 1.954 at its best step. On names.txt it is
1.871, and that of configs/modern.py 1.986. The 10,000 steps take 14 minutes on two CPU cores.
docs/leaderboard.md has other splits. The choices were made on a part of the training lines;
`python -m benchmarks.best_choices` compares some of them.
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
