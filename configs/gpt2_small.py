"""GPT-2 small, 124M parameters with GPT-2's vocabulary, for many devices: 12 layers, 768 channels.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2. Tokens are the
characters of the text, so the model has 85M parameters plus the embeddings of its characters. Batch
size and schedule follow nanoGPT's config/train_gpt2.py: 0.5M tokens per step.
docs/scaling.md explains how to run it on many devices and hosts, and what that costs.

Without --config.data.path it trains on the text that the first command downloads.

    python -m makemore_jax.download shakespeare
    python train.py --config configs/gpt2_small.py --config.data.path=TEXT --config.mesh.fsdp=True
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/tinyshakespeare.txt"
    config.data.kind = "text"
    config.data.block_size = 1_024
    config.model.kind = "transformer"
    config.model.n_layer = config.model.n_head = 12
    config.model.n_embd = 768
    config.model.tied = True
    config.model.init_scheme = "gpt2"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.optimizer.learning_rate = 6e-4
    config.optimizer.min_learning_rate = 6e-5
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 2_000
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "matrices"
    config.optimizer.grad_clip = 1.0
    config.train.batch_size = 480
    config.train.accumulate = 5
    config.train.steps = 600_000
    config.train.eval_every = 1_000
    config.train.eval_examples = 1_024
    config.train.sample_every = 10_000
    config.train.checkpoint_every = 5_000
    config.train.num_samples = 1
    return config
