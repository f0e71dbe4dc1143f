"""Work ahead of the caller, in threads: iterate, or apply a function; in order and bounded."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
END: Any = object()


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate in a thread, at most `depth` items ahead of the caller; errors are raised in the caller.

    The thread ends with the generator: when it is exhausted, closed or collected.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="motivnet-ahead")
    ahead = collections.deque(pool.submit(next, iterator, END) for _ in range(depth))
    try:
        while (item := ahead.popleft().result()) is not END:
            ahead.append(pool.submit(next, iterator, END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):
            iterator.close()


def map_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    *,
    depth: int | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> Generator[R, None, None]:
    """Apply a function to items in threads, a few ahead of the caller, in order; errors are raised in the caller.

    Args:
        function: of an item.
        items: iterated by the caller.
        workers: number of threads.
        depth: most items ahead; None: two per thread.
        pool: threads to use; None: some of its own, which end with the generator.
    """
    running = pool or ThreadPoolExecutor(workers, thread_name_prefix="motivnet-map")
    ahead: collections.deque[Future[R]] = collections.deque()
    try:
        for item in items:
            ahead.append(running.submit(function, item))
            if len(ahead) > (2 * workers if depth is None else depth):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        if pool is None:
            running.shutdown()
