"""Run one stage of a pipeline in a thread, a bounded number of items ahead of the next."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar, cast

T = TypeVar("T")
# What the thread passes on: an item, or the error that ended it; StopIteration at the end.
_Passed = tuple[T | None, BaseException | None]


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate in a thread, at most `depth` items ahead of the caller; errors are raised in the caller.

    The thread ends with the generator: when it is exhausted, closed or collected.
    """
    ready: queue.Queue[_Passed[T]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stopped), name="motivnet-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(T, item)
    finally:
        stopped.set()
        thread.join()


def _fill(items: Iterable[T], ready: "queue.Queue[_Passed[T]]", stopped: threading.Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            _put((item, None), ready, stopped)
            if stopped.is_set():
                return
        _put((None, StopIteration()), ready, stopped)
    except BaseException as error:  # any kind: without it the caller would wait forever
        _put((None, error), ready, stopped)
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def _put(passed: "_Passed[T]", ready: "queue.Queue[_Passed[T]]", stopped: threading.Event) -> None:
    """Wait for a free place, unless the reader has stopped."""
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(passed, timeout=0.1)
            return
