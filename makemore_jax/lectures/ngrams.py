"""N-grams with Kneser-Ney smoothing: python -m makemore_jax.lectures.ngrams --data names.txt

A table of counts, as in `bigram_counts`, with longer contexts. An n-gram of order n predicts a
token from the n - 1 tokens before it. Most long contexts are rare, so each order gives a part of
its probability to the order below. This is interpolated Kneser-Ney smoothing (Kneser and Ney,
"Improved backing-off for m-gram language modeling", 1995; Chen and Goodman, "An empirical study of
smoothing techniques for language modeling", 1999). It is the baseline that every network should
beat. The command prints the losses of orders 1 to 6, and samples from the one with the lowest dev
loss.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from makemore_jax.assemble import load_data
from makemore_jax.cli.arguments import Parser
from makemore_jax.cli.fields import NUM_SAMPLES, check_flag
from makemore_jax.config import SEED, DataConfig
from makemore_jax.lectures import command
from makemore_jax.mixture.counting import count, nll, sample
from makemore_jax.original_splits import SPLITS

MAX_ORDER = 6


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("lectures.ngrams", __doc__)
    parser.add_argument("--data", default="names.txt", help="one word per line (names.txt)")
    parser.add_argument("--split", default="lecture", choices=list(SPLITS), help="(lecture)")
    parser.add_argument("--seed", type=int, default=3407, help="random seed (3407)")
    parser.add_argument("--num", type=int, default=10, help="number of samples (10)")
    arguments = parser.parse_args(argv)
    command.run("ngrams", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    check_flag("seed", arguments.seed, SEED)
    check_flag("num", arguments.num, NUM_SAMPLES)
    with command.reading_data():
        config = DataConfig(path=arguments.data, split=arguments.split)
        dataset = load_data(config, arguments.seed)
    train, vocab_size = dataset.splits["train"], dataset.vocab.size
    orders = [n for n in range(1, MAX_ORDER + 1) if vocab_size**n < 2**63]
    models = [count(train, order, vocab_size) for order in orders]
    losses = []
    print("order  n-grams   train     dev    test")
    for order, model in zip(orders, models, strict=True):
        losses.append({name: nll(model, split) for name, split in dataset.splits.items()})
        num_grams = sum(len(table.grams) for table in model.tables)
        figures = "".join(f"{losses[-1][name]:8.4f}" for name in ("train", "dev", "test"))
        print(f"{order:5}{num_grams:9,}{figures}")
    best = min(range(len(models)), key=lambda i: losses[i]["dev"])
    rng = np.random.default_rng(arguments.seed)
    samples = sample(models[best], rng, arguments.num, dataset.max_len)
    print(f"\nsamples of order {orders[best]}:")
    print("\n".join("".join(dataset.vocab.chars[t - 1] for t in tokens) for tokens in samples))


if __name__ == "__main__":
    main()
