"""Released weights from the Hugging Face hub, or a mirror of it: downloaded by huggingface_hub, verified, recorded.

The cache is the one that huggingface_hub and all its users share: files that are there are used, and downloads serve
the others. A record of each file, with its licence and checksum, is kept in the user's cache folder. Torch-free.
"""

import contextlib
import datetime
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from motivnet.checkpoints.released import HUB_PREFIX, RELEASED, Licence, Released, parse_hub_name, released
from motivnet.config import to_json
from motivnet.errors import CheckpointError, needs_extra, require, reraised
from motivnet.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MIRROR_VARIABLE = "MOTIVNET_MIRROR"
OFFLINE_VARIABLE = "MOTIVNET_OFFLINE"
UNKNOWN_LICENCE = Licence("unknown", "see its repository")

# The files of a bundle's repository; config.json is downloaded last, so that a folder that has it is complete.
_BUNDLE_FILE = re.compile(
    r"(video_)?(preprocessor_)?config\.json|README\.md|[\w-][\w.-]*\.safetensors|model(-\w+)?\.onnx[\w.-]*"
)
_WEIGHT_FILE = re.compile(r".*\.safetensors|model(-\w+)?\.onnx.*")
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
    return _find(_entry(name), cache)


def fetch(name: str, *, mirror: str | None = None, cache: Path | None = None) -> Path:
    """Download weights into the cache, unless they are there, and verify their checksums; their licence goes to stderr.

    `MOTIVNET_OFFLINE=1` forbids the network. `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` apply; the token is never sent to
    a mirror.

    Args:
        name: of a released file; or `hf:owner/repo/file`; or `hf:owner/repo`, a repository that is a bundle.
        mirror: address with the hub's API; None takes `MOTIVNET_MIRROR`, or the hub.
        cache: folder; None takes the hub's usual cache.

    Returns:
        The file, or the folder of a bundle.

    Raises:
        CheckpointError: if the name is unknown, it cannot be downloaded, or its checksum is wrong; the file is then
            deleted.
        MissingExtraError: if huggingface_hub is not installed.
    """
    entry, mirror = _entry(name), _checked_mirror(mirror)
    if entry.repo is None:
        raise CheckpointError(_not_on_a_hub(entry))
    with _hub_api(name, mirror) as api:
        found = _find(entry, cache)
        if found and not [path for path in _files(found) if not _is_sound(entry, path)]:
            return found
        place = _cache_folder(cache)
        if is_offline():
            raise CheckpointError(
                f"{name}: not in the cache {place}, and {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids the network. "
                f"Unset it and run: motivnet weights fetch {name}"
            )
        return _download(entry, api, place)


