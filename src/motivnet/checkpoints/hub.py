"""Released weights from the Hugging Face hub, or a mirror of it: downloaded by huggingface_hub, verified, recorded.

The cache is the one that huggingface_hub and all its users share: files that are there are used, and downloads serve
the others. A record of each file, with its licence and checksum, is kept in the user's cache folder. Torch-free.
"""

import contextlib
import datetime
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from motivnet.checkpoints.released import HUB_PREFIX, RELEASED, Released, parse_hub_name, released
from motivnet.errors import CheckpointError, MissingExtraError
from motivnet.storage import write_json
from motivnet.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MIRROR_VARIABLE = "MOTIVNET_MIRROR"
OFFLINE_VARIABLE = "MOTIVNET_OFFLINE"
UNKNOWN_LICENCE = "unknown: see its repository"

# The files of a bundle's repository; config.json is downloaded last, so that a folder that has it is complete.
_BUNDLE_FILE = re.compile(r"config\.json|README\.md|[\w-][\w.-]*\.safetensors|model\.onnx[\w.-]*")
_WEIGHT_FILE = re.compile(r".*\.safetensors|model\.onnx.*")
# Names from a server that become file names: no path separators.
_PLAIN = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The checksum of a file, and the expected one.

    Args:
        path: of the file.
        size_bytes: of the file.
        sha256: as computed now.
        expected: None if unknown.
    """

    path: Path
    size_bytes: int
    sha256: str
    expected: str | None

    @property
    def status(self) -> Literal["ok", "damaged", "unknown"]:
        """Whether the checksum is the expected one; `unknown` if there is nothing to compare it with."""
        if self.expected is None:
            return "unknown"
        return "ok" if self.sha256 == self.expected else "damaged"


class _Source(NamedTuple):
    """What a name refers to: `repo` is None for a file on no hub, `file` for a bundle, `entry` for unlisted files."""

    name: str
    repo: str | None
    file: str | None
    entry: Released | None


def is_hub_name(name: str) -> bool:
    """Tell whether `fetch` accepts `name`, as opposed to a path or an embedded model."""
    return name.startswith(HUB_PREFIX) or any(entry.name == name for entry in RELEASED)


def locate(name: str) -> Path:
    """Return the file (or bundle folder) of a released or hub name from the cache, or fetch it; errors as `fetch`."""
    return cached(name) or fetch(name)


def cached(name: str, *, cache: Path | None = None) -> Path | None:
    """Return the cached file, or folder of a bundle, or None; never touches the network.

    Args:
        name: as for `fetch`.
        cache: folder; None takes the hub's usual cache.

    Raises:
        CheckpointError: if the name is unknown.
    """
    return _find(_source(name), cache)


def fetch(
    name: str,
    *,
    mirror: str | None = None,
    cache: Path | None = None,
    echo: Callable[[str], None] | None = None,
) -> Path:
    """Download weights into the cache, unless they are there, and verify their checksums.

    `MOTIVNET_OFFLINE=1` forbids the network. `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` apply; the token is never sent to
    a mirror.

    Args:
        name: of a released file; or `hf:owner/repo/file`; or `hf:owner/repo`, a repository that is a bundle.
        mirror: address with the hub's API; None takes `MOTIVNET_MIRROR`, or the hub.
        cache: folder; None takes the hub's usual cache.
        echo: called with messages for the user, such as the licence; None writes them to stderr.

    Returns:
        The file, or the folder of a bundle.

    Raises:
        CheckpointError: if the name is unknown, it cannot be downloaded, or its checksum is wrong; the file is then
            deleted.
        MissingExtraError: if huggingface_hub is not installed.
    """
    source, mirror = _source(name), _checked_mirror(mirror)
    echo = echo or (lambda line: print(line, file=sys.stderr))
    if source.repo is None:
        raise CheckpointError(_not_on_a_hub(source))
    with _clear_errors(name, mirror):
        found = _find(source, cache)
        if found and not [path for path in _files(found) if not _is_sound(source, path, echo)]:
            return found
        place = _cache_folder(cache)
        if is_offline():
            raise CheckpointError(
                f"{name}: not in the cache {place}, and {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids the network. "
                f"Unset it and run: motivnet weights fetch {name}"
            )
        with _hub_api(mirror) as api:
            return _download(source, api, place, echo)


def verify(name: str | Path, *, cache: Path | None = None) -> VerifyReport:
    """Compute the checksum of a file and compare it with the expected one.

    Args:
        name: as for `fetch`, but of a file; or a path, whose checksum is known if it was fetched.
        cache: folder; None takes the hub's usual cache.

    Raises:
        CheckpointError: if there is no such file, or it is not in the cache.
    """
    path, expected = Path(name), None
    if is_hub_name(str(name)):
        source = _source(str(name))
        found, expected = _find(source, cache), source.entry and source.entry.sha256
        if found is None:
            raise CheckpointError(_not_on_a_hub(source) if source.repo is None else f"{name}: not fetched yet")
        path = found
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if expected is None and _SHA256.fullmatch(path.resolve().name):
        expected = path.resolve().name  # the hub's cache names large files by their checksum
    records = [(place, record) for place, record in _records() if record.get("path") == str(path)]
    if expected is None and records:
        expected = records[0][1].get("sha256")
    try:
        report = VerifyReport(path, path.stat().st_size, sha256_of(path), expected)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if report.status == "damaged":
        for place, _ in records:  # so that the next fetch does not trust it
            place.unlink(missing_ok=True)
    return report


def weight_files(path: Path) -> list[Path]:
    """Return a file itself, or the weight files in the folder of a bundle."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if _WEIGHT_FILE.fullmatch(file.name))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_offline() -> bool:
    """Tell whether the environment forbids the network."""
    values = (os.environ.get(name, "").strip().lower() for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE"))
    return any(value in {"1", "true", "yes", "on"} for value in values)


def _source(name: str) -> _Source:
    if not name.startswith(HUB_PREFIX):
        entry = released(name)
        return _Source(name, entry.repo, entry.file, entry)
    repo, file = parse_hub_name(name)
    return _Source(
        name, repo, file, next((entry for entry in RELEASED if (entry.repo, entry.file) == (repo, file)), None)
    )


def _not_on_a_hub(source: _Source) -> str:
    assert source.entry
    return f"{source.name}: {source.entry.file} comes {source.entry.where}. If you have it, give its path instead"


def _licence(source: _Source) -> str:
    return str(source.entry.licence) if source.entry else UNKNOWN_LICENCE


def _checked_mirror(mirror: str | None) -> str | None:
    address = (mirror or os.environ.get(MIRROR_VARIABLE, "")).strip().rstrip("/")
    if address and not re.match(r"https?://[^/\s]+", address):
        raise CheckpointError(f"mirror {address!r} is no address. Allowed: https://... or http://...")
    return address or None


def _cache_folder(cache: Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser()


def _find(source: _Source, cache: Path | None) -> Path | None:
    if source.repo is None or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, source.file or "config.json", _cache_folder(cache))
    if not isinstance(found, str):
        return None
    path = Path(found)
    if source.file is None:
        return path.parent if weight_files(path.parent) else None
    return path


def _files(found: Path) -> list[Path]:
    return [file for file in found.iterdir() if _BUNDLE_FILE.fullmatch(file.name)] if found.is_dir() else [found]


def _is_sound(source: _Source, path: Path, echo: Callable[[str], None]) -> bool:
    """Verify a cached file, unless a record says that it was; delete it if it is damaged."""
    size = path.stat().st_size
    if any((record.get("path"), record.get("size_bytes")) == (str(path), size) for _, record in _records()):
        return True
    report = verify(path)
    if report.status == "damaged":
        _delete(path)
        echo(f"{source.name}: {path} was damaged (sha256 {report.sha256}, expected {report.expected}) and is deleted")
        return False
    _write_record(source, path, report.sha256, _licence(source), endpoint=None)
    return True


def _delete(path: Path) -> None:
    """Delete a file of the hub's cache, where it is a link to the blob with its bytes."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _download(source: _Source, api: "HfApi", cache: Path, echo: Callable[[str], None]) -> Path:
    assert source.repo
    if source.file is None:
        files, licence = _bundle_files(source, api)
    else:
        files, licence = [source.file], _licence(source)
    echo(f"{source.name}: licence {licence}")
    paths = [_download_file(source.repo, file, api, cache) for file in files]
    folder = paths[-1].parents[files[-1].count("/")]
    if not all(path.is_relative_to(folder) for path in paths):
        raise CheckpointError(f"{source.name}: changed during the download. Run it again")
    # Against the hub's list: SHA-256 of large files, git's hash of small ones.
    for item in (wrong := api.verify_repo_checksums(source.repo, revision=folder.name, cache_dir=cache).mismatches):
        _delete(folder / item["path"])
    if wrong:
        _delete(paths[-1])  # of a bundle, it says that the others are there
        raise CheckpointError(
            f"{source.repo}/{wrong[0]['path']}: wrong checksum {wrong[0]['actual']}, expected {wrong[0]['expected']}. "
            "The file is deleted; run it again"
        )
    for path in paths:
        _write_record(source, path, sha256_of(path), licence, api.endpoint)
    return paths[0] if source.file else folder


def _bundle_files(source: _Source, api: "HfApi") -> tuple[list[str], str]:
    """List the files of a repository that is a bundle, and its licence."""
    info = api.model_info(str(source.repo), timeout=_TIMEOUT_S)
    files = [item.rfilename for item in info.siblings or [] if _BUNDLE_FILE.fullmatch(item.rfilename)]
    if "config.json" not in files or not any(map(_WEIGHT_FILE.fullmatch, files)):
        raise CheckpointError(
            f"{source.name}: no bundle, which has a config.json and weights. For one of its files: {source.name}/FILE"
        )
    licences = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return sorted(files, key=lambda file: file == "config.json"), ", ".join(licences) or UNKNOWN_LICENCE


def _download_file(repo: str, file: str, api: "HfApi", cache: Path) -> Path:
    from huggingface_hub import hf_hub_url

    # Asked for first, because hf_hub_download makes file names of whatever a server answers.
    metadata = api.get_hf_file_metadata(url=hf_hub_url(repo, file, endpoint=api.endpoint), timeout=_TIMEOUT_S)
    commit, etag = metadata.commit_hash or "", metadata.etag or ""
    if not _PLAIN.fullmatch(commit) or not _PLAIN.fullmatch(etag):
        raise CheckpointError(f"{repo}/{file}: {api.endpoint} does not answer as the hub does")
    return Path(api.hf_hub_download(repo, file, cache_dir=cache))


@contextlib.contextmanager
def _hub_api(mirror: str | None) -> Iterator["HfApi"]:
    """Give a client without telemetry; one of a mirror has no token, and stays off the hub's own store of chunks."""
    from huggingface_hub import HfApi, constants

    before = constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET = True, before[1] or mirror is not None
    try:
        token = False if mirror else None
        yield HfApi(mirror, token=token, library_name="motivnet", library_version=__version__)
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET = before


@contextlib.contextmanager
def _clear_errors(what: str, mirror: str | None) -> Iterator[None]:
    """Turn errors of the network, the hub and the disk into a CheckpointError of one line that says what to do."""
    try:
        import httpx2
        from huggingface_hub import constants
        from huggingface_hub.errors import FileMetadataError, HfHubHTTPError
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "torch") from None
    address = mirror or constants.ENDPOINT
    try:
        yield
    except HfHubHTTPError as error:
        raise CheckpointError(f"{what}: {address} {_explain_status(error, mirror)}") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise CheckpointError(
            f"{what}: {address} cannot be reached, or broke off: {error}. Check the network and its proxy and run it "
            "again, or give another --mirror"
        ) from None
    except (FileMetadataError, KeyError, TypeError, ValueError):  # an answer that huggingface_hub cannot read
        raise CheckpointError(f"{what}: {address} does not answer as the hub does") from None
    except OSError as error:
        raise CheckpointError(f"{what}: {' '.join(str(error).split())}") from None


