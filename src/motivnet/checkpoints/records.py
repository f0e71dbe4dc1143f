"""What is written down of fetched weights: where they came from, under which licence, with which checksum."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from motivnet import config
from motivnet.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is written down of a fetched file.

    Args:
        name: what it was asked for by.
        repo: on the hub.
        commit: of the repository.
        file: inside the repository.
        size_bytes: of the file.
        sha256: as computed from the file.
        licence: as shown before the transfer.
        fetched: when, ISO 8601 in UTC.
        endpoint: where from; None if another program had put it into the cache.
        path: where it is.
    """

    name: str
    repo: str
    commit: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    fetched: str
    endpoint: str | None
    path: str


def records_folder() -> Path:
    """Give the folder where fetched files are written down."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "motivnet" / "weights"


def read_records() -> Iterator[tuple[Path, Record]]:
    """Give every record that can be read, each with its file."""
    for place in sorted(records_folder().glob("*.json")):
        # A record that cannot be read counts for nothing: the file is checked again.
        with contextlib.suppress(OSError, ValueError, ConfigError):
            yield place, config.from_plain(Record, json.loads(place.read_text(encoding="utf-8")))


def write_record(record: Record) -> Path:
    """Write a record into its file, in the place of an older one of that name."""
    place = records_folder() / (record.name.replace(":", "--").replace("/", "--") + ".json")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(config.to_plain(record), indent=2) + "\n", encoding="utf-8")
    return place
