"""Files that fsspec opens: reading inputs from URLs (s3, gs, http, ...), and the folder that the results go to."""

import contextlib
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from motivnet.errors import ConfigError, DataError, ImageError, OutputError, reraised
from motivnet.remote import without_password
from motivnet.storage import is_temporary, temporary_name, write_bytes

# Seconds before the second, third and fourth attempt to fetch a file.
RETRY_WAITS_S = (1.0, 3.0, 9.0)
# HTTP statuses of the 400s that a later attempt may not get: timeout, too early, too many requests.
_RETRIED_STATUSES = (408, 425, 429)
_PERMANENT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError)
_CHUNK_BYTES = 1 << 20


def is_url(text: str) -> bool:
    """Tell whether fsspec has to open this."""
    return "://" in text


def shown(location: str) -> str:
    """Return a path or URL as it is shown and stored: a URL without its user name and password."""
    return without_password(location) if is_url(location) else location


def open_binary(location: str) -> IO[bytes]:
    """Open a path or URL for reading; raises what its file system raises."""
    if not is_url(location):
        return Path(location).open("rb")
    files, path = fsspec.core.url_to_fs(location)
    return files.open(path, "rb")


@contextlib.contextmanager
def explain_errors(location: str) -> Iterator[None]:
    """Turn errors at a file that the whole run needs into errors of motivnet.

    Raises:
        ConfigError: if the package for such URLs is not installed.
        DataError: if the file cannot be read.
    """
    location = shown(location)
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{location}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{location}: no such file or folder") from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are ValueErrors
        raise DataError(f"{location}: cannot be read: {error}") from None


def fetch(url: str, max_bytes: int) -> bytes:
    """Read the file at a URL; transient errors, such as a broken connection or an overloaded server, are retried.

    Args:
        url: of the file.
        max_bytes: largest size; of a larger file, only one byte more is read.

    Raises:
        ImageError: if there is no such file, it may not be read, or the last attempt fails.
        ConfigError: if the package for such URLs is not installed.
    """
    attempt = 0
    while True:
        try:
            with open_binary(url) as file:
                # A stream may return fewer bytes than requested, and more at the next read.
                data, size = bytearray(), max_bytes + 1
                while len(data) < size and (chunk := file.read(min(_CHUNK_BYTES, size - len(data)))):
                    data += chunk
                return bytes(data)
        except ImportError as error:
            raise ConfigError(f"{shown(url)}: {error}") from None
        except Exception as error:  # every file system of fsspec raises its own
            # fsspec's http raises FileNotFoundError for every failure; the actual one is its cause.
            cause = error.__cause__ or error
            if attempt == len(RETRY_WAITS_S) or _is_permanent(cause):
                attempts = f" in {attempt + 1} attempts" if attempt else ""
                raise ImageError(f"cannot be fetched{attempts}: {type(cause).__name__}: {cause}") from None
        time.sleep(RETRY_WAITS_S[attempt])
        attempt += 1


def _is_permanent(error: BaseException) -> bool:
    # aiohttp's errors have a status (and a deprecated code), those of Google's package a code.
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)  # type: ignore[attr-defined]
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _RETRIED_STATUSES
    return isinstance(error, _PERMANENT_ERRORS)


class OutputFolder:
    """A local folder, or one that fsspec can write to, in which files appear complete. Pickled as its name alone."""

    def __init__(self, location: str | Path) -> None:
        """Describe the folder; nothing is created yet.

        Raises:
            ConfigError: if the package for such URLs is not installed.
        """
        url = is_url(str(location))
        self.name = str(location).rstrip("/") if url else str(Path(location).absolute())
        with reraised(ConfigError, shown(str(location)), ImportError, ValueError):
            # A cached listing would miss what another process has written since.
            cacheless = {"use_listings_cache": False}
            self._files: Any = fsspec.core.url_to_fs(self.name, **cacheless)[0] if url else LocalFileSystem()
            self._root = self._files._strip_protocol(self.name).rstrip("/")

    def __reduce__(self) -> tuple[type["OutputFolder"], tuple[str]]:
        return OutputFolder, (self.name,)

    def names(self) -> set[str]:
        """List the folder, which is created if it does not exist; OutputError if it cannot be used."""
        with self._explained("cannot be used"):
            if not self._files.isdir(self._root):
                self._files.makedirs(self._root, exist_ok=True)
            # Object stores have no empty folders.
            with contextlib.suppress(FileNotFoundError):
                return {path.rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)}
            return set()

    def read(self, name: str, *, last: int | None = None) -> bytes:
        """Read a file, or its `last` bytes; OutputError if it cannot be read."""
        with self._explained(f"{name} cannot be read"):
            return self._files.cat_file(f"{self._root}/{name}", start=None if last is None else -last)

    def write(self, name: str, data: bytes) -> None:
        """Write a file that appears only when it is complete, and replaces an older one.

        Raises:
            OutputError: if it cannot be written.
        """
        if isinstance(self._files, LocalFileSystem):
            write_bytes(Path(self._root, name), data)
            return
        temporary = f"{self._root}/{temporary_name(name)}"
        with self._explained(f"{name} cannot be written"):
            try:
                self._files.pipe_file(temporary, data)
                self._files.mv(temporary, f"{self._root}/{name}")
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(temporary)
                raise

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed processes; no other process may be writing to the folder."""
        for name in filter(is_temporary, self.names()):
            # It may be gone, or not ours to remove.
            with contextlib.suppress(OSError):
                self._files.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every file system of fsspec raises its own
            reason = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
            raise OutputError(f"{shown(self.name)}: {what}: {reason}") from None