def _explain_status(error: Any, mirror: str | None) -> str:
    from huggingface_hub.errors import GatedRepoError

    status = error.response.status_code
    token = "a mirror is not sent the token" if mirror else "set HF_TOKEN to the token of an account with access"
    if isinstance(error, GatedRepoError) or status == 403:
        return f"restricts access to it. Ask for access on its page there; then {token}"
    if status == 401:
        return f"has no such repository, or it is private: check the name; {token}"
    if status == 404:
        return "has no such file (status 404). Check the name, or give another --mirror"
    return f"refused (status {status}). Try again later, or another --mirror"


def _records_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motivnet" / "weights"


def _records() -> Iterator[tuple[Path, dict[str, Any]]]:
    for place in sorted(_records_folder().glob("*.json")):
        # One that cannot be read is ignored: the file is then verified again.
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(place.read_text(encoding="utf-8"))
            if isinstance(record, dict):
                yield place, record


def _write_record(source: _Source, path: Path, digest: str, licence: str, endpoint: str | None) -> None:
    """Record a file of the cache; `endpoint` is None if another program downloaded it."""
    commit, *inside = path.parts[path.parts.index("snapshots") + 1 :]
    file = "/".join(inside)
    name = source.entry.name if source.entry else source.name if source.file else f"{source.name}/{file}"
    record = {
        "name": name,
        "repo": source.repo,
        "commit": commit,
        "file": file,
        "size_bytes": path.stat().st_size,
        "sha256": digest,
        "licence": licence,
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "endpoint": endpoint,
        "path": str(path),
    }
    write_json(_records_folder() / (name.replace(":", "--").replace("/", "--") + ".json"), record, parents=True)
