"""One self-contained page of HTML: sections of text, tables, figures and thumbnails, with one look for all reports.

Nothing is loaded from elsewhere and nothing runs in the page. All helpers escape what they are given, and return HTML
that can be concatenated: `text("...") + table(rows)`. Reports of text and tables alone consist of `Block`s, which are
written as Markdown too, for a repository.
"""

import base64
import contextlib
import dataclasses
import functools
import io
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from motivnet import config
from motivnet.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from motivnet.evaluation.predictions import Protocol

    # Ends of a confidence interval.
    Ends = tuple[float, float]

THUMBNAIL_PX = 96
NOTHING = "\N{EN DASH}"
# Blue, orange and grey of different lightness, distinguishable by the colour-blind.
COLORS = ("#3b6ea5", "#e0a458", "#8a97a3")
# Style of figures, which leaves nothing to the user's own settings of matplotlib.
STYLE = Path(__file__).with_name("figures.mplstyle")
# The longer texts of the pages, by page.
PROSE: Mapping[str, Mapping[str, Any]] = tomllib.loads(Path(__file__).with_name("prose.toml").read_text("utf-8"))
# As escaped text.
_NUMBER = re.compile(r"(?:[-+\N{MINUS SIGN}]|&lt;)?\s?\d[\d.,]*\s?%?(\s?[\[(].*[\])])?")


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _part(macro: str, *values: object) -> Markup:
    return Markup(getattr(_template("parts.html.jinja").module, macro)(*values))


def text(paragraph: str, *, note: bool = False) -> Markup:
    """Return a paragraph; `note`: smaller and paler."""
    return _part("text", paragraph, note)


def facts(pairs: Mapping[str, object]) -> Markup:
    """Return a box of names and values, one pair per line; a value may be the result of another helper."""
    return _part("facts", pairs)


