"""Tables on the standard output, and progress bars on stderr."""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from motivnet.errors import for_terminal

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")
# Rich assumes 80 columns where there is no terminal, and would break names.
PIPE_COLUMNS = 160


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print text on the standard output or stderr; what would control the terminal is escaped."""
    typer.echo(for_terminal(str(text)), err=err, nl=nl)


def track(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """Yield the items, with a progress bar on stderr, if that is a terminal.

    Args:
        items: what to iterate over.
        total: number of items; None if it is not known.
        what: the description before the bar.
    """
    with open_bar() as show:
        for done, item in enumerate(items):
            if show:
                show(what, done, total)
            yield item


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on stderr, if that is a terminal, what the block does, for which there are no steps to count."""
    with open_bar() as show:
        if show:
            show(what, 0, None)
        yield


@contextlib.contextmanager
def open_bar() -> Iterator[Callable[..., None] | None]:
    """Yield a function that shows the progress of a step; None if stderr is not a terminal.

    Its arguments are a description of the step, the number done, and the total or None; each step has its own line.
    """
    if not sys.stderr.isatty():
        yield None
        return
    import rich.progress as bars
    from rich.console import Console

    what, rate = (bars.TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[rate]"))
    times = bars.TimeElapsedColumn(), bars.TimeRemainingColumn()
    columns = (what, bars.BarColumn(), bars.MofNCompleteColumn(), *times, rate)
    # What is printed in the meantime appears above the bar; results that are sent to a file stay there.
    with bars.Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, completed=max(0, done - 1), rate="")
            speed = bar.tasks[tasks[what]].speed
            rate, total = f"{speed:.1f}/s" if speed else "", max(done, total) if total else None
            bar.update(tasks[what], completed=done, total=total, rate=rate)

        yield show


def make_table(titles: Sequence[str], *, right: Collection[str] = (), no_wrap: Collection[str] = ()) -> "Table":
    """Return an empty table.

    Args:
        titles: of the columns.
        right: titles of columns that are aligned to the right.
        no_wrap: titles of columns that are not wrapped.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        justify = "right" if title in right else "left"
        table.add_column(Text(title), justify=justify, overflow="fold", no_wrap=title in no_wrap)
    return table


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, no_wrap: Collection[str] = ()) -> None:
    """Print a table whose cells are plain text; see `make_table`."""
    from rich.text import Text

    table = make_table(titles, no_wrap=no_wrap)
    for row in rows:
        table.add_row(*(Text(for_terminal(cell)) for cell in row))
    print_tables(table)


def print_tables(*tables: "Table") -> None:
    """Print tables as wide as the terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    for table in tables:
        console.print(table)
