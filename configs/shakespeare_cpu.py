"""A small GPT on Tiny Shakespeare, for two CPU cores: 4 layers, 4 heads, 128 channels, context 64.

nanoGPT's settings for a laptop (karpathy/nanoGPT, README), whose validation loss is 1.88, but for
the learning rate, here 4e-3: with its 1e-3 the loss is 1.9175 after 2,000 steps, with 4e-3 1.7869.
docs/shakespeare.md has the speed.
Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2).

Needs the text, which is not part of the project; the first command downloads it.

    python -m makemore_jax.data.download shakespeare
    python train.py --config configs/shakespeare_cpu.py
    python sample.py --workdir runs/shakespeare_cpu --stream
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/tinyshakespeare.txt"
    config.data.kind = "text"
    config.data.block_size = 64
    config.model.kind = "transformer"
    config.model.n_layer = config.model.n_head = 4
    config.model.n_embd = 128
    config.model.bias = False
    config.model.tied = True
    config.model.init_scheme = "gpt2"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.min_learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "matrices"
    config.optimizer.grad_clip = 1.0
    config.train.batch_size = 12
    config.train.steps = 2_000
    config.train.eval_every = 250
    config.train.sample_every = 1_000
    config.train.num_samples = 1
    return config
