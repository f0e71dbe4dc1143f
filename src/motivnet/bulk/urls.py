"""Reach what URLs name through fsspec: s3, gs, http, memory and whatever else it has a package for."""

import contextlib
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from motivnet.errors import ConfigError, DataError, MissingExtraError

# Seconds before the second, third and fourth try of a fetch.
WAITS_S = (1.0, 3.0, 9.0)
# Answers of a web server that say "later", not "no".
_LATER = (408, 425, 429)
_CHUNK_BYTES = 1 << 20


def is_url(text: str) -> bool:
    """Tell whether fsspec is to open this."""
    return "://" in text


def fsspec() -> Any:
    """Import fsspec.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingExtraError("fsspec", "scale") from None
    return fsspec


def open_binary(location: str) -> IO[bytes]:
    """Open a path or URL; raises what its file system raises."""
    return fsspec().open(location, "rb").open() if is_url(location) else Path(location).open("rb")


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what goes wrong at a file that a whole run needs into an error of ours.

    Raises:
        ConfigError: if the package for such URLs is not installed.
        DataError: at anything else.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{location}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{location}: no such file or folder") from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are ValueErrors
        raise DataError(f"{location}: cannot be read: {error}") from None


class FetchError(Exception):
    """A URL that gives no bytes, and why."""


def fetch(url: str, max_bytes: int) -> bytes:
    """Read what a URL names; what may pass, such as a broken connection or an overloaded server, is tried again.

    Args:
        url: what to read.
        max_bytes: nothing is read beyond the first byte too many.

    Raises:
        FetchError: if there is nothing there, it may not be read, or even the last try fails.
        ConfigError: if the package for such URLs is not installed.
        MissingExtraError: if fsspec is not.
    """
    for tries, wait_s in enumerate((*WAITS_S, None), 1):
        try:
            with open_binary(url) as file:
                return _read(file, max_bytes + 1)
        except MissingExtraError:
            raise
        except ImportError as error:
            raise ConfigError(f"{url}: {error}") from None
        except Exception as error:  # every file system of fsspec raises its own
            # That of http says "not found" of all that goes wrong; what it was is the cause.
            cause = error.__cause__ or error
            if wait_s is None or _is_final(cause):
                times = f" in {tries} tries" if tries > 1 else ""
                raise FetchError(f"cannot be fetched{times}: {type(cause).__name__}: {cause}") from None
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def _read(file: IO[bytes], size: int) -> bytes:
    # A stream may give fewer bytes than it is asked for, and more the next time.
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(_CHUNK_BYTES, size - len(data)))):
        data += chunk
    return bytes(data)


def _is_final(error: BaseException) -> bool:
    # aiohttp's errors have a status, those of Google's package a code.
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)  # type: ignore[attr-defined]
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _LATER
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError)
    return isinstance(error, kinds)
