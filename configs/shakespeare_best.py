"""Three GPTs on Tiny Shakespeare, averaged; the aim is a lower loss than nanoGPT's, on one GPU.

Each network has the sizes of configs/shakespeare.py and the block of configs/modern.py
(karpathy/nanochat, 2025), and is trained by Muon. The prediction is the mean of the three
(makemore_jax/mixture/).

Aim: a dev loss below 1.4655, the mean of three seeds of nanoGPT in SakanaAI/AI-Scientist, and below
1.4603, its lowest run. This config has not been trained yet; on a GPU, `python -m
benchmarks.accelerator --items shakespeare_best` trains it with three seeds. One network with these
settings reached dev losses of 1.4774 (mean of three seeds) and 1.4747 (lowest).
docs/shakespeare.md has the reasons for the choices.

Needs the text, which is not part of the project; the first command downloads it.

    python -m makemore_jax.download shakespeare
    python train.py --config configs/shakespeare_best.py
    python sample.py --workdir runs/shakespeare_best --stream
"""

from makemore_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.path = "data/tinyshakespeare.txt"
    config.data.kind = "text"
    config.data.block_size = 256
    config.model.kind = "mixture"
    config.model.networks = 3
    config.model.n_layer = config.model.n_head = 6
    config.model.n_embd = 384
    config.model.dropout = 0.4
    config.model.dropout_rng = "rbg"
    config.model.layer_loop = "scan"  # Muon updates all layers and networks together
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1.0
    config.optimizer.decay = "matrices"
    config.optimizer.grad_clip = 1.0
    config.train.batch_size = 192  # 64 for each network
    config.train.steps = 1_500
    config.train.eval_every = 100
    config.train.sample_every = 500
    config.train.num_samples = 1
    return config
