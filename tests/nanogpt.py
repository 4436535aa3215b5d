"""nanoGPT's model, optimizer, learning rate and checkpoint, written anew for the tests.

The names, the shapes and the numbers are those of karpathy/nanoGPT (model.py, train.py, sample.py).
Attention is written out, so that this shares no code with `torch_parity/models.py`.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


class Norm(nn.Module):
    def __init__(self, width, has_bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, bias=c.bias)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=c.bias)
        self.n_head = c.n_head

    def forward(self, x):
        T, heads = x.shape[1], []
        mask = torch.ones(T, T, dtype=torch.bool).tril()
        per_head = [part.chunk(self.n_head, dim=-1) for part in self.c_attn(x).chunk(3, dim=-1)]
        for q, k, v in zip(*per_head, strict=True):  # (B, T, hs) each
            scores = torch.einsum("bqc,bkc->bqk", q, k) / math.sqrt(q.shape[-1])
            heads.append(scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v)
        return self.c_proj(torch.cat(heads, dim=-1))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn = Norm(c.n_embd, c.bias), Attention(c)
        self.ln_2 = Norm(c.n_embd, c.bias)
        self.mlp = nn.Module()
        self.mlp.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd, bias=c.bias)
        self.mlp.c_proj = nn.Linear(4 * c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        h = self.mlp.c_fc(self.ln_2(x))
        exact_gelu = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        return x + self.mlp.c_proj(exact_gelu)


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, body = config, nn.Module()
        body.wte = nn.Embedding(config.vocab_size, config.n_embd)
        body.wpe = nn.Embedding(config.block_size, config.n_embd)
        body.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        body.ln_f = Norm(config.n_embd, config.bias)
        self.transformer = body
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        body.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        body = self.transformer
        x = body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))
        for block in body.h:
            x = block(x)
        return self.lm_head(body.ln_f(x))

    def make_optimizer(self, weight_decay, learning_rate, betas):
        """Return AdamW with two groups: parameters with two axes decay, the rest does not."""
        decaying = [p for p in self.parameters() if p.dim() >= 2]
        rest = [p for p in self.parameters() if p.dim() < 2]
        groups = [{"params": decaying, "weight_decay": weight_decay}]
        groups += [{"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


SETTINGS = {
    "dataset": "shakespeare_char",
    "gradient_accumulation_steps": 1,
    "batch_size": 5,
    "learning_rate": 3e-3,
    "max_iters": 90,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "grad_clip": 0.6,
    "decay_lr": True,
    "warmup_iters": 17,
    "lr_decay_iters": 41,
    "min_lr": 3e-4,
    "eval_interval": 10,
    "device": "cpu",
    "compile": True,
}


def learning_rate(step, settings):
    """Return the learning rate of a step: linear warm-up, then half a cosine, then constant."""
    if not settings["decay_lr"]:
        return settings["learning_rate"]
    warmup, end = settings["warmup_iters"], settings["lr_decay_iters"]
    peak, floor = settings["learning_rate"], settings["min_lr"]
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    ratio = min(1.0, (step - warmup) / (end - warmup))
    return floor + 0.5 * (1 + math.cos(math.pi * ratio)) * (peak - floor)


def train(model, optimizer, batches, first, settings):
    """Take one step for each batch (inputs, targets). Return the losses."""
    losses = []
    for step, (inputs, targets) in enumerate(batches, start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        if settings["grad_clip"]:
            nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def checkpoint(model, optimizer, step, settings, prefix=""):
    """Return the content of ckpt.pt. A compiled model has a `prefix` in its names."""
    return {
        "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": asdict(model.config),
        "iter_num": step,
        "best_val_loss": torch.tensor(2.5),
        "config": settings,
    }


def resume(file):
    """Return what train.py --init_from=resume loads: model, optimizer, step, best loss."""
    content = torch.load(file, map_location="cpu")
    args = content["model_args"]
    model = GPT(GPTConfig(**args))
    model.load_state_dict(content["model"])
    settings = content["config"]
    betas = (settings["beta1"], settings["beta2"])
    optimizer = model.make_optimizer(settings["weight_decay"], settings["learning_rate"], betas)
    optimizer.load_state_dict(content["optimizer"])
    return model, optimizer, content["iter_num"], content["best_val_loss"]


@torch.no_grad()
def generate(model, tokens, count, noise=None):
    """Return `count` tokens after `tokens`, which are cut to the context.

    The tokens are greedy, or the maximum after adding `noise` (count, V) to the logits, which is a
    sample of the distribution if the noise is Gumbel's.
    """
    tokens, start = list(tokens), len(tokens)
    for i in range(count):
        logits = model(torch.tensor([tokens[-model.config.block_size :]]))[0, -1]
        tokens.append(int((logits if noise is None else logits + noise[i]).argmax()))
    return tokens[start:]
