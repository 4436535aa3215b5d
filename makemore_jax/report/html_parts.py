"""HTML shared by all pages: style sheet, document, figures, tables, lists of facts."""

import base64
import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: #fff; color: #1c2430;
       font: 16px/1.5 system-ui, sans-serif }
h1 { margin: .5rem 0; font-size: 1.7rem; overflow-wrap: anywhere }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.25rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; overflow-wrap: anywhere }
p { margin: .25rem 0 1rem; max-width: 46rem; color: #4a5564 }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; margin: 0 }
dt { color: #4a5564 }
dd { margin: 0; overflow-wrap: anywhere }
summary { cursor: pointer }
details dl { margin: .5rem 0; font-size: .9rem }
code { overflow-wrap: anywhere }
.pictures { display: grid; gap: 1rem; align-items: start;
            grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.pictures.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)) }
figure { margin: 0 }
figcaption { font-size: .85rem; color: #4a5564 }
img { display: block; width: 100%; max-width: 34rem; height: auto }
pre { margin: .25rem 0 1.25rem; padding: .6rem .8rem; max-width: 46rem; background: #f5f7f9;
      font: .9rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.box { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e3e7ec; text-align: left }
thead th { font-size: .85rem; font-weight: 600; color: #4a5564; vertical-align: bottom }
.number { text-align: right; white-space: nowrap }
.best { font-weight: 600 }
.surprise tr { display: flex; flex-wrap: wrap; margin-bottom: .3rem }
.surprise th { min-width: 3.5rem; border: 0 }
.surprise td { padding: .2rem .3rem; min-width: 1.9rem; text-align: center;
               border: 2px solid #fff; white-space: pre }
.surprise small { display: block; font-size: .75rem }
@media (max-width: 40rem) {
  dl { font-size: .9rem; column-gap: .6rem }
  .surprise th { flex-basis: 100%; text-align: left; padding-left: 0 }
  th, td { padding: .15rem .35rem; font-size: .9rem }
  .surprise td { min-width: 1.6rem; padding: .15rem }
  .cards thead { display: none }
  .cards, .cards tbody { display: block }
  .cards tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr));
              padding: .35rem 0; border-bottom: 1px solid #e3e7ec }
  .cards td, .cards th { border: 0; text-align: left; white-space: normal; overflow-wrap: anywhere }
  .cards td::before { content: attr(data-label); display: block; font-size: .75rem;
                      color: #4a5564; font-weight: 400 }
  .cards tr > :first-child { grid-column: 1 / -1; font-weight: 600 }
  .cards tr > :first-child::before { content: none }
}
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a complete HTML file. The title is plain text, the body is HTML.

    `style` is added to the style sheet.
    """
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - makemore_jax</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )


def facts(pairs: dict[str, str]) -> str:
    """Return a list of names and values, both plain text."""
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in pairs.items())
    return f"<dl>{''.join(items)}</dl>"


def picture(png: bytes, description: str, caption: str = "", explanation: str = "") -> str:
    """Return a figure with an embedded PNG, the caption above it and the explanation below."""
    source = base64.b64encode(png).decode()
    above, below = (
        f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
        for text in (caption, explanation)
    )
    image = f'<img src="data:image/png;base64,{source}" alt="{html.escape(description)}">'
    return f"<figure>{above}{image}{below}</figure>\n"


def table(header: Sequence[str], rows: list[list[str]], numbers: Sequence[str] = ()) -> str:
    """Return a table. On a narrow screen each row becomes a card with its first cell as heading.

    `header` is plain text, the cells are HTML. `numbers` are the right-aligned columns.
    """
    labels = [html.escape(name) for name in header]
    classes = [' class="number"' if name in numbers else "" for name in header]
    head = "".join(f"<th{c}>{label}</th>" for label, c in zip(labels, classes, strict=True))
    body = []
    for row in rows:
        cells = zip(row, labels, classes, strict=True)
        body.append("".join(f'<td data-label="{label}"{c}>{cell}</td>' for cell, label, c in cells))
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return (
        f'<div class="box"><table class="cards"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def heat_color(share: float) -> str:
    """Return a CSS color from white (0) to orange (1), light enough for black text."""
    share = min(max(share, 0.0), 1.0)
    return f"rgb({255 - 12 * share:.0f},{255 - 117 * share:.0f},{255 - 190 * share:.0f})"
