"""Where the images of a bulk run come from, in an order that never changes, and how a part of them is read.

SRC is one of

- a folder, local or a URL that ends in none of the suffixes below: all images below it that are not hidden, by path;
- a list, `.txt` (one path or URL a line) or `.csv` (with a column `path`);
- a Parquet file, such as a manifest: see `motivnet.bulk.parquet_images`;
- one image.

Relative paths of a list count from the list's folder. URLs are whatever fsspec opens (s3, gs, http, ...), and need
fsspec only then. A `Source` knows how many inputs there are and a fingerprint of them; a `Slice` is the inputs from
`start` to `stop`, small and picklable, and is what travels to the worker that reads them.
"""

import collections
import csv
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from motivnet.bulk.urls import FetchError, explained, fetch, fsspec, is_url, open_binary
from motivnet.errors import DataError
from motivnet.images import IMAGE_SUFFIXES, ImageLimits
from motivnet.preprocess import Box

LIST_SUFFIXES = (".csv", ".parquet", ".txt")
# Fetches from URLs that are under way at once: latency, not the processor, is what they wait for.
NUM_FETCHERS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One input as read.

    Args:
        name: path, URL, or `FILE#ROW` for bytes without a path.
        data: a local path, or the bytes of the file.
        error: why there are no bytes; None otherwise.
        box: where the face is, in pixels of the upright image, if the source tells.
    """

    name: str
    data: str | bytes
    error: str | None = None
    box: Box | None = None


class Slice(Protocol):
    """Consecutive inputs of a source."""

    def __len__(self) -> int: ...

    def read(self, limits: ImageLimits) -> Iterator[Input]:
        """Read the inputs in order; one that cannot be read says so itself."""
        ...


class Source(Protocol):
    """All inputs of a run."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ where the inputs do: their names, order, number or sizes."""
        ...

    def __len__(self) -> int: ...

    def slice(self, start: int, stop: int) -> Slice:
        """Give the inputs from number `start` up to, without, `stop`."""
        ...


def open_source(src: str) -> Source:
    """Find the inputs.

    Raises:
        DataError: if there is nothing there, no image in it, or a list is not what it should be.
        ConfigError: if fsspec cannot open such URLs here.
        MissingExtraError: if fsspec or pyarrow is needed and not installed.
    """
    suffix = os.path.splitext(src)[1].lower()  # noqa: PTH122, of URLs too
    source = _open_url(src, suffix) if is_url(src) else _open_path(Path(src), suffix)
    if not len(source):
        raise DataError(f"{src}: holds no inputs")
    return source


def _open_path(path: Path, suffix: str) -> Source:
    if path.is_dir():
        found = sorted(_images_below(path))
        if not found:
            raise DataError(f"{path}: no images in this folder. Looked for {', '.join(IMAGE_SUFFIXES)}")
        return ListSource(tuple(name for name, _ in found), _digest(found))
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if suffix == ".parquet":
        return _open_table(str(path))
    if suffix in LIST_SUFFIXES:
        return _listed(str(path), suffix)
    return ListSource((str(path),), _digest([(str(path), path.stat().st_size)]))


def _open_url(url: str, suffix: str) -> Source:
    if suffix == ".parquet":
        return _open_table(url)
    if suffix in LIST_SUFFIXES:
        return _listed(url, suffix)
    if suffix in IMAGE_SUFFIXES:
        return ListSource((url,), _digest([(url, None)]))
    with explained(url):
        files, path = fsspec().core.url_to_fs(url)
        entries = files.find(path, detail=True)
        found = sorted((files.unstrip_protocol(name), entry.get("size")) for name, entry in entries.items())
    below = files.unstrip_protocol(path)
    found = [(name, size) for name, size in found if _is_image(name.removeprefix(below))]
    if not found:
        raise DataError(f"{url}: no images there. Looked for {', '.join(IMAGE_SUFFIXES)}")
    return ListSource(tuple(name for name, _ in found), _digest(found))


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and path.lower().endswith(IMAGE_SUFFIXES)


def _images_below(folder: Path) -> Iterator[tuple[str, int | None]]:
    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _is_image(name):
                path = Path(parent, name)
                # A link to nowhere is an input too, and will be unreadable.
                yield str(path), path.stat().st_size if path.exists() else None


def _digest(entries: list[tuple[str, int | None]]) -> str:
    digest = hashlib.sha256()
    for name, size in entries:
        digest.update(f"{name!r} {size}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _listed(location: str, suffix: str) -> "ListSource":
    with explained(location), open_binary(location) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        if suffix == ".csv":
            rows = csv.DictReader(text)
            if "path" not in (rows.fieldnames or ()):
                raise DataError(f"{location}: no column 'path' among {rows.fieldnames}")
            paths = [row["path"] or "" for row in rows]
        else:
            paths = [line for line in text.read().splitlines() if line.strip()]
    names = tuple(beside(location, path) for path in paths)
    return ListSource(names, _digest([(name, None) for name in names]))


def beside(location: str, path: str) -> str:
    """Give a path that a list at `location` names: as it is, or counted from the list's folder."""
    if is_url(path) or not path:
        return path
    if is_url(location):
        return f"{location.rsplit('/', 1)[0]}/{path}"
    return str(Path(location).parent / path)


@dataclasses.dataclass(frozen=True, slots=True)
class ListSource:
    """Inputs with a path or URL each; as a slice, some of them."""

    names: tuple[str, ...]
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, start: int, stop: int) -> "ListSource":
        """Give the inputs from number `start` up to, without, `stop`."""
        return ListSource(self.names[start:stop])

    def read(self, limits: ImageLimits) -> Iterator[Input]:
        """Read the inputs in order, URLs some ahead; local files the decoder reads itself."""
        if not any(map(is_url, self.names)):
            yield from (read_input(name, limits) for name in self.names)
            return
        queue: collections.deque[Future[Input]] = collections.deque()
        pool = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="motivnet-fetch")
        try:
            for name in self.names:
                queue.append(pool.submit(read_input, name, limits))
                if len(queue) >= NUM_FETCHERS:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def read_input(name: str, limits: ImageLimits, box: Box | None = None) -> Input:
    """Read an input by its path or URL; one that cannot be read says so itself. Local files the decoder reads."""
    if not is_url(name):
        return Input(name, name, box=box) if name else Input(name, b"", "no path")
    try:
        return Input(name, fetch(name, limits.max_bytes), box=box)
    except FetchError as error:
        return Input(name, b"", str(error))


def _open_table(location: str) -> Source:
    from motivnet.bulk.parquet_images import open_table

    return open_table(location)
