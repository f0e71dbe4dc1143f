"""Released weights from the Hugging Face hub, or a mirror of it, into the hub's own cache: resumed, checked, recorded.

The cache is the one that huggingface_hub and all its users share, in their layout: what is there is used, and what is
put there serves them. Nothing that is fetched here enters it unchecked.
"""

import dataclasses
import datetime
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from motivnet.checkpoints.records import Record, read_records, write_record
from motivnet.checkpoints.released import HUB_PREFIX, RELEASED, HubName, Released, parse_hub_name, released
from motivnet.checkpoints.transfer import (
    OFFLINE_VARIABLE,
    clear_errors,
    find_address,
    find_mirror,
    is_offline,
    no_telemetry,
    sha256_of,
    timeout_s,
    transfer,
)
from motivnet.errors import CheckpointError, MissingExtraError
from motivnet.version import __version__

# What a bundle's repository is asked for; config.json comes last, so that a folder which has it is complete.
_BUNDLE_FILE = re.compile(r"config\.json|README\.md|[\w-][\w.-]*\.safetensors|model\.onnx[\w.-]*")
_WEIGHT_FILE = re.compile(r".*\.safetensors|model\.onnx.*")
# Names from a server that become names of files: nothing that leads elsewhere.
_PLAIN = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The longest wait for another process that is fetching the same file.
_LOCK_S = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyReport:
    """A file's checksum, and what it should be.

    Args:
        path: of the file.
        size_bytes: its size.
        sha256: as computed now.
        expected: what it should be, or None if nobody knows.
    """

    path: Path
    size_bytes: int
    sha256: str
    expected: str | None

    @property
    def status(self) -> Literal["ok", "damaged", "unknown"]:
        """Whether the checksum is as expected; `unknown` if there is nothing to compare it with."""
        if self.expected is None:
            return "unknown"
        return "ok" if self.sha256 == self.expected else "damaged"


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """A name, resolved: `place` is None for a file on no hub, `entry` for one that is not in the table."""

    name: str
    place: HubName | None
    entry: Released | None

    @property
    def sha256(self) -> str | None:
        return self.entry.sha256 if self.entry else None


def is_hub_name(name: str) -> bool:
    """Tell whether `name` is what `fetch` takes, as opposed to a path or an embedded model."""
    return name.startswith(HUB_PREFIX) or any(entry.name == name for entry in RELEASED)


def locate(name: str) -> Path:
    """Give the file (or bundle folder) of a released or hub name: from the cache, else fetched.

    Raises:
        CheckpointError: see `fetch`.
    """
    return cached(name) or fetch(name)


def cached(name: str, *, cache: Path | None = None) -> Path | None:
    """Look a released or hub name up in the cache; never touches the network.

    Args:
        name: see `fetch`.
        cache: another folder than the hub's usual cache.

    Returns:
        The file, or a bundle's folder; None if it is not there.

    Raises:
        CheckpointError: if there is no such name.
    """
    return _find(_source(name), cache)


