"""The MLP of the lectures, with initial weights that do not saturate tanh.

He et al. 2015, Delving Deep into Rectifiers, arXiv:1502.01852; the course's lecture 4.

Needs makemore's list of names, which is not part of the project; the first command downloads it.

    python -m makemore_jax.download names
    python train.py --config configs/lecture_mlp_scaled.py

On makemore's list, two CPU cores: 75 seconds, train loss 2.0391, dev 2.1031; the course
has 2.0377 and 2.1070. Measured by `python -m benchmarks.lectures`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/makemore_names.txt"
    config.data.kind = "windows"
    config.data.split = "lecture"
    config.data.block_size = 3
    config.model.kind = "window_mlp"
    config.model.n_layer = 1
    config.model.n_embd = 10
    config.model.n_embd2 = 200
    config.model.init_scale = "kaiming"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "step"
    config.optimizer.step_size = 100_000
    config.train.steps = 200_000
    config.train.log_every = 1_000
    config.train.eval_every = 10_000
    config.train.sample_every = 50_000
    config.train.checkpoint_every = 50_000
    config.train.num_samples = 20
    config.train.train_eval_examples = 200_000  # all examples, as in the lecture
    return config
