"""One self-contained page of HTML: sections of text, tables, figures and thumbnails, with one look for all reports.

Nothing is loaded from elsewhere and nothing runs in the page. All helpers escape what they are given, and give HTML
that can be put together: `text("...") + table(rows)`.
"""

import base64
import contextlib
import dataclasses
import functools
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from motivnet.evaluation.resampling import Interval
from motivnet.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html.jinja")
THUMBNAIL_PX = 96
NOTHING = "\N{EN DASH}"
# Blue, orange and grey of one lightness each, which the colour-blind can tell apart.
COLORS = ("#3b6ea5", "#e0a458", "#8a97a3")
# What figures are drawn with: text stays text, is never read as a formula, and looks like that of the page.
STYLE: Mapping[str, Any] = {
    "axes.edgecolor": "#9aa7b3",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": "#1f2933",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": "#e4e9ed",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "motivnet",
    "text.color": "#1f2933",
    "text.parse_math": False,
    "xtick.color": "#61707f",
    "ytick.color": "#61707f",
}
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}<]?\s?\d[\d.,]*\s?%?(\s?[\[(].*[\])])?")


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Args:
        title: plain text; may be empty.
        html: what the helpers of this module gave, one after the other.
    """

    title: str
    html: str


def render(title: str, sections: Sequence[Section]) -> str:
    """Make a page.

    Args:
        title: plain text.
        sections: in order.
    """
    return _template().render(title=title, sections=sections, version=__version__)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def text(paragraph: str, *, note: bool = False) -> Markup:
    """Give a paragraph; `note`: smaller and paler."""
    return Markup('<p class="note">{}</p>\n' if note else "<p>{}</p>\n").format(paragraph)


def facts(pairs: Mapping[str, object]) -> Markup:
    """Give a box of names and what they stand for, one a line; a value may be what another helper gave."""
    rows = [Markup('<tr><th scope="row">{}</th><td>{}</td></tr>').format(*pair) for pair in pairs.items()]
    return Markup('<div class="facts"><table><tbody>\n{}\n</tbody></table></div>\n').format(_lines(rows))


def table(rows: Iterable[Mapping[str, object]], *, caption: str = "") -> Markup:
    """Give a table: the keys of the first row are its head, and missing cells are empty.

    Whole numbers get separators, others three decimals, None and NaN a dash. Columns of numbers, or of text that begins
    with one, are aligned to the right.

    Args:
        rows: column -> cell; a cell may be what another helper gave.
        caption: a line below.
    """
    listed = list(rows)
    if not listed:
        return text("None.", note=True)
    columns = list(listed[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in listed]
    kinds = [_kind([row[place] for row in cells]) for place in range(len(columns))]
    head = [Markup("<th{}>{}</th>").format(kind, column) for kind, column in zip(kinds, columns, strict=True)]
    body = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(kind, cell) for kind, cell in zip(kinds, row, strict=True))
        )
        for row in cells
    ]
    below = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    return Markup(
        '<div class="scroll"><table>{}<thead><tr>{}</tr></thead><tbody>\n{}\n</tbody></table></div>\n'
    ).format(below, Markup("").join(head), _lines(body))


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def _cell(value: object) -> Markup:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return Markup(NOTHING)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return Markup(f"{value:,}")
    if isinstance(value, (float, np.floating)):
        return Markup(f"{value:.3f}")
    return escape(value)


def _kind(cells: Sequence[Markup]) -> Markup:
    number = all(cell in (NOTHING, "") or _NUMBER.fullmatch(cell) for cell in cells)
    return Markup(' class="num"') if number else Markup("")


def percent(value: float, interval: Interval | None = None) -> str:
    """Write a fraction as `69.2 %`, with its interval as `69.2 % [67.7, 70.6]`; a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    if interval is None or math.isnan(interval.low):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def heat_map(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, caption: str = "") -> Markup:
    """Give a table of counts, each coloured by its share of its row, such as a confusion matrix.

    Args:
        counts: (rows, columns); the cells in which both have one name are outlined.
        rows: names, such as true classes.
        columns: names, such as predicted classes.
        caption: a line below.
    """
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in columns)
    body = []
    for name, values in zip(rows, counts.tolist(), strict=True):
        total = sum(values)
        cells = [
            _heat_cell(value, value / total if total else math.nan, right=name == column)
            for value, column in zip(values, columns, strict=True)
        ]
        body.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, Markup("").join(cells)))
    below = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    return Markup(
        '<div class="scroll"><table class="heat">{}<thead><tr><td></td>{}</tr></thead><tbody>\n{}\n'
        "</tbody></table></div>\n"
    ).format(below, head, _lines(body))


def _heat_cell(count: float, share: float, *, right: bool) -> Markup:
    shade = 0 if math.isnan(share) else share
    style = f"background: rgba(var(--blue), {shade:.2f}); color: {'#fff' if shade > 0.65 else 'inherit'}"
    shown = NOTHING if math.isnan(share) else f"{100 * share:.0f} %"
    mark = Markup(' class="right"') if right else Markup("")
    return Markup('<td{} style="{}">{}<small>{}</small></td>').format(mark, style, shown, f"{count:,.0f}")


@contextlib.contextmanager
def new_figure(width: float = 7.2, height: float = 3.2) -> "Iterator[Figure]":
    """Give a matplotlib figure in the page's look; draw inside the context.

    Args:
        width: in inches; a page is 7.2 wide.
        height: in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(STYLE)):  # pyright: ignore[reportArgumentType]
        yield Figure(figsize=(width, height))


def figure(drawn: "Figure", alt: str, *, caption: str = "") -> Markup:
    """Give a matplotlib figure as inline SVG.

    Args:
        drawn: best of `new_figure`; elsewhere a `$` in names from data would begin a formula.
        alt: what it shows, for those who cannot see it.
        caption: a line below.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({name: STYLE[name] for name in ("svg.fonttype", "svg.hashsalt")}):
        # Without a date the same figure is the same text.
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Ids that nothing refers to would stand in the page once a figure.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    # What matplotlib writes is SVG; it has escaped the text in it.
    return Markup('<figure class="plot">{}{}</figure>\n').format(Markup(svg), below)


def thumbnail(image_hwc_u8: np.ndarray, caption: str) -> Markup:
    """Give an image, shrunk to at most 96 pixels a side, with lines of text below; see `thumbnails`.

    Args:
        image_hwc_u8: RGB, uint8 (h, w, 3).
        caption: plain text; a line break is one.
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(image_hwc_u8)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<figure><img src="data:image/png;base64,{}" alt=""><figcaption>{}</figcaption></figure>\n').format(
        data, caption
    )


def thumbnails(images: Iterable[Markup]) -> Markup:
    """Lay thumbnails out in a grid."""
    return Markup('<div class="thumbs">\n{}</div>\n').format(Markup("").join(images))
