"""The page of a run: a report and its pictures as one HTML file.

All its text goes through html.escape, whatever the data hold.
"""

import base64
import html
import math
from collections.abc import Callable

from makemore_jax.report import EDGE, MOST_LINES, Report, shown

STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: #fff; color: #1c2430;
       font: 16px/1.5 system-ui, sans-serif }
h1 { margin: .5rem 0; font-size: 1.7rem; overflow-wrap: anywhere }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.25rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; overflow-wrap: anywhere }
p { margin: .25rem 0 1rem; max-width: 46rem; color: #4a5564 }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; margin: 0 }
dt { color: #4a5564 }
dd { margin: 0; overflow-wrap: anywhere }
code { white-space: nowrap }
.pictures { display: grid; gap: 1rem; align-items: start;
            grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.pictures.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)) }
figure { margin: 0 }
figcaption { font-size: .85rem; color: #4a5564 }
img { display: block; width: 100%; max-width: 34rem; height: auto }
.box { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e3e7ec; text-align: left;
         white-space: nowrap }
thead th { font-size: .85rem; font-weight: 600; color: #4a5564 }
.number { text-align: right }
.surprise td { padding: .2rem .3rem; min-width: 1.9rem; text-align: center;
               border: 2px solid #fff }
.surprise small { display: block; font-size: .75rem }
@media (max-width: 30rem) { th, td { padding: .15rem .35rem; font-size: .9rem }
                            .surprise td { min-width: 1.6rem; padding: .15rem } }
"""


def as_html(report: Report, pictures: dict[str, bytes]) -> str:
    """One HTML file with everything in it. `pictures` are PNGs by name, as plots/write.py names them."""
    sections: list[tuple[str, Callable[[Report, dict[str, bytes]], str]]] = [
        ("Training", _training),
        ("Inside", _inside),
        ("Samples", _samples),
        ("Surprise", _surprise),
        ("Attention", _attention),
        ("The characters", _characters),
        ("Bigrams", _bigrams),
    ]
    parts = [(title, section(report, pictures)) for title, section in sections]
    body = "\n".join(
        f"<section><h2>{title}</h2>\n{part}</section>" for title, part in parts if part
    )
    facts = "".join(
        f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in report.facts.items()
    )
    title = html.escape(report.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - makemore_jax</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{title}</h1>\n<dl>{facts}</dl>\n{body}\n</body>\n</html>\n"
    )


def _picture(png: bytes, told: str, caption: str = "", below: str = "") -> str:
    source = base64.b64encode(png).decode()
    captions = [f"<figcaption>{html.escape(c)}</figcaption>" if c else "" for c in (caption, below)]
    image = f'<img src="data:image/png;base64,{source}" alt="{html.escape(told)}">'
    return f"<figure>{captions[0]}{image}{captions[1]}</figure>\n"


def _training(report: Report, pictures: dict[str, bytes]) -> str:
    if report.curves is None:
        return ""
    loss = _picture(pictures["loss"], "loss on train and dev by step")
    rate = _picture(pictures["learning_rate"], "learning rate by step")
    images = f'<div class="pictures">{loss}{rate}</div>'
    if report.inside:
        return images
    flag = "<code>--config.train.diagnose_every=500</code>"
    return f"{images}\n<p>With {flag} a training also looks inside, and it is shown here.</p>"


# By picture, as plots/write.py names them: what it is, and what to look for.
INSIDE = {
    "updates": (
        "update to weights by step, on a logarithmic scale",
        "How far a step moves each matrix: the standard deviation of the update over that of the "
        "weights. About a thousandth is good; far above it a matrix is thrown about, far below it "
        "learns slowly.",
    ),
    "ratios": (
        "gradient to weights by step, on a logarithmic scale",
        "The same of the gradient, before the optimizer makes an update of it. With sgd a matrix "
        "that lies far from the others learns at another speed; AdamW evens that out.",
    ),
    "saturated": (
        "share of saturated values and of dead units by step",
        "Saturated: the share of values at an end of the range of their nonlinearity, where hardly "
        "any gradient gets through. A few per cent are healthy. Dead: the share of units that are "
        "there for every token. Of a GELU this is its gate.",
    ),
    "activations": (
        "histograms of the activations by layer",
        "What the nonlinearities give. Layers should be alike: where deeper ones are narrower the "
        "signal fades, and heaps at both ends are saturated.",
    ),
    "activation_gradients": (
        "histograms of the gradients of the activations by layer",
        "The gradient of the loss by what they give. It should be about as wide in the first layer "
        "as in the last; else it vanishes, or explodes, on its way back.",
    ),
    "gradients": (
        "histograms of the gradients of the weights by matrix",
        "The gradients of each matrix, across in its own standard deviations. Bells are good; a "
        "spike at 0 with long tails is a matrix of which few entries learn, as an embedding of "
        "rare characters.",
    ),
}


def _inside(report: Report, pictures: dict[str, bytes]) -> str:
    if report.inside is None:
        return ""
    about = "What the training found when it looked inside, as train.diagnose_every says. Lines "
    about += "and rows go from the input, which is blue and at the top, to the output, red."
    images = [
        _picture(pictures[f"inside_{name}"], told, below=below)
        for name, (told, below) in INSIDE.items()
        if f"inside_{name}" in pictures
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'


def _samples(report: Report, pictures: dict[str, bytes]) -> str:
    has_data = report.samples[0].found_in is not None
    header = ["sample", "ln p", "one in"]
    header += ["found in", "nearest in train", "edits"] if has_data else []
    rows = []
    for line in report.samples:
        cells = [f"<td>{html.escape(line.text) or '<i>empty</i>'}</td>"]
        cells += [f'<td class="number">{line.log_prob:.2f}</td>']
        cells += [f'<td class="number">{_one_in(line.log_prob)}</td>']
        if has_data:
            cells += [f"<td>{line.found_in}</td><td>{html.escape(line.nearest)}</td>"]
            cells += [f'<td class="number">{line.edits}</td>']
        rows.append(f"<tr>{''.join(cells)}</tr>")
    numbers = {"ln p", "one in", "edits"}
    head = "".join(f"<th{' class=number' if h in numbers else ''}>{h}</th>" for h in header)
    about = "Lines drawn from the model as it is, in the order in which they came. ln p is the "
    about += "natural logarithm of the probability of the whole line, its end included"
    if has_data:
        about += "; edits are the characters to put in, leave out or replace from the nearest line "
        about += "of the training data"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<p>{about}.</p>\n<div class="box">{table}</div>'


def _one_in(log_prob: float) -> str:
    """'1,234', or in powers of ten where that is too long to read."""
    one_in = math.exp(min(-log_prob, 700))
    return f"{one_in:,.0f}" if one_in < 1e9 else f"10<sup>{-log_prob / math.log(10):.0f}</sup>"


def _surprise(report: Report, pictures: dict[str, bytes]) -> str:
    guess = math.log(report.vocab.size)
    rows = []
    for name, nats in zip(report.names, report.surprise, strict=True):
        cells = "".join(
            f'<td style="background:{_warmth(n / (2 * guess))}">{html.escape(shown(char))}'
            f"<small>{n:.2f}</small></td>"
            for char, n in zip([*name, ""], nats, strict=True)
        )
        rows.append(f'<tr><th class="number">{nats.sum():.2f}</th>{cells}</tr>')
    about = (
        f"-ln p of each character given those before it, in nats, and at last of the end, {EDGE}. "
        f"To guess blindly among {report.vocab.size} tokens costs {guess:.2f} each time. "
        "The sum is on the left."
    )
    table = f'<table class="surprise"><tbody>{"".join(rows)}</tbody></table>'
    return f'<p>{about}</p>\n<div class="box">{table}</div>'


def _warmth(part: float) -> str:
    """From white to orange for a part from 0 to 1, light enough for black text."""
    part = min(max(part, 0.0), 1.0)
    return f"rgb({255 - 12 * part:.0f},{255 - 117 * part:.0f},{255 - 190 * part:.0f})"


def _attention(report: Report, pictures: dict[str, bytes]) -> str:
    if not report.attention:
        return ""
    about = "Each row is a character that has just been read, and tells where the model looks to "
    about += f"predict the next one: white 0, dark blue 1. {EDGE} is the beginning of the line."
    parts = [f"<p>{about}</p>"]
    for i, (name, weights) in enumerate(zip(report.names, report.attention, strict=True), start=1):
        images = [
            _picture(pictures[f"attention_{i}_{n}"], f"attention, layer {n}", f"layer {n}")
            for n in range(1, len(weights) + 1)
        ]
        parts.append(f"<h3>{html.escape(name)}</h3>")
        parts.append(f'<div class="pictures small">{"".join(images)}</div>')
    return "\n".join(parts)


def _characters(report: Report, pictures: dict[str, bytes]) -> str:
    if report.characters is None:
        return ""
    first, second = report.characters.shares
    about = (
        "The embedding of each character in the two directions in which they differ most, which "
        f"have {first:.0%} and {second:.0%} of the variance. {EDGE} is the beginning of a line."
    )
    image = _picture(pictures["characters"], "the characters' embeddings in two dimensions")
    return f'<p>{about}</p>\n<div class="pictures">{image}</div>'


def _bigrams(report: Report, pictures: dict[str, bytes]) -> str:
    if report.bigrams is None:
        return ""
    about = (
        "How probable each character, across, is after the one on the left. Learnt: the mean of "
        f"the model's predictions wherever that one stands in {MOST_LINES:,} training lines. "
        "Counted: in all of them. The mean absolute difference is "
        f"{report.bigrams.difference:.4f}."
    )
    images = [
        _picture(pictures[f"bigrams_{name}"], f"bigrams, {caption}", caption)
        for name, caption in (
            ("learnt", "learnt"),
            ("counted", "counted"),
            ("difference", "learnt less counted"),
        )
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'
