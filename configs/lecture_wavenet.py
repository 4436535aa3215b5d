"""8 characters of context, fused in pairs in three layers, with batch norm.

van den Oord et al. 2016, WaveNet, arXiv:1609.03499, figure 3; the course's lecture 6.

Needs makemore's list of names, which is not part of the project; the first command downloads it.

    python -m makemore_jax.download names
    python train.py --config configs/lecture_wavenet.py

On makemore's list, two CPU cores: 765 seconds, train loss 1.7793, dev 1.9882; the course
has 1.7690 and 1.9937. Measured by `python -m benchmarks.lectures`.
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/makemore_names.txt"
    config.data.kind = "windows"
    config.data.split = "lecture"
    config.data.block_size = 8
    config.model.kind = "window_mlp"
    config.model.n_layer = 3
    config.model.n_embd = 24
    config.model.n_embd2 = 128
    config.model.fuse = 2
    config.model.init_scale = "fan_in"
    config.model.batch_norm = "running"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "step"
    config.optimizer.step_size = 150_000
    config.train.steps = 200_000
    config.train.log_every = 1_000
    config.train.eval_every = 10_000
    config.train.sample_every = 50_000
    config.train.checkpoint_every = 50_000
    config.train.num_samples = 20
    config.train.train_eval_examples = 200_000  # all examples, as in the lecture
    return config
