"""Sections of text and tables that are written twice: as Markdown for a repository, as HTML for people."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from motivnet.report import page as report

Row = Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A section.

    Args:
        title: plain text.
        lines: paragraphs above the table, plain text.
        rows: of the table, all with the keys of the first; numbers as text already, or whole.
        notes: paragraphs below it.
    """

    title: str
    lines: tuple[str, ...] = ()
    rows: Sequence[Row] = ()
    notes: tuple[str, ...] = ()


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Write sections as Markdown."""
    parts = [f"# {_plain(title)}"]
    for block in blocks:
        parts.append(f"## {_plain(block.title)}")
        parts += [_plain(line) for line in block.lines]
        if block.rows:
            parts.append(_table(block.rows))
        parts += [_plain(note) for note in block.notes]
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Sequence[Block], *, more: Sequence[report.Section] = ()) -> str:
    """Write sections as one page, followed by others that Markdown has no form for."""
    sections = []
    for block in blocks:
        parts = [report.text(line) for line in block.lines]
        parts += [report.table(block.rows)] if block.rows else []
        parts += [report.text(note, note=True) for note in block.notes]
        sections.append(report.Section(block.title, "".join(parts)))
    return report.render(title, [*sections, *more])


def to_json(data: Any) -> str:
    """Write plain data as JSON for people to read and programs to trust: no NaN, one line break at the end."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def points(value: float | None, low: float = math.nan, high: float = math.nan) -> str:
    """Write a difference of fractions as percentage points with its interval: `+1.2 [0.3, 2.1]`; a dash for nothing."""
    if value is None or math.isnan(value):
        return report.NOTHING
    interval = "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * value:+.1f}{interval}"


def p_value(value: float | None) -> str | None:
    """Write a p-value to three digits; None for none."""
    if value is None:
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row.get(column) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None or value == "":
        return report.NOTHING if value is None else ""
    return _plain(f"{value:,}" if isinstance(value, int) else str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Keep what names contain from being read as markup or as a new line."""
    text = " ".join(text.split())
    return text.replace("\\", "\\\\").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")
