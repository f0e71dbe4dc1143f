"""Tables on the standard output."""

import sys
from collections.abc import Collection, Iterable, Sequence

# Rich assumes 80 columns where there is no terminal, and would break names.
PIPE_COLUMNS = 160


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, no_wrap: Collection[str] = ()) -> None:
    """Print a table with wrapped cells.

    Args:
        titles: of the columns.
        rows: cells as plain text.
        no_wrap: titles of columns that are not wrapped.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in no_wrap)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
