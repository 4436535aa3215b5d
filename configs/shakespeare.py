"""A GPT on Tiny Shakespeare, for one GPU: 6 layers, 6 heads, 384 channels, context 256.

nanoGPT's character model (karpathy/nanoGPT, config/train_shakespeare_char.py). nanoGPT's validation
loss is 1.4697 after about 3 minutes on an A100.
Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2).

Needs the text, which is not part of the project; the first command downloads it.

    python -m makemore_jax.download shakespeare
    python train.py --config configs/shakespeare.py
    python sample.py --workdir runs/shakespeare --stream
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
    config.model.bias = False
    config.model.tied = True
    config.model.init_scheme = "gpt2"
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.min_learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = "matrices"
    config.optimizer.grad_clip = 1.0
    config.train.batch_size = 64
    config.train.steps = 5_000
    config.train.eval_every = 250
    config.train.sample_every = 1_000
    config.train.num_samples = 1
    return config
