"""How a PyTorch program samples, draws batches, resumes and compiles.

Each function is the counterpart of one in JAX (`training_pairs.py`). They do what makemore does, in
the usual way of PyTorch.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from makemore_jax.config import OptimizerConfig
from makemore_jax.torch_parity.step import make_torch_step


class Layers(torch.nn.Module):
    """The layers that all families use."""

    def __init__(self, vocab_size: int, n_embd: int, n_embd2: int):
        super().__init__()
        self.wte = torch.nn.Embedding(vocab_size, n_embd)
        self.linear = torch.nn.Linear(n_embd, n_embd2)
        self.norm = torch.nn.LayerNorm(n_embd2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.linear(self.wte(tokens)))


def next_logits(module: torch.nn.Module, tokens: Tensor, block_size: int) -> Tensor:
    """Return the logits of the next token: all tokens of the context are computed again.

    (B, T) -> (B, V)
    """
    return module(tokens[:, -block_size:])[:, -1]


def shuffled(n: int, seed: int) -> Tensor:
    """Return a permutation of 0 to n - 1. The seed is global: every later draw depends on it."""
    torch.manual_seed(seed)
    return torch.randperm(n)


class CharDataset(Dataset):
    """Words as integers, as in makemore: 0 starts and ends a word, -1 is no target."""

    def __init__(self, words: list[str], chars: list[str], block_size: int):
        self.words, self.block_size = words, block_size
        self.token_of = {char: i + 1 for i, char in enumerate(chars)}

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([self.token_of[char] for char in self.words[index]])
        inputs = torch.zeros(self.block_size, dtype=torch.long)
        targets = torch.full((self.block_size,), -1)
        inputs[1 : len(tokens) + 1] = tokens
        targets[: len(tokens)] = tokens
        targets[len(tokens)] = 0
        return inputs, targets


def make_loader(dataset: CharDataset, batch_size: int, generator: torch.Generator) -> DataLoader:
    """Return an endless iterator over random batches, drawn with replacement."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**9, generator=generator)
    return DataLoader(dataset, batch_size, sampler=sampler)


def draw_from(generator: torch.Generator, num_lines: int, batch_size: int) -> Tensor:
    """Return random indices (B,) and advance the generator. To resume, restore its state."""
    return torch.randint(num_lines, (batch_size,), generator=generator)


def train_compiled(
    module: torch.nn.Module, config: OptimizerConfig, loader: DataLoader, num_steps: int, **options
) -> list[float]:
    """Return the losses of `num_steps` steps. The model is compiled; Python runs in between.

    `options` are those of torch.compile.
    """
    step, losses = make_torch_step(torch.compile(module, **options), config, num_steps), []
    for inputs, targets in loader:
        losses.append(step(inputs, targets))
        if len(losses) == num_steps:
            break
    return losses
