"""Run one stage of a pipeline in a thread, a bounded number of items ahead of the next."""

import collections
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
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
