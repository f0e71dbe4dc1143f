"""Sections of text and tables that are written as Markdown, for a repository, and as HTML."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from motivnet.report import page as report
from motivnet.report.page import points as points

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
        parts += [f"## {_plain(block.title)}", *map(_plain, block.lines)]
        if block.rows:
            columns = list(block.rows[0])
            lines = [columns, ["---"] * len(columns), *([row.get(column) for column in columns] for row in block.rows)]
            parts.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
        parts += map(_plain, block.notes)
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
    """Write plain data as indented JSON without NaN, with a final line break."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def p_value(value: float | None) -> str | None:
    """Format a p-value to three digits; None for None."""
    if value is None:
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cell(value: object) -> str:
    if value is None:
        return report.NOTHING
    return _plain(f"{value:,}" if isinstance(value, int) else str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Escape what would be read as markup or as a new line."""
    text = " ".join(text.split())
    return text.replace("\\", "\\\\").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")
