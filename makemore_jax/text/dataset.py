"""`text`: one long text. Every crop of `block_size` characters is an example."""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from makemore_jax.config import DataConfig
from makemore_jax.data import Dataset
from makemore_jax.data.vocabulary import Vocab
from makemore_jax.errors import UserError
from makemore_jax.text import token_file
from makemore_jax.text.crops import Text, TextFile

TOKEN_FILE_MIN_BYTES = 2**28  # with memory_map=auto, larger texts are read from a token file
SAMPLE_LEN = 500  # default number of characters of a sample
RULE = "-" * 20  # printed between samples


@dataclass(frozen=True, kw_only=True)
class TextDataset(Dataset):
    """A text, split by position: the last part is both dev and test."""

    source: DataConfig

    def describe_splits(self) -> str:
        """Return the sizes of the splits; dev and test are the same characters."""
        sizes = [f"{split.num_chars:,} {name}" for name, split in self.splits.items()]
        return f"{', '.join(sizes)} {self.unit}"

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return the lines of all samples, with a rule between two samples."""
        del is_cut  # a text has no end before which it could be cut
        return f"\n{RULE}\n".join(texts).split("\n")

    def prepare(self) -> None:
        """Write the token file if the splits read one. Raise UserError if it can't be used."""
        train, dev = self.splits["train"], self.splits["dev"]
        if isinstance(train, TextFile):
            num_chars = train.num_chars + dev.num_chars
            token_file.write(Path(train.file), self.source, self.vocab, num_chars, self.sha256)


def load(config: DataConfig, seed: int, folder: Path | None = None) -> TextDataset:
    """Read and split a text. Raise UserError if it can't be used.

    With a `folder`, the splits of a large text read a token file there. `prepare` writes it.
    """
    del seed  # the split is by position
    if config.block_size is None:
        raise UserError(
            "data.block_size is not set; data.kind=text needs the context length in "
            "characters, such as 64"
        )
    if config.dedup:
        raise UserError("data.dedup: true must be false for data.kind=text, which has no lines")
    vocab, num_chars, sha256 = token_file.scan(config)
    num_train = int(num_chars * config.train_fraction)
    for name, num in (("train", num_train), ("dev", num_chars - num_train)):
        if num <= config.block_size:
            raise UserError(
                f"data.path: {config.path} has {num_chars} characters, too few: data.train_fraction"
                f"={config.train_fraction} leaves {num} of them for {name}, and a crop takes "
                f"data.block_size + 1 = {config.block_size + 1}"
            )
    is_large = Path(config.path).stat().st_size >= TOKEN_FILE_MIN_BYTES
    if folder and (config.memory_map == "always" or (config.memory_map == "auto" and is_large)):
        dtype = np.min_scalar_type(vocab.size - 1).name
        in_file = {"file": str(folder / "text.tokens"), "dtype": dtype}
        train = TextFile(None, num_train, config.block_size, **in_file)
        dev = TextFile(None, num_chars - num_train, config.block_size, **in_file, first=num_train)
    else:
        tokens = np.concatenate(list(token_file.encode_parts(config, vocab, num_chars)))
        train = Text(jnp.asarray(tokens[:num_train]), num_train, config.block_size)
        dev = Text(jnp.asarray(tokens[num_train:]), num_chars - num_train, config.block_size)
    return TextDataset(
        vocab=vocab,
        block_size=config.block_size,
        max_len=SAMPLE_LEN,
        splits={"train": train, "dev": dev, "test": dev},
        sha256=sha256,
        unit="characters",
        num_samples=1,
        source=config,
    )


def encode(text: str, vocab: Vocab, block_size: int) -> Text:
    """Return a text of known characters as a split."""
    tokens = np.array(vocab.encode(text), np.min_scalar_type(vocab.size - 1))
    return Text(jnp.asarray(tokens), len(tokens), block_size)
