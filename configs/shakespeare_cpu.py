"""A small GPT on Tiny Shakespeare, for two CPU cores: 4 layers, 4 heads, 128 channels, context 64.

nanoGPT's settings for a laptop (karpathy/nanoGPT, README) with a learning rate of 4e-3 instead of
1e-3. Published validation loss: 1.88. This config: dev loss 1.7845 after 2,000 steps, measured by
`python -m benchmarks.shakespeare`. More losses and the speed are in docs/shakespeare.md.
Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2).

Needs the text, which is not part of the project; the first command downloads it.

    python -m makemore_jax.download shakespeare
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
