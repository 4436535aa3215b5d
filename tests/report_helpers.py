"""Small models and helpers for the tests of reports and figures."""

from contextlib import contextmanager

import pytest
from conftest import BLOCK, VOCAB, run, small_model

from makemore_jax.data.vocabulary import Vocab
from makemore_jax.decoding import LanguageModel
from makemore_jax.plots import style

CHARS = Vocab(tuple("abcdefghijklmnopqrstuvwxyz"[: VOCAB - 1]))
WORDS = ["dill", "a", "gecked", "fee"]
# Names of figures of layer statistics.
BY_MATRIX = {"updates", "ratios", "gradients"}
BY_LAYER = {"saturated", "activations", "activation_gradients"}


def small_lm(kind: str) -> LanguageModel:
    model, params = small_model(kind)
    return LanguageModel(model, {"params": params}, CHARS, BLOCK)


def plots_command(*flags, **env):
    return run("-m", "makemore_jax.plots", *flags, **env)


def axes_of(draw, *args) -> list:
    """Call a function that draws one figure and closes it. Return the axes of the figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style.plt, "close", lambda figure: None)
        draw(*args)
    figure = style.plt.gcf()
    style.plt.close(figure)
    return figure.axes


@contextmanager
def drawn_figures():
    """Collect figures by file name instead of saving them."""
    figures = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", lambda figure, file: figures.update({file.stem: figure}))
        yield figures
    for figure in figures.values():
        style.plt.close(figure)