def table(rows: Iterable[Mapping[str, object]]) -> Markup:
    """Return a table: the keys of the first row are its head, and missing cells are empty.

    Whole numbers get separators, others three decimals, None and NaN a dash. Columns of numbers, or of text that begins
    with one, are aligned to the right.

    Args:
        rows: column -> cell; a cell may be the result of another helper.
    """
    listed = list(rows)
    if not listed:
        return text("None.", note=True)
    columns = list(listed[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in listed]
    numbers = [
        all(cell in (NOTHING, "") or _NUMBER.fullmatch(cell) for cell in column) for column in zip(*cells, strict=True)
    ]
    return _part("table", list(zip(columns, numbers, strict=True)), cells)


def _cell(value: object) -> Markup:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return Markup(NOTHING)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return Markup(f"{value:,}")
    return Markup(f"{value:.3f}") if isinstance(value, (float, np.floating)) else escape(value)


def percent(value: float | None, interval: "Ends | None" = None) -> str:
    """Format a fraction as `69.2 %`, with its interval as `69.2 % [67.7, 70.6]`; a dash for None and NaN."""
    return _format(value, interval, ".1f", 100, " %")


def number(value: float | None, interval: "Ends | None" = None) -> str:
    """Format a number as `0.692`, with its interval as `0.692 [0.677, 0.706]`; a dash for None and NaN."""
    return _format(value, interval, ".3f")


def points(value: float | None, low: float = math.nan, high: float = math.nan) -> str:
    """Format a difference of fractions in percentage points as `+1.2 [+0.3, +2.1]`; a dash for None and NaN."""
    return _format(value, (low, high), "+.1f", 100)


def _format(value: float | None, interval: "Ends | None", spec: str, scale: float = 1, unit: str = "") -> str:
    if value is None or math.isnan(value):
        return NOTHING
    low, high = interval or (math.nan, math.nan)
    ends = "" if math.isnan(low) else f" [{scale * low:{spec}}, {scale * high:{spec}}]"
    return f"{scale * value:{spec}}{unit}{ends}"


def heat_map(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, caption: str = "") -> Markup:
    """Return a table of counts, each coloured by its share of its row, such as a confusion matrix.

    Args:
        counts: (rows, columns); the cells in which both have one name are outlined.
        rows: names, such as true classes.
        columns: names, such as predicted classes.
        caption: a line below.
    """
    body = []
    for name, values in zip(rows, counts.tolist(), strict=True):
        shares = [value / sum(values) if any(values) else math.nan for value in values]
        cells = [
            (name == column, 0 if math.isnan(share) else share, _format(share, None, ".0f", 100, " %"), f"{value:,.0f}")
            for column, value, share in zip(columns, values, shares, strict=True)
        ]
        body.append((name, cells))
    return _part("heat_map", columns, body, caption)


@contextlib.contextmanager
def new_figure(width: float = 7.2, height: float = 3.2) -> "Iterator[Figure]":
    """Yield a matplotlib figure in the page's look; draw inside the context.

    Args:
        width: in inches; a page is 7.2 wide.
        height: in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=STYLE):
        yield Figure(figsize=(width, height))


def figure(drawn: "Figure", alt: str, *, caption: str = "") -> Markup:
    """Return a matplotlib figure as inline SVG.

    Args:
        drawn: from `new_figure`; in others a `$` in names from data would begin a formula.
        alt: alternative text.
        caption: a line below.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(fname=STYLE):
        # Without a date the same figure is the same text.
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Ids that nothing refers to would be in the page once per figure.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    # matplotlib has escaped the text in its SVG.
    return _part("figure", Markup(svg), caption)


def thumbnail(image_hwc_u8: np.ndarray, caption: str) -> Markup:
    """Return an image, shrunk to at most 96 pixels per side, with lines of text below; see `thumbnails`.

    Args:
        image_hwc_u8: RGB, uint8 (h, w, 3).
        caption: plain text, with line breaks.
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(image_hwc_u8)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    image.save(buffer, "PNG", optimize=True)
    return _part("thumbnail", base64.b64encode(buffer.getvalue()).decode(), caption)


def thumbnails(images: Iterable[Markup]) -> Markup:
    """Arrange thumbnails in a grid."""
    return _part("thumbnails", list(images))


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A section of text and a table, which can be written as Markdown and as HTML.

    Args:
        title: plain text; may be empty.
        lines: paragraphs above the table, plain text.
        rows: of the table, all with the keys of the first; numbers as text already, or whole.
        notes: paragraphs below it.
        html: results of the helpers of this module, concatenated, above the table; such a section is not written as
            Markdown, which has no form for it.
    """

    title: str
    lines: tuple[str, ...] = ()
    rows: Sequence[Mapping[str, object]] = ()
    notes: tuple[str, ...] = ()
    html: str = ""


def rows_of(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> list[dict[str, object]]:
    """Name the cells of lines for `Block.rows`."""
    return [dict(zip(columns, line, strict=True)) for line in lines]


def counted(counts: Mapping[str, int]) -> str:
    """Write reason -> number as text."""
    return ", ".join(f"{number:,} ({reason})" for reason, number in counts.items()) or "nothing"


def protocol_facts(protocol: "Protocol") -> dict[str, str]:
    """Say what exactly was measured: name -> value."""
    return {
        "Model": f"{protocol.model} ({protocol.model_fingerprint or 'fingerprint unknown'})",
        "Data": f"{protocol.data} ({protocol.data_fingerprint})",
        "Split": protocol.split or "all",
        "Images": f"{protocol.n:,}",
        "Left out beforehand": counted(protocol.dropped),
        "Face detection": protocol.detection,
        "motivnet": protocol.version,
    }


def block_files(name: str, title: str, blocks: Sequence[Block], data: Any) -> dict[str, str]:
    """Return the contents of NAME.md, NAME.html and, last, NAME.json."""
    texts = to_markdown(title, blocks), to_html(title, blocks), to_json(data)
    return dict(zip((f"{name}.md", f"{name}.html", f"{name}.json"), texts, strict=True))


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Write sections as Markdown."""
    parts = [f"# {_plain(title)}"]
    for block in (block for block in blocks if not block.html):
        parts += [f"## {_plain(block.title)}", *map(_plain, block.lines)]
        if block.rows:
            columns = list(block.rows[0])
            lines = [columns, ["---"] * len(columns), *([row.get(column) for column in columns] for row in block.rows)]
            parts.append("\n".join("| " + " | ".join(map(_plain_cell, line)) + " |" for line in lines))
        parts += map(_plain, block.notes)
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Iterable[Block]) -> str:
    """Write sections as one page."""
    sections = []
    for block in blocks:
        parts = [*map(text, block.lines), block.html, *([table(block.rows)] if block.rows else [])]
        parts += [text(note, note=True) for note in block.notes]
        sections.append({"title": block.title, "html": "".join(parts)})
    return _template("report.html.jinja").render(title=title, sections=sections, version=__version__)


def to_json(data: Any) -> str:
    """Write plain data as indented JSON without NaN, with a final line break."""
    return config.to_json(data, indent=2, ensure_ascii=False) + "\n"


def p_value(value: float | None) -> str | None:
    """Format a p-value to three digits; None for None."""
    if value is None:
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _plain_cell(value: object) -> str:
    if value is None:
        return NOTHING
    return _plain(f"{value:,}" if isinstance(value, int) else str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Escape what would be read as markup or as a new line."""
    return re.sub(r"[\\*_`]", r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
