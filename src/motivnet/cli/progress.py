"""A progress bar on stderr, if that is a terminal."""

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """Yield the items, with a progress bar.

    Args:
        items: what to iterate over.
        total: number of items; None if it is not known.
        what: the description before the bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=what)


@contextlib.contextmanager
def open_bar() -> Iterator[Callable[..., None] | None]:
    """Give a function that shows the progress of a step; None if stderr is not a terminal.

    Its arguments are a description of the step, what is done, the total or None, and the rate as text; each step has a
    line of its own. Without a rate, frames per second are measured.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    what, rate_text = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[rate]"))
    columns = (what, BarColumn(), MofNCompleteColumn(), rate_text)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None, rate: str | None = None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, completed=done - 1, rate="")
            task = bar.tasks[tasks[what]]
            if rate is None and task.speed:
                left_s = task.time_remaining
                left = "" if left_s is None else f", {datetime.timedelta(seconds=left_s)} left"
                rate = f"{task.speed:.0f} frames/s{left}"
            bar.update(task.id, completed=done, total=max(done, total) if total else None, rate=rate or "")

        yield show