def fetch(
    name: str,
    *,
    mirror: str | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Bring weights into the cache, unless they are there, and check them.

    A transfer that breaks off is taken up again where it stopped, in this call or a later one. `MOTIVNET_OFFLINE=1`
    forbids the network. `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` count; a mirror is never sent the token.

    Args:
        name: of a released file; or `hf:owner/repo/file`; or `hf:owner/repo`, a repository that is a bundle.
        mirror: address that answers as the hub does; otherwise `MOTIVNET_MIRROR`, or the hub.
        cache: another folder than the hub's usual cache.
        say: takes lines for people, the licence among them; by default they go to stderr.

    Returns:
        The file, or the bundle's folder.

    Raises:
        CheckpointError: if there is no such name, the network or the place does not give it, or it arrives damaged.
        MissingExtraError: if huggingface_hub is not installed.
    """
    source, say, mirror = _source(name), say or _say, find_mirror(mirror)
    if source.place is None:
        raise CheckpointError(_not_on_a_hub(source))
    with clear_errors(name, mirror):
        found = _find(source, cache)
        if found and all(_is_sound(source, path, say) for path in _files(found)):
            return found
        if is_offline():
            raise CheckpointError(
                f"{name}: not in the cache {_cache_folder(cache)}, and {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids "
                f"the network. Unset it and run: motivnet weights fetch {name}"
            )
        with no_telemetry():
            if source.place.file is None:
                return _fetch_folder(source, mirror, cache, say)
            where = "unknown here: read what its repository says"
            say(f"{name}: licence {source.entry.licence if source.entry else where}")
            return _fetch_file(source, source.place.file, _licence(source), mirror, cache)


def verify(name: str | Path, *, cache: Path | None = None) -> VerifyReport:
    """Compute a file's checksum anew and compare it with what it should be.

    Args:
        name: see `fetch`, but of a file; or the path of a file, whose checksum is known if it was fetched.
        cache: another folder than the hub's usual cache.

    Raises:
        CheckpointError: if there is no such file, or it is not in the cache.
    """
    path, known = Path(name), None
    if is_hub_name(str(name)):
        source = _source(str(name))
        known, found = source.sha256, _find(source, cache)
        if found is None:
            raise CheckpointError(_not_on_a_hub(source) if source.place is None else f"{name}: not fetched yet")
        path = found
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        report = VerifyReport(path, path.stat().st_size, sha256_of(path), known or _expected(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if report.status == "damaged":
        for place, record in read_records():  # so that the next fetch does not trust it
            if record.path == str(path):
                place.unlink(missing_ok=True)
    return report


def weight_files(path: Path) -> list[Path]:
    """Give a file itself, or a bundle folder's files of weights."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if _WEIGHT_FILE.fullmatch(file.name))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _source(name: str) -> _Source:
    if not name.startswith(HUB_PREFIX):
        entry = released(name)
        return _Source(name, HubName(entry.repo, entry.file) if entry.repo else None, entry)
    place = parse_hub_name(name)
    entry = next((entry for entry in RELEASED if (entry.repo, entry.file) == (place.repo, place.file)), None)
    return _Source(name, place, entry)


def _not_on_a_hub(source: _Source) -> str:
    assert source.entry
    return f"{source.name}: {source.entry.file} comes {source.entry.where}. If you have it, give its path instead"


def _licence(source: _Source) -> str:
    return str(source.entry.licence) if source.entry else "unknown"


def _cache_folder(cache: Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser()


def _find(source: _Source, cache: Path | None) -> Path | None:
    if source.place is None:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "torch") from None
    found = try_to_load_from_cache(source.place.repo, source.place.file or "config.json", _cache_folder(cache))
    if not isinstance(found, str):
        return None
    path = Path(found)
    if source.place.file is None:
        return path.parent if weight_files(path.parent) else None
    return path


def _files(found: Path) -> list[Path]:
    return [file for file in found.iterdir() if _BUNDLE_FILE.fullmatch(file.name)] if found.is_dir() else [found]


def _is_sound(source: _Source, path: Path, say: Callable[[str], None]) -> bool:
    """Check a cached file, unless that was done and written down; remove it if it is damaged."""
    assert source.place
    size = path.stat().st_size
    if any((record.path, record.size_bytes) == (str(path), size) for _, record in read_records()):
        return True
    digest, expected = sha256_of(path), source.sha256 or _expected(path)
    if expected not in (None, digest):
        _remove(path)
        say(f"{source.name}: {path} was damaged (sha256 {digest}, expected {expected}) and is removed")
        return False
    _write_record(source, path, digest, _licence(source), endpoint=None)
    return True


def _remove(path: Path) -> None:
    """Take a file out of the hub's cache, where it is a link to what holds its bytes."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _fetch_folder(source: _Source, mirror: str | None, cache: Path | None, say: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi

    assert source.place
    api = HfApi(mirror, **_caller(mirror))
    try:
        info = api.model_info(source.place.repo, timeout=timeout_s())
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{source.name}: {find_address(mirror)} does not answer as the hub does") from None
    names = [item.rfilename for item in info.siblings or [] if _BUNDLE_FILE.fullmatch(item.rfilename)]
    if "config.json" not in names or not any(map(_WEIGHT_FILE.fullmatch, names)):
        raise CheckpointError(
            f"{source.name}: no bundle, which has a config.json and weights. For one of its files: {source.name}/FILE"
        )
    licences = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    licence = ", ".join(licences) or "unknown here: read what its repository says"
    say(f"{source.name}: licence {licence}")
    names.sort(key=lambda file: file == "config.json")
    folders = {_fetch_file(source, file, licence, mirror, cache).parent for file in names}
    if len(folders) > 1:
        raise CheckpointError(f"{source.name}: changed while it was fetched. Run it again")
    return folders.pop()


def _fetch_file(source: _Source, file: str, licence: str, mirror: str | None, cache: Path | None) -> Path:
    """Transfer and check one file, and have huggingface_hub put it in its place."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    assert source.place
    repo, what = source.place.repo, f"{source.place.repo}/{file}"
    metadata = get_hf_file_metadata(
        hf_hub_url(repo, file, endpoint=mirror), endpoint=mirror, timeout=timeout_s(), **_caller(mirror)
    )
    commit, etag = metadata.commit_hash or "", metadata.etag or ""
    if metadata.size is None or not _PLAIN.fullmatch(commit) or not _PLAIN.fullmatch(etag):
        raise CheckpointError(f"{what}: {find_address(mirror)} does not answer as the hub does")
    url = hf_hub_url(repo, file, revision=commit, endpoint=mirror)
    digest = _fill_blob(what, url, etag, metadata.size, source.sha256, mirror, _cache_folder(cache))
    path = Path(hf_hub_download(repo, file, cache_dir=_cache_folder(cache), endpoint=mirror, **_caller(mirror)))
    if commit not in path.parts:
        raise CheckpointError(f"{what}: changed while it was fetched. Run it again")
    _write_record(source, path, digest, licence, find_address(mirror))
    return path


def _caller(mirror: str | None) -> dict[str, Any]:
    """Say to huggingface_hub who asks; no mirror is told the user's token."""
    return {"token": False if mirror else None, "library_name": "motivnet", "library_version": __version__}


def _fill_blob(what: str, url: str, etag: str, size: int, sha256: str | None, mirror: str | None, cache: Path) -> str:
    """Put a file's bytes where the hub's cache keeps them, unless they are there; give their SHA-256.

    Raises:
        CheckpointError: if they are not what they should be; they are then removed.
    """
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    folder = "models--" + "--".join(what.split("/")[:2])
    blob = cache / folder / "blobs" / etag
    lock = cache / ".locks" / folder / f"{etag}.motivnet.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock, timeout=_LOCK_S):
        arrived = blob
        if not blob.exists():
            arrived = blob.with_name(f"{etag}.incomplete")
            transfer(what, url, build_hf_headers(**_caller(mirror)), arrived, size)
        digest = sha256_of(arrived)
        for expected in (sha256, etag if _SHA256.fullmatch(etag) else None):
            if expected not in (None, digest):
                arrived.unlink()
                raise CheckpointError(
                    f"{what}: arrived damaged: sha256 {digest}, expected {expected}. It is removed; run it again"
                )
        arrived.replace(blob)
    return digest


def _expected(path: Path) -> str | None:
    """Say what a file's SHA-256 should be: the hub's cache names large files by it, else a record may know."""
    if _SHA256.fullmatch(path.resolve().name):
        return path.resolve().name
    return next((record.sha256 for _, record in read_records() if record.path == str(path)), None)


def _write_record(source: _Source, path: Path, digest: str, licence: str, endpoint: str | None) -> None:
    """Write down a file of the cache; its commit and its name inside the repository are read off its path."""
    assert source.place
    commit, *inside = path.parts[path.parts.index("snapshots") + 1 :]
    file = "/".join(inside)
    name = source.name if source.place.file else f"{source.name}/{file}"
    record = Record(
        name=source.entry.name if source.entry else name,
        repo=source.place.repo,
        commit=commit,
        file=file,
        size_bytes=path.stat().st_size,
        sha256=digest,
        licence=licence,
        fetched=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        endpoint=endpoint,
        path=str(path),
    )
    write_record(record)
