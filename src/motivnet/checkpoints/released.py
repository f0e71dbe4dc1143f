"""The catalogue of released weight files: where they are, size, licence and purpose. Torch-free.

What is not known is None here and shown as "unknown"; sizes and checksums are never guessed.
"""

import dataclasses
import re
from typing import Any

from motivnet.errors import CheckpointError, unknown_name
from motivnet.storage import ASSETS, read_csv

HUB_PREFIX = "hf:"

# A repository's owner or name, and one part of a path inside it: no `..`, nothing hidden, nothing to escape.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-]))*(?<!\.git)(?<![.-])")
_FILE_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*(?<!\.)")
_REPO_LENGTH = 96  # the hub's limit

# What is known of each file. A line without a file is of one that was never released, and its note says so.
CATALOGUE = ASSETS / "released_weights.csv"


@dataclasses.dataclass(frozen=True, slots=True)
class Licence:
    """The licence of weights.

    Args:
        name: short name.
        terms: what it requires, in one line.
        url: of its text; empty if unknown.
    """

    name: str
    terms: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.terms}" + (f" ({self.url})" if self.url else "")


LICENCES = {row["name"]: Licence(**row) for row in read_csv(ASSETS / "licences.csv")}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """One released file.

    Args:
        name: what the command line and `load_model` call it.
        repo: repository on the Hugging Face hub, or None if it is on no known hub.
        file: its name there.
        purpose: what it is for, in one line.
        licence: of the weights.
        size_bytes: exact or as published, or None if unknown.
        about_bytes: of the encoder in float32, from its number of parameters, where the size is not known; or None.
        note: anything else worth knowing.
        sha256: checksum as published, or None if unknown.
    """

    name: str
    repo: str | None
    file: str
    purpose: str
    licence: Licence
    size_bytes: int | None = None
    about_bytes: int | None = None
    note: str = ""
    sha256: str | None = None

    @property
    def size(self) -> str:
        """Human-readable size: "4.68 GB", "about 1.2 GB" or "unknown"."""
        if self.size_bytes is not None:
            return f"{self.size_bytes / 1e9:.2f} GB"
        if self.about_bytes is not None:
            return f"about {self.about_bytes / 1e9:.2g} GB"
        return "unknown"

    @property
    def where(self) -> str:
        """Repository on the hub, or where else to get it."""
        return self.repo or "from its authors; not on a hub that is known"


def _read_catalogue() -> tuple[dict[str, Released], dict[str, str]]:
    """Return the files by name, and by name why another does not exist."""
    files, missing = {}, {}
    for row in read_csv(CATALOGUE):
        if row["file"]:
            sizes = {name: int(row[name]) if row[name] else None for name in ("size_bytes", "about_bytes")}
            about: dict[str, Any] = row | sizes | {"licence": LICENCES[row["licence"]], "repo": row["repo"] or None}
            files[row["name"]] = Released(**about)
        else:
            missing[row["name"]] = row["note"]
    return files, missing


_FILES, _NEVER_RELEASED = _read_catalogue()
RELEASED = tuple(_FILES.values())


def released(name: str) -> Released:
    """Find a released file by its name.

    Raises:
        CheckpointError: if there is none of this name.
    """
    if name in _NEVER_RELEASED:
        raise CheckpointError(f"{name}: {_NEVER_RELEASED[name]}")
    if name not in _FILES:
        raise CheckpointError(f"{unknown_name('weights', name, _FILES)}; or {HUB_PREFIX}owner/repo/file")
    return _FILES[name]


def parse_hub_name(name: str) -> tuple[str, str | None]:
    """Split `hf:owner/repo/path/file.ext` into repository and file; `hf:owner/repo`, a bundle, has no file.

    Raises:
        CheckpointError: if it is written otherwise.
    """
    parts = name.removeprefix(HUB_PREFIX).split("/")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    well_formed = all(map(_REPO_PART.fullmatch, parts[:2])) and all(map(_FILE_PART.fullmatch, parts[2:]))
    if not (name.startswith(HUB_PREFIX) and len(parts) > 1 and well_formed and len(repo) <= _REPO_LENGTH):
        raise CheckpointError(f"{name!r} is no place on the hub. Allowed: hf:owner/repo, or hf:owner/repo/path/file")
    return repo, file or None
