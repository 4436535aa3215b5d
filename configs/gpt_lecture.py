"""The GPT of the lecture on Tiny Shakespeare: 6 layers, 384 channels, ReLU, constant learning rate.

karpathy/ng-video-lecture, gpt.py: validation loss about 1.48. In the lecture, queries, keys and
values have no bias, and all initial weights are N(0, 0.02). Here the block is GPT-2's. The infinite
Shakespeare of the lecture's page is this model, trained on 80% of the text. The text is not part of
the project; the first command downloads it.

    python -m makemore_jax.download shakespeare
    python train.py --config configs/gpt_lecture.py
    python train.py --config configs/gpt_lecture.py --config.data.train_fraction=0.8 \
        --workdir runs/infinite
    python sample.py --workdir runs/infinite --stream
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/tinyshakespeare.txt"
    config.data.kind = "text"
    config.data.block_size = 256
    config.model.kind = "transformer"
    config.model.n_layer = config.model.n_head = 6
    config.model.n_embd = 384
    config.model.dropout = 0.2
    config.model.dropout_rng = "rbg"
    config.model.activation = "relu"
    config.model.init_scheme = "gpt2"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b2 = 0.999
    config.train.batch_size = 64
    config.train.steps = 5_000
    config.train.eval_every = 500
    config.train.sample_every = 1_000
    config.train.num_samples = 1
    return config