def push(repo: str, contents: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Upload files, by name, to a repository of the hub in one commit, and return its address; CheckpointError."""
    require(not is_offline(), f"{repo}: {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids the network", CheckpointError)
    with _hub_api(repo, None) as api:
        from huggingface_hub import CommitOperationAdd

        api.create_repo(repo, private=private, exist_ok=True)
        added = [CommitOperationAdd(name, content) for name, content in contents.items()]
        return api.create_commit(repo, added, commit_message=f"Upload with motivnet {__version__}").commit_url


def verify(name: str | Path, *, cache: Path | None = None) -> VerifyReport:
    """Compute the checksum of a file and compare it with the expected one.

    Args:
        name: as for `fetch`, but of a file; or a path, whose checksum is known if it is in the hub's cache.
        cache: folder; None takes the hub's usual cache.

    Raises:
        CheckpointError: if there is no such file, or it is not in the cache.
    """
    path, expected = Path(name), None
    if is_hub_name(str(name)):
        entry = _entry(str(name))
        found, expected = _find(entry, cache), entry.sha256
        if found is None:
            raise CheckpointError(f"{name}: not fetched yet" if entry.repo else _not_on_a_hub(entry))
        path = found
    require(path.is_file(), f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}", CheckpointError)
    blob = path.resolve().name  # the hub's cache names large files by their checksum
    expected = expected or (blob if _SHA256.fullmatch(blob) else None)
    with reraised(CheckpointError, f"{path}: cannot be read", OSError):
        return VerifyReport(path, path.stat().st_size, sha256_of(path), expected)


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


def _entry(name: str) -> Released:
    """Return the entry of the catalogue, or a new one for an unlisted file; for a bundle, `file` is empty."""
    if not name.startswith(HUB_PREFIX):
        return released(name)
    repo, file = parse_hub_name(name)
    listed = (entry for entry in RELEASED if (entry.repo, entry.file) == (repo, file))
    return next(listed, Released(name=name, repo=repo, file=file or "", purpose="", licence=UNKNOWN_LICENCE))


def _not_on_a_hub(entry: Released) -> str:
    return f"{entry.name}: {entry.file} comes {entry.where}. If you have it, give its path instead"


def _checked_mirror(mirror: str | None) -> str | None:
    address = (mirror or os.environ.get(MIRROR_VARIABLE, "")).strip().rstrip("/")
    if address and not re.match(r"https?://[^/\s]+", address):
        raise CheckpointError(f"mirror {address!r} is no address. Allowed: https://... or http://...")
    return address or None


def _cache_folder(cache: Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser()


def _find(entry: Released, cache: Path | None) -> Path | None:
    if entry.repo is None or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.repo, entry.file or "config.json", _cache_folder(cache))
    if not isinstance(found, str):
        return None
    path = Path(found)
    if entry.file:
        return path
    return path.parent if weight_files(path.parent) else None


def _files(found: Path) -> list[Path]:
    return [file for file in found.iterdir() if _BUNDLE_FILE.fullmatch(file.name)] if found.is_dir() else [found]


def _is_sound(entry: Released, path: Path) -> bool:
    """Verify a cached file; delete it if it is damaged."""
    report = verify(path)
    if report.status == "damaged":
        _delete(path)
        damage = f"was damaged (sha256 {report.sha256}, expected {report.expected}) and is deleted"
        print(f"{entry.name}: {path} {damage}", file=sys.stderr)
    return report.status != "damaged"


def _delete(path: Path) -> None:
    """Delete a file of the hub's cache, where it is a link to the blob with its bytes."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _download(entry: Released, api: "HfApi", cache: Path) -> Path:
    from huggingface_hub import hf_hub_url

    assert entry.repo
    files, licence = ([entry.file], str(entry.licence)) if entry.file else _bundle_files(entry, api)
    print(f"{entry.name}: licence {licence}", file=sys.stderr)
    paths = []
    for file in files:
        # Asked for first, because hf_hub_download makes file names of whatever a server answers.
        metadata = api.get_hf_file_metadata(url=hf_hub_url(entry.repo, file, endpoint=api.endpoint), timeout=_TIMEOUT_S)
        if not all(_PLAIN.fullmatch(text or "") for text in (metadata.commit_hash, metadata.etag)):
            raise CheckpointError(f"{entry.repo}/{file}: {api.endpoint} does not answer as the hub does")
        paths.append(Path(api.hf_hub_download(entry.repo, file, cache_dir=cache)))
    folder = paths[-1].parents[files[-1].count("/")]
    if not all(path.is_relative_to(folder) for path in paths):
        raise CheckpointError(f"{entry.name}: changed during the download. Run it again")
    # Against the hub's list: SHA-256 of large files, git's hash of small ones.
    for item in (wrong := api.verify_repo_checksums(entry.repo, revision=folder.name, cache_dir=cache).mismatches):
        _delete(folder / item["path"])
    if wrong:
        _delete(paths[-1])  # of a bundle, it says that the others are there
        raise CheckpointError(
            f"{entry.repo}/{wrong[0]['path']}: wrong checksum {wrong[0]['actual']}, expected {wrong[0]['expected']}. "
            "The file is deleted; run it again"
        )
    _record_licence(entry, folder.name, licence)
    return paths[0] if entry.file else folder


def _bundle_files(entry: Released, api: "HfApi") -> tuple[list[str], str]:
    """List the files of a repository that is a bundle, and its licence."""
    info = api.model_info(str(entry.repo), timeout=_TIMEOUT_S)
    files = [item.rfilename for item in info.siblings or [] if _BUNDLE_FILE.fullmatch(item.rfilename)]
    if "config.json" not in files or not any(map(_WEIGHT_FILE.fullmatch, files)):
        raise CheckpointError(
            f"{entry.name}: no bundle, which has a config.json and weights. For one of its files: {entry.name}/FILE"
        )
    licences = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return sorted(files, key=lambda file: file == "config.json"), ", ".join(licences) or str(entry.licence)


@contextlib.contextmanager
def _hub_api(what: str, mirror: str | None) -> Iterator["HfApi"]:
    """Give a client without telemetry; one of a mirror has no token, and stays off the hub's own store of chunks.

    Errors of the network, the hub and the disk become a CheckpointError of one line that says what to do.
    """
    with needs_extra("huggingface_hub", "hub"):
        import httpx2
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import FileMetadataError, HfHubHTTPError
    address = mirror or constants.ENDPOINT
    before = constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET = True, before[1] or mirror is not None
    try:
        yield HfApi(mirror, token=False if mirror else None, library_name="motivnet", library_version=__version__)
        return
    except HfHubHTTPError as error:
        reason = f"{address} {_explain_status(error, mirror)}"
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        advice = "Check the network and its proxy and run it again, or give another --mirror"
        reason = f"{address} cannot be reached, or broke off: {error}. {advice}"
    except (FileMetadataError, KeyError, TypeError, ValueError):  # an answer that huggingface_hub cannot read
        reason = f"{address} does not answer as the hub does"
    except OSError as error:
        reason = " ".join(str(error).split())
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET = before
    raise CheckpointError(f"{what}: {reason}")


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


def _record_licence(entry: Released, commit: str, licence: str) -> None:
    """Write down, as a line of JSON, under which licence something was fetched."""
    fetched = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"name": entry.name, "repo": entry.repo, "commit": commit, "licence": licence, "fetched": fetched}
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motivnet" / "licences.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a", encoding="utf-8") as file:
        file.write(to_json(line) + "\n")
