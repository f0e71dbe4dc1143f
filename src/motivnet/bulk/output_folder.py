"""Where a bulk run puts its files: a local folder or any that fsspec can write to, each file whole or not there."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from motivnet.bulk.urls import fsspec, is_url
from motivnet.errors import ConfigError, OutputError

_HIDDEN = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


class Folder:
    """A folder of small files. Its pickled form is its name, and travels to the workers."""

    def __init__(self, location: str | Path) -> None:
        """Find the folder; nothing is made yet.

        Raises:
            ConfigError: if the package for such URLs is not installed.
            MissingExtraError: if fsspec is not.
        """
        url = is_url(str(location))
        self.name = str(location).rstrip("/") if url else str(Path(location).absolute())
        try:
            # A listing from before another process wrote would mislead.
            self._files: Any = (
                fsspec().core.url_to_fs(self.name, use_listings_cache=False)[0] if url else fsspec().filesystem("file")
            )
            self._root = self._files._strip_protocol(self.name)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{location}: {error}") from None

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.name,)

    def path(self, name: str) -> str:
        """Say where a file of this name is, for messages."""
        return f"{self.name}/{name}"

    def names(self) -> set[str]:
        """Give the names of what is in the folder; makes it if it is not there.

        Raises:
            OutputError: if it cannot be used.
        """
        with self._explained("cannot be used"):
            if not self._files.isdir(self._root):
                self._files.makedirs(self._root, exist_ok=True)
            # Object stores have no folders, and find nothing where there is no file.
            with contextlib.suppress(FileNotFoundError):
                return {path.rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)}
            return set()

    def read(self, name: str, *, last: int | None = None) -> bytes:
        """Read a file, or the `last` bytes of it.

        Raises:
            OutputError: if it cannot be read.
        """
        with self._explained(f"{name} cannot be read"):
            return self._files.cat_file(self._path(name), start=None if last is None else -last)

    def write(self, name: str, data: bytes) -> None:
        """Write a file under a hidden name, then give it its own, in place of one that is there.

        Raises:
            OutputError: if it cannot be written.
        """
        # Unique across all hosts.
        hidden = self._path(f".{name}.{uuid.uuid4().hex}.tmp")
        with self._explained(f"{name} cannot be written"):
            try:
                with self._files.open(hidden, "wb") as file:
                    file.write(data)
                    if "file" in self._files.protocol:
                        file.flush()
                        os.fsync(file.fileno())
                self._files.mv(hidden, self._path(name))
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(hidden)
                raise

    def sweep(self) -> None:
        """Remove the hidden files that killed writers left."""
        for name in self.names():
            if _HIDDEN.fullmatch(name):
                # Another process may be done with it meanwhile, or this one may not remove it.
                with contextlib.suppress(OSError):
                    self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # every file system of fsspec raises its own
            reason = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
            raise OutputError(f"{self.name}: {what}: {reason}") from None
