"""A dataset of lines that finds samples in train, dev and test. The other samples are new."""

from dataclasses import dataclass, fields
from pathlib import Path

from makemore_jax.config import DataConfig
from makemore_jax.data import lines
from makemore_jax.original_splits import SPLITS


@dataclass(frozen=True, kw_only=True)
class KnownLines(lines.LinesDataset):
    """A file of lines that finds and groups samples."""

    def found_in(self, texts: list[str], is_cut: list[bool] | None = None) -> list[str]:
        """Return for each text the first of train, test, dev that contains it, else 'new'.

        A sample that reached the maximum length is 'cut': its whole line is unknown.
        """
        places = {}
        for name in ("dev", "test", "train"):
            places |= dict.fromkeys(set(texts).intersection(self.words[name]), name)
        pairs = zip(texts, is_cut or [False] * len(texts), strict=True)
        return ["cut" if cut else places.get(text, "new") for text, cut in pairs]

    def show(self, texts: list[str], is_cut: list[bool]) -> list[str]:
        """Return samples as printed: one per line, grouped by `found_in`, '""' for an empty one."""
        shown, pairs = [], list(zip(texts, self.found_in(texts, is_cut), strict=True))
        for place in ("train", "dev", "test", "new", "cut"):
            group = [f"  {text}" if text else '  ""' for text, label in pairs if label == place]
            heading = f"in {place}:" if place in self.words else f"{place}:"
            shown += [heading, *group] if group else []
        return shown


def load(config: DataConfig, seed: int, folder: Path | None = None) -> KnownLines:
    """Return `lines.load(...)`, with any of the splits and the methods of KnownLines."""
    dataset = lines.load(config, seed, folder, SPLITS)
    return KnownLines(**{f.name: getattr(dataset, f.name) for f in fields(dataset)})
