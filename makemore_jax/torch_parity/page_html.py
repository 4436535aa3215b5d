"""The page as HTML, with the measured differences and the code side by side."""

import html
import re

from makemore_jax.report.html_parts import document, facts, table
from makemore_jax.torch_parity import page_content as content
from makemore_jax.torch_parity.difference import Difference
from makemore_jax.torch_parity.pairs import Code, Pair

Differences = dict[str, Difference]  # by the anchor of the pair

STYLE = """
body { max-width: 100rem }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-bottom: 1rem }
h3 { border-top: 1px solid #e3e7ec; padding-top: 1rem }
.sides { display: grid; gap: 0 1rem; align-items: start;
         grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)) }
.sides > div { min-width: 0 }
.sides pre { max-width: none; font-size: .75rem; overflow-wrap: break-word }
/* A long line continues below its own indentation. */
.line { display: block; padding-left: calc(var(--indent) * 1ch);
        text-indent: calc(var(--indent) * -1ch) }
.sides figcaption b { color: #1c2430 }
.measured { font-variant-numeric: tabular-nums; color: #1c2430 }
.value { white-space: nowrap }
.words { margin: .5rem 0 1rem; row-gap: .4rem; max-width: 62rem }
.words code { font-size: .85em }
@media (max-width: 40rem) {
  .words { display: block } .words dd { margin: 0 0 .6rem }
  .cards .value { white-space: normal }
}
.exceeded { color: #b00020; font-weight: 600 }
.k { color: #7a1fa2 } .s, .d { color: #1b6e3c } .c { color: #6b7682; font-style: italic }
@media (max-width: 40rem) { .sides pre { font-size: .7rem } }
"""
KEYWORDS = (
    "and as assert break class def del elif else except False finally for from if import in is "
    "lambda None not or pass raise return True try while with yield"
)
TOKEN = re.compile(
    r'(?P<d>"""[\s\S]*?""")|(?P<s>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')'
    rf"|(?P<c>\#[^\n]*)|(?P<k>\b(?:{KEYWORDS.replace(' ', '|')})\b)"
)


def as_html(differences: Differences, about: dict[str, str]) -> str:
    """Return the page. `about` has the versions and sizes, `differences` those of all pairs."""
    sections = content.sections()
    links = "".join(f'<a href="#{s.anchor()}">{html.escape(s.title)}</a>' for s in sections)
    introduction = "".join(f"<p>{_text(text)}</p>" for text in content.INTRODUCTION)
    command = f"<p>Written by <code>{content.COMMAND}</code>.</p>"
    body = "\n".join(_section(section, differences) for section in sections)
    overview = f"<details><summary>All differences in one table</summary>{_overview(differences)}"
    top = f"{introduction}{command}\n{facts(about)}\n<h2>Contents</h2><nav>{links}</nav>"
    return document(content.TITLE, f"{top}\n{overview}</details>\n{_words()}\n{body}", STYLE)


def _words() -> str:
    """Return the explanation of what occurs in the code of the JAX side."""
    words = ((_text(name), _text(text)) for name, text in content.WORDS)
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in words)
    title, dimensions = content.WORDS_TITLE, content.DIMENSIONS
    return f'<h2>{title}</h2><dl class="words">{items}</dl><p>{dimensions}</p>'


def _overview(differences: Differences) -> str:
    rows = []
    for section in content.sections():
        for pair in section.pairs:
            anchor = section.anchor(pair)
            link = f'<a href="#{anchor}">{html.escape(f"{section.title}: {pair.title}")}</a>'
            cells = [_value(*both) for both in zip(differences[anchor], pair.bounds, strict=True)]
            rows.append([link, html.escape(pair.value), *cells])
    return table(["pair", "compared", "output", "gradient"], rows, numbers=("output", "gradient"))


def _section(section: content.Section, differences: Differences) -> str:
    pairs = "\n".join(_pair(section, pair, differences) for pair in section.pairs)
    names = _names() if section.title == "Weights" else ""
    title = html.escape(section.title)
    return (
        f'<section id="{section.anchor()}"><h2>{title}</h2>\n<p>{_text(section.about)}</p>\n'
        f"{pairs}\n{names}</section>"
    )


def _pair(section: content.Section, pair: Pair, differences: Differences) -> str:
    anchor = section.anchor(pair)
    output, gradient = differences[anchor]
    measured = f"Difference of the {html.escape(pair.value)}: {_value(output, pair.bounds.output)}"
    if pair.bounds.gradient is not None:
        measured += f"; of the gradient: {_value(gradient, pair.bounds.gradient)}"
    if pair.measured_as == "nothing":
        measured = "Not compared."
    about = f"<p>{_text(pair.about)}</p>" if pair.about else ""
    title = html.escape(section.heading(pair))
    head = f'<h3 id="{anchor}">{title}</h3>{about}<p class="measured">{measured}</p>'
    if shown := content.first_shown(section, pair):
        other, earlier = shown
        title = html.escape(other.heading(earlier))
        return f'{head}<p>The code is that of <a href="#{other.anchor(earlier)}">{title}</a>.</p>'
    sides = _side("PyTorch", pair.torch) + _side("JAX", pair.jax)
    return f'{head}\n<div class="sides">{sides}</div>'


def _side(name: str, codes: tuple[Code, ...]) -> str:
    figures = [
        f"<figure><figcaption><b>{name}</b> {file}</figcaption><pre>{_lines(code)}</pre></figure>"
        for file, code in content.code_of(codes)
    ]
    return f"<div>{''.join(figures)}</div>"


def _lines(code: str) -> str:
    """Return Python code as HTML with an element for each line, which has its indentation."""
    lines = []
    for plain, line in zip(code.split("\n"), highlight(code).split("\n"), strict=True):
        indent = len(plain) - len(plain.lstrip()) + 8
        lines.append(f'<span class="line" style="--indent:{indent}">{line}\n</span>')
    return "".join(lines)


def highlight(code: str) -> str:
    """Return Python code as HTML with classes: d docstring, s string, c comment, k keyword.

    No element goes beyond the end of a line.
    """
    parts, end = [], 0
    for match in TOKEN.finditer(code):
        parts.append(html.escape(code[end : match.start()]))
        lines = [
            f'<span class="{match.lastgroup}">{html.escape(line)}</span>'
            for line in match[0].split("\n")
        ]
        parts.append("\n".join(lines))
        end = match.end()
    return "".join([*parts, html.escape(code[end:])])


def _value(value: float | None, bound: float | None) -> str:
    """Return a difference and its bound."""
    if bound is None:
        return "-"
    shown = "missing" if value is None else f"{value:.1e}" if value else "0"
    is_within = value is not None and value <= bound
    allowed = f"at most {bound:g}" if bound else "must be 0"
    shown = shown if is_within else f'<span class="exceeded">{shown}</span>'
    return f'<span class="value">{shown} ({allowed})</span>'


def _names() -> str:
    rows = [
        [f"<code>{html.escape(a)}</code>", b, f"<code>{html.escape(c)}</code>", d]
        for a, b, c, d in content.parameter_names()
    ]
    about = "<h3>Names</h3><p>The parameters of a transformer with one layer.</p>"
    return about + table(["in the state_dict", "shape", "in the tree", "shape in JAX"], rows)


def _text(text: str) -> str:
    """Return plain text with `code` as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
