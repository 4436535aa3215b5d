"""The same training as train.py in plain PyTorch: python -m benchmarks.torch_run

This is makemore's loop: the reference model, AdamW, batches from tensors in memory, the exact dev
loss every `eval_every` steps, samples every `sample_every` steps. It saves the model with the
lowest dev loss. `--sample` samples from the saved model with makemore's loop, which processes the
whole line again for each character.
"""

if __name__ == "__main__":
    from makemore_jax.cli import command_line

    command_line.require_modules("torch_run", "torch")

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.configs import CONFIGS, config_of
from makemore_jax.torch_parity import weights


def read(path: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return the characters of a file of lines, and the inputs and targets (N, T) of all lines."""
    words = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    chars = sorted(set("".join(words)))
    token_of = {char: i + 1 for i, char in enumerate(chars)}
    block_size = max(map(len, words)) + 1
    inputs = torch.zeros(len(words), block_size, dtype=torch.long)
    targets = torch.full((len(words), block_size), -1)
    for i, word in enumerate(words):
        tokens = torch.tensor([token_of[char] for char in word])
        inputs[i, 1 : len(word) + 1] = tokens
        targets[i, : len(word)] = tokens
        targets[i, len(word)] = 0
    return chars, inputs, targets


@torch.no_grad()
def generate(module: torch.nn.Module, num: int, block_size: int) -> torch.Tensor:
    """Sample `num` lines (num, T). Each character takes a pass over the whole line so far."""
    tokens = torch.zeros(num, 1, dtype=torch.long, device=next(module.parameters()).device)
    for _ in range(block_size - 1):
        probs = F.softmax(module(tokens)[:, -1], dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(probs, 1)], dim=1)
    return tokens[:, 1:]


def decode(tokens: torch.Tensor, chars: list[str]) -> list[str]:
    """Convert tokens to text. Each line ends at its first 0."""
    texts = []
    for row in tokens.tolist():
        end = row.index(0) if 0 in row else len(row)
        texts.append("".join(chars[token - 1] for token in row[:end]))
    return texts


@torch.no_grad()
def mean_loss(module: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean loss per token over all lines."""
    total, count = 0.0, 0
    for x, y in zip(inputs.split(512), targets.split(512), strict=True):
        logits = module(x)
        total += F.cross_entropy(
            logits.flatten(0, 1), y.flatten(), ignore_index=-1, reduction="sum"
        ).item()
        count += int((y != -1).sum())
    return total / count


def train(kind: str, steps: int, folder: Path) -> None:
    """Train the reference model of configs/KIND.py and save the best state."""
    config = config_of(kind)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    chars, inputs, targets = read(CONFIGS.parent / config.data.path)
    order = torch.randperm(len(inputs))
    num_test = len(inputs) // 20
    test, dev, rest = order.split([num_test, num_test, len(inputs) - 2 * num_test])
    block_size = inputs.shape[1]
    module = weights.reference(config, len(chars) + 1, block_size)
    optimizer = torch.optim.AdamW(
        module.parameters(),
        config.optimizer.learning_rate,
        (config.optimizer.b1, config.optimizer.b2),
        weight_decay=config.optimizer.weight_decay,
    )
    best = float("inf")
    began = time.perf_counter()
    for step in range(1, steps + 1):
        batch = rest[torch.randint(len(rest), (config.train.batch_size,))]
        logits = module(inputs[batch])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[batch].flatten(), ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % config.train.log_every == 0:
            print(f"step {step}: train loss {loss.item():.4f}")
        if step % config.train.eval_every == 0 or step == steps:
            dev_loss = mean_loss(module, inputs[dev], targets[dev])
            print(f"step {step}: dev loss {dev_loss:.4f}, {time.perf_counter() - began:.1f} s")
            if dev_loss < best:
                best = dev_loss
                saved = {"kind": kind, "chars": chars, "block_size": block_size}
                states = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(saved | states, folder / "model.pt")
        if step % config.train.sample_every == 0 or step == steps:
            samples = generate(module, config.train.num_samples or 10, block_size)
            print(", ".join(decode(samples, chars)))
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True)["model"])
    first = rest[: config.train.train_eval_examples]
    for name, part in (("train", first), ("dev", dev), ("test", test)):
        print(f"{name} loss {mean_loss(module, inputs[part], targets[part]):.4f}")


def sample(num: int, folder: Path) -> None:
    """Sample `num` lines from the model that `train` saved."""
    saved = torch.load(folder / "model.pt", weights_only=True)
    module = weights.reference(
        config_of(saved["kind"]), len(saved["chars"]) + 1, saved["block_size"]
    )
    module.load_state_dict(saved["model"])
    print("\n".join(decode(generate(module, num, saved["block_size"]), saved["chars"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of model.pt")
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--sample", type=int, help="sample this many lines instead of training")
    args = parser.parse_args()
    if args.sample:
        sample(args.sample, args.folder)
    else:
        train(args.model, args.steps, args.folder)


if __name__ == "__main__":
    main()
