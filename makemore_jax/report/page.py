"""Make the page of a run: one HTML file with the report and its figures.

All text from the data is passed through html.escape.
"""

import html
import math
from collections.abc import Callable

from makemore_jax.report.collect import Report
from makemore_jax.report.facts import show_value
from makemore_jax.report.html_parts import document, facts, heat_color, picture, table
from makemore_jax.report.labels import EDGE, char_label
from makemore_jax.report.surprise import Passage


def as_html(report: Report, pictures: dict[str, bytes]) -> str:
    """Return the page. `pictures` are PNG files by name; plots/write.py defines the names."""
    sections: list[tuple[str, Callable[[Report, dict[str, bytes]], str]]] = [
        ("Training", _training),
        ("Inside", _diagnostics),
        ("Samples", _samples),
        ("Surprise", _surprise),
        ("Attention", _attention),
        ("The characters", _embeddings),
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
    if report.diagnostics:
        return images
    flag = "<code>--config.train.diagnose_every=500</code>"
    return f"{images}\n<p>With {flag} a run also records layer statistics, which appear here.</p>"


# Description and explanation of each figure of plots/diagnostics.py.
DIAGNOSTICS = {
    "updates": (
        "update to weights by step, on a logarithmic scale",
        "How far a step moves each matrix: the standard deviation of the update divided by the "
        "standard deviation of the weights. About 1/1000 is good. Far above it training is "
        "unstable, far below it the matrix learns slowly.",
    ),
    "ratios": (
        "gradient to weights by step, on a logarithmic scale",
        "The same ratio for the gradient. With sgd a matrix whose ratio differs from the others "
        "learns at a different speed; AdamW compensates for this.",
    ),
    "saturated": (
        "share of saturated values and of dead units by step",
        "Saturated: the share of values near a limit of the nonlinearity, with little gradient. "
        "A few percent are healthy. Dead: the share of units that are saturated for every token. "
        "For a GELU these are values of its gate.",
    ),
    "activations": (
        "histograms of the activations by layer",
        "The outputs of the nonlinearities. All layers should look alike. If deeper layers are "
        "narrower, the signal fades; peaks at both limits are saturated values.",
    ),
    "activation_gradients": (
        "histograms of the gradients of the activations by layer",
        "The gradient of the loss with respect to the activations. It should be about as wide in "
        "the first layer as in the last. Otherwise gradients vanish or explode.",
    ),
    "gradients": (
        "histograms of the gradients of the weights by matrix",
        "The gradients of each matrix, in units of their standard deviation. Bell shapes are good. "
        "A spike at 0 with long tails means that only a few entries learn, as in the embeddings of "
        "rare characters.",
    ),
}


def _diagnostics(report: Report, pictures: dict[str, bytes]) -> str:
    if report.diagnostics is None:
        return ""
    about = "The layer statistics that train.diagnose_every recorded. Lines go from blue "
    about += "(input) to red (output), rows of histograms from the input (top) to the output."
    images = [
        picture(pictures[f"inside_{name}"], description, explanation=explanation)
        for name, (description, explanation) in DIAGNOSTICS.items()
        if f"inside_{name}" in pictures
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'


def _samples(report: Report, pictures: dict[str, bytes]) -> str:
    return _sampled_texts(report) if report.is_text else _sampled_lines(report)


def _sampled_texts(report: Report) -> str:
    about = (
        "Texts sampled from the model at temperature 1, in the order of sampling. "
        "ln&nbsp;p is the natural logarithm of the probability of the whole text."
    )
    parts = [f"<p>{about}</p>"]
    for i, sample in enumerate(report.samples, start=1):
        size = len(sample.text)
        caption = (
            f"sample {i}: {size:,} characters, ln p {sample.log_prob:.2f}, "
            f"{-sample.log_prob / size:.3f} nats per character"
        )
        text = _visible_text(sample.text)
        # HTML drops the first newline after <pre>, so add one.
        parts.append(f"<figure><figcaption>{caption}</figcaption><pre>\n{text}</pre></figure>")
    return "\n".join(parts)


def _visible_text(text: str) -> str:
    """Return a text as HTML, with labels for control characters except line breaks and tabs."""
    return html.escape(
        "".join(c if c in "\n\t" or c.isprintable() else char_label(c) for c in text)
    )


def _sampled_lines(report: Report) -> str:
    has_data = report.samples[0].found_in is not None
    header = ["sample", "ln p", "one in"]
    header += ["found in", "nearest in train", "edits"] if has_data else []
    rows = []
    for sample in report.samples:
        row = [_visible_text(sample.text) or "<i>empty</i>", f"{sample.log_prob:.2f}"]
        row.append(_one_in(sample.log_prob))
        if has_data:
            row += [sample.found_in, _visible_text(sample.nearest), str(sample.edits)]
        rows.append(row)
    about = (
        "Lines sampled from the model at temperature 1, in the order of sampling. ln&nbsp;p is the "
        "natural logarithm of the probability of the whole line, including its end"
    )
    if has_data:
        about += (
            "; edits is the number of characters to insert, delete or replace to get from the "
            "nearest training line to the sample"
        )
    return f"<p>{about}.</p>\n{table(header, rows, numbers=('ln p', 'one in', 'edits'))}"


def _one_in(log_prob: float) -> str:
    """Return 1 / p as '1,234', or as a power of ten above a billion."""
    one_in = math.exp(min(-log_prob, 700))
    return f"{one_in:,.0f}" if one_in < 1e9 else f"10<sup>{-log_prob / math.log(10):.0f}</sup>"


def _surprise(report: Report, pictures: dict[str, bytes]) -> str:
    uniform = math.log(report.vocab.size)
    if report.passage:
        return _surprise_of_passage(report.passage, report.vocab.size)
    rows = []
    for name, nats in zip(report.names, report.surprise, strict=True):
        cells = []
        for char, n in zip([*name, ""], nats, strict=True):
            text = f"{html.escape(char_label(char))}<small>{n:.2f}</small>"
            cells.append(f'<td style="background:{heat_color(n / (2 * uniform))}">{text}</td>')
        rows.append(f'<tr><th class="number">{nats.sum():.2f}</th>{"".join(cells)}</tr>')
    about = (
        "-ln p in nats of each character, given the characters before it, and of the end of the "
        f"line, {EDGE}. Guessing uniformly among {report.vocab.size} tokens costs {uniform:.2f} "
        "nats. The first number is the sum over the line."
    )
    lines = f'<table class="surprise"><tbody>{"".join(rows)}</tbody></table>'
    return f"<p>{about}</p>\n{lines}"


def _surprise_of_passage(passage: Passage, vocab_size: int) -> str:
    """Show each character on a background whose color is its surprise."""
    uniform = math.log(max(vocab_size, 2))  # a text may have only one character
    spans = [_char_in_passage(passage.text[0])]  # it has no prediction
    for char, nats in zip(passage.text[1:], passage.nats, strict=True):
        color = heat_color(nats / (2 * uniform))
        title = f"{nats:.2f} nats"
        spans.append(
            f'<span style="background:{color}" title="{title}">{_char_in_passage(char)}</span>'
        )
    scale = " ".join(
        f'<span style="background:{heat_color(share)}">&nbsp;{2 * uniform * share:.1f}&nbsp;</span>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    mean = f"{passage.nats.mean():.3f}" if len(passage.nats) else "unknown"
    about = (
        f"The first {len(passage.text):,} characters of the {passage.source}. The background shows "
        f"-ln p of each character in nats, given the characters before it: {scale}. The mean is "
        f"{mean}; guessing uniformly among {vocab_size} characters costs {uniform:.2f}. Hover over "
        "a character for its value."
    )
    return f"<p>{about}</p>\n<pre>{''.join(spans)}</pre>"


def _char_in_passage(char: str) -> str:
    return "↵\n" if char == "\n" else _visible_text(char)


def _attention(report: Report, pictures: dict[str, bytes]) -> str:
    if not report.attention:
        return ""
    about = "Each row is a current character. Its cells are the attention weights with which the "
    about += f"model predicts the next one: white 0, dark blue 1. {EDGE} is the start of the line."
    about += _which_network(report)
    parts = [f"<p>{about}</p>"]
    for i, (name, weights) in enumerate(zip(report.names, report.attention, strict=True), start=1):
        images = [
            picture(pictures[f"attention_{i}_{n}"], f"attention, layer {n}", f"layer {n}")
            for n in range(1, len(weights) + 1)
        ]
        parts.append(f"<h3>{html.escape(name)}</h3>")
        parts.append(f'<div class="pictures small">{"".join(images)}</div>')
    return "\n".join(parts)


def _which_network(report: Report) -> str:
    """Return a sentence for a mixture, whose first network is shown."""
    is_mixture = report.config["model.kind"] == "mixture"
    return " This is the first network of the mixture." if is_mixture else ""


def _embeddings(report: Report, pictures: dict[str, bytes]) -> str:
    if report.embeddings is None:
        return ""
    first, second = report.embeddings.shares
    about = (
        "The embedding of each character, projected onto the first two principal components, which "
        f"have {first:.0%} and {second:.0%} of the variance."
    )
    if report.vocab.has_end:
        about += f" {EDGE} is the start of a line."
    about += _which_network(report)
    image = picture(pictures["characters"], "the characters' embeddings in two dimensions")
    return f'<p>{about}</p>\n<div class="pictures">{image}</div>'


def _bigrams(report: Report, pictures: dict[str, bytes]) -> str:
    if report.bigrams is None:
        return ""
    about = (
        "The probability of the next character (columns) after the current one (rows). Learned: "
        f"the mean of the model's predictions over {report.bigrams.num_lines:,} training lines. "
        "Counted: the relative frequency in all training lines. The mean absolute difference is "
        f"{report.bigrams.difference:.4f}."
    )
    images = [
        picture(pictures[f"bigrams_{name}"], f"bigrams, {caption}", caption)
        for name, caption in (
            ("learned", "learned"),
            ("counted", "counted"),
            ("difference", "learned minus counted"),
        )
    ]
    return f'<p>{about}</p>\n<div class="pictures">{"".join(images)}</div>'


def _config(report: Report, pictures: dict[str, bytes]) -> str:
    values = {name: show_value(value) for name, value in report.config.items()}
    return f"<details><summary>all {len(values)} fields</summary>{facts(values)}</details>"
