"""The page of a run: a report and its pictures as one HTML file.

All its text goes through html.escape, whatever the data hold.
"""

import html
import math
from collections.abc import Callable

from makemore_jax.facts import show_value
from makemore_jax.html_parts import document, facts, picture, table, warmth
from makemore_jax.passage import Passage
from makemore_jax.report import EDGE, MOST_LINES, Report, shown


def as_html(report: Report, pictures: dict[str, bytes]) -> str:
    """One HTML file with everything in it.

    `pictures` are PNGs by the names that plots/write.py gives them.
    """
    sections: list[tuple[str, Callable[[Report, dict[str, bytes]], str]]] = [
        ("Training", _training),
        ("Inside", _inside),
        ("Samples", _samples),
        ("Surprise", _surprise),
        ("Attention", _attention),
        ("The characters", _characters),
        ("Bigrams", _bigrams),
        ("Config", _config),
    ]
    parts = [(title, section(report, pictures)) for title, section in sections]
    body = "\n".join(
        f"<section><h2>{title}</h2>\n{part}</section>" for title, part in parts if part
    )
    return document(report.title, f"{facts(report.facts)}\n{body}")


def _training(report: Report, pictures: dict[str, bytes]) -> str:
    if report.curves is None:
        return ""
    loss = picture(pictures["loss"], "loss on train and dev by step")
    rate = picture(pictures["learning_rate"], "learning rate by step")
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
        picture(pictures[f"inside_{name}"], told, explanation=below)
        for name, (told, below) in INSIDE.items()
        if f"inside_{name}" in pictures
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'


def _samples(report: Report, pictures: dict[str, bytes]) -> str:
    return _sampled_texts(report) if report.is_text else _sampled_lines(report)


def _sampled_texts(report: Report) -> str:
    about = (
        "Texts sampled from the model at temperature 1, in the order in which they were drawn. "
        "ln&nbsp;p is the natural logarithm of the probability of the whole text."
    )
    parts = [f"<p>{about}</p>"]
    for i, sample in enumerate(report.samples, start=1):
        size = len(sample.text)
        caption = (
            f"sample {i}: {size:,} characters, ln p {sample.log_prob:.2f}, "
            f"{-sample.log_prob / size:.3f} nats per character"
        )
        text = html.escape("".join(map(_visible, sample.text)))
        # A newline right after <pre> would be dropped.
        parts.append(f"<figure><figcaption>{caption}</figcaption><pre>\n{text}</pre></figure>")
    return "\n".join(parts)


def _visible(char: str) -> str:
    """A character of a text on the page: line breaks and spaces as they are."""
    return char if char in "\n\t " else shown(char)


def _sampled_lines(report: Report) -> str:
    has_data = report.samples[0].found_in is not None
    header = ["sample", "ln p", "one in"]
    header += ["found in", "nearest in train", "edits"] if has_data else []
    rows = []
    for line in report.samples:
        row = [html.escape(line.text) or "<i>empty</i>", f"{line.log_prob:.2f}"]
        row.append(_one_in(line.log_prob))
        if has_data:
            row += [line.found_in, html.escape(line.nearest), str(line.edits)]
        rows.append(row)
    about = (
        "Lines sampled from the model at temperature 1, in the order in which they were drawn. "
        "ln&nbsp;p is the natural logarithm of the probability of the whole line, its end included"
    )
    if has_data:
        about += (
            "; edits is the number of characters to insert, delete or replace to get from the "
            "nearest training line to the sample"
        )
    return f"<p>{about}.</p>\n{table(header, rows, numbers=('ln p', 'one in', 'edits'))}"


def _one_in(log_prob: float) -> str:
    """'1,234', or in powers of ten where that is too long to read."""
    one_in = math.exp(min(-log_prob, 700))
    return f"{one_in:,.0f}" if one_in < 1e9 else f"10<sup>{-log_prob / math.log(10):.0f}</sup>"


def _surprise(report: Report, pictures: dict[str, bytes]) -> str:
    uniform = math.log(report.vocab.size)
    if report.passage:
        return _surprise_of_passage(report.passage, report.vocab.size)
    rows = []
    for name, nats in zip(report.names, report.surprise, strict=True):
        cells = "".join(
            f'<td style="background:{warmth(n / (2 * uniform))}">{html.escape(shown(char))}'
            f"<small>{n:.2f}</small></td>"
            for char, n in zip([*name, ""], nats, strict=True)
        )
        rows.append(f'<tr><th class="number">{nats.sum():.2f}</th>{cells}</tr>')
    about = (
        f"-ln p in nats of each character given those before it, and of the end of the line, "
        f"{EDGE}. Guessing uniformly among {report.vocab.size} tokens costs {uniform:.2f} nats. "
        "The first number is the sum over the line."
    )
    lines = f'<table class="surprise"><tbody>{"".join(rows)}</tbody></table>'
    return f"<p>{about}</p>\n{lines}"


def _surprise_of_passage(passage: Passage, vocab_size: int) -> str:
    """Each character on a background that shows its surprise."""
    uniform = math.log(vocab_size)
    spans = [_in_passage(passage.text[0])]  # nothing predicts the first character
    for char, nats in zip(passage.text[1:], passage.nats, strict=True):
        color = warmth(nats / (2 * uniform))
        title = f"{nats:.2f} nats"
        spans.append(f'<span style="background:{color}" title="{title}">{_in_passage(char)}</span>')
    scale = " ".join(
        f'<span style="background:{warmth(part)}">&nbsp;{2 * uniform * part:.1f}&nbsp;</span>'
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    mean = f"{passage.nats.mean():.3f}" if len(passage.nats) else "unknown"
    about = (
        f"The first {len(passage.text):,} characters of the {passage.source}. The background shows "
        f"-ln p of each character given those before it, in nats: {scale}. The mean is {mean}; "
        f"guessing uniformly among {vocab_size} characters costs {uniform:.2f}. Hover over a "
        "character for its value."
    )
    return f"<p>{about}</p>\n<pre>{''.join(spans)}</pre>"


def _in_passage(char: str) -> str:
    return "↵\n" if char == "\n" else html.escape(_visible(char))


def _attention(report: Report, pictures: dict[str, bytes]) -> str:
    if not report.attention:
        return ""
    about = "Each row is a character that has just been read, and tells where the model looks to "
    about += f"predict the next one: white 0, dark blue 1. {EDGE} is the beginning of the line."
    parts = [f"<p>{about}</p>"]
    for i, (name, weights) in enumerate(zip(report.names, report.attention, strict=True), start=1):
        images = [
            picture(pictures[f"attention_{i}_{n}"], f"attention, layer {n}", f"layer {n}")
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
        f"have {first:.0%} and {second:.0%} of the variance."
    )
    if report.vocab.has_end:
        about += f" {EDGE} is the beginning of a line."
    image = picture(pictures["characters"], "the characters' embeddings in two dimensions")
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
        picture(pictures[f"bigrams_{name}"], f"bigrams, {caption}", caption)
        for name, caption in (
            ("learnt", "learnt"),
            ("counted", "counted"),
            ("difference", "learnt less counted"),
        )
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'


def _config(report: Report, pictures: dict[str, bytes]) -> str:
    values = {name: show_value(value) for name, value in report.config.items()}
    return f"<details><summary>all {len(values)} fields</summary>{facts(values)}</details>"
