"""Bytes from a server into a file: resumed, bounded, measured; and what went wrong, in one line.

Done here rather than by huggingface_hub, because it begins a broken transfer from nothing at the next call, which is
dear at 4.7 GB, tries again without end where a server ignores ranges, and never compares checksums. Its session, its
headers, its token and its errors are used.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from motivnet.errors import CheckpointError, MissingExtraError

MIRROR_VARIABLE = "MOTIVNET_MIRROR"
OFFLINE_VARIABLE = "MOTIVNET_OFFLINE"

_ON = {"1", "true", "yes", "on"}
_ATTEMPTS = 5  # in a row that bring less than _GAIN_BYTES
_GAIN_BYTES = 2**20
_PAUSE_S = 1.0
_BUSY = {408, 429, 500, 502, 503, 504}


def is_offline() -> bool:
    """Tell whether the environment forbids the network."""
    return any(os.environ.get(name, "").strip().lower() in _ON for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE"))


def find_mirror(mirror: str | None) -> str | None:
    """Give the address of the mirror to use, or None for the hub (or what `HF_ENDPOINT` names).

    Raises:
        CheckpointError: if it is no address.
    """
    address = (mirror or os.environ.get(MIRROR_VARIABLE, "")).strip().rstrip("/")
    if address and not re.match(r"https?://[^/\s]+", address):
        raise CheckpointError(f"mirror {address!r} is no address. Allowed: https://... or http://...")
    return address or None


def find_address(mirror: str | None) -> str:
    """Give the address that is asked: the mirror's, or the hub's."""
    from huggingface_hub import constants

    return mirror or constants.ENDPOINT


def timeout_s() -> float:
    """Give the longest silence of a server."""
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Keep huggingface_hub from reporting on this machine, and from asking the hub what to look for on it."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


@contextlib.contextmanager
def clear_errors(what: str, mirror: str | None = None) -> Iterator[None]:
    """Turn what the network, the hub and the disk raise into a CheckpointError that says what to do.

    Args:
        what: is being fetched or read.
        mirror: that it is fetched from.

    Raises:
        CheckpointError: for any of these.
        MissingExtraError: if huggingface_hub is not installed.
    """
    try:
        import httpx2
        from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "torch") from None
    address = find_address(mirror)
    try:
        yield
    except HfHubHTTPError as error:
        raise CheckpointError(f"{what}: {_explain_status(error, address, mirror)}") from None
    except httpx2.TimeoutException:
        raise CheckpointError(
            f"{what}: {address} did not answer for {timeout_s():g} s. Try again later, or another --mirror"
        ) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise CheckpointError(
            f"{what}: cannot reach {address}: {error}. Check the network and its proxy, or give another --mirror"
        ) from None
    except OfflineModeIsEnabled:
        raise CheckpointError(f"{what}: HF_HUB_OFFLINE forbids the network") from None
    except FileMetadataError:
        raise CheckpointError(f"{what}: {address} does not answer as the hub does") from None
    except OSError as error:
        raise CheckpointError(f"{what}: {error}") from None


def _explain_status(error: Exception, address: str, mirror: str | None) -> str:
    from huggingface_hub.errors import GatedRepoError

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    token = "a mirror is not sent the token" if mirror else "set HF_TOKEN to the token of an account that may read it"
    if isinstance(error, GatedRepoError) or status == 403:
        return f"{address} gives it only to those whom its owner allows. Ask on its page there; then {token}"
    if status == 401:
        return f"{address} has no such repository, or keeps it from strangers: check the name; {token}"
    if status == 404:
        return f"{address} has no such file (status 404). Check the name, or give another --mirror"
    if status in _BUSY:
        return f"{address} is busy or broken (status {status}). Try again later, or another --mirror"
    return f"{address} refuses (status {status})" if status else str(error)


def transfer(what: str, url: str, headers: dict[str, str], partial: Path, size: int) -> None:
    """Receive the bytes that `partial` lacks of `size`; several attempts, none without end.

    Args:
        what: is being fetched, for messages.
        url: of the file.
        headers: of the request.
        partial: file to append to; it may have been begun by an earlier call.
        size: of the whole, in bytes.

    Raises:
        CheckpointError: if there is no room, or the transfer breaks off again and again; what came is kept.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    room = shutil.disk_usage(partial.parent).free
    if room < size - _size(partial):
        raise CheckpointError(
            f"{what}: needs {size / 1e9:.2f} GB, {partial.parent} has {room / 1e9:.2f} GB free. "
            "Make room, or give another place with --cache or HF_HOME"
        )
    best, failures = _size(partial), 0
    with _progress(what.rpartition("/")[2], size) as show:
        while True:
            reason = "the connection was closed"
            try:
                _receive(url, headers, partial, size, show)
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            except HfHubHTTPError as error:
                if error.response.status_code not in _BUSY:
                    raise
                reason = f"status {error.response.status_code}"
            have = _size(partial)
            if have == size:
                return
            failures = 0 if have >= best + _GAIN_BYTES else failures + 1
            best = max(best, have)
            if failures == _ATTEMPTS:
                raise CheckpointError(
                    f"{what}: the transfer broke off at {have} of {size} bytes ({reason}). "
                    "What came is kept: run it again to go on from there"
                )
            time.sleep(_PAUSE_S * max(failures, 1))


def _receive(url: str, headers: dict[str, str], partial: Path, size: int, show: Callable[[int], None]) -> None:
    """Make one request for what is missing, and append it as it comes."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    start = _size(partial)
    if start == size and size:
        return
    if start > size:
        partial.unlink()  # more than the whole: it cannot be its beginning
        start = 0
    # Compressed, the rest of a file would not be the rest of its bytes.
    wanted = headers | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", url, headers=wanted, timeout=timeout_s()) as response:
        resumes = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status_code in {206, 416} and not resumes:
            partial.unlink(missing_ok=True)  # some other part, or the file has none from there on: begin again
            return
        hf_raise_for_status(response)
        done = start if response.status_code == 206 else 0
        with partial.open("ab" if done else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                show(done)
                if done > size:
                    return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    digest, done = hashlib.sha256(), 0
    with _progress(f"sha256 of {path.name}", path.stat().st_size) as show, path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
            done += len(chunk)
            show(done)
    return digest.hexdigest()


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if somebody is there to see it; what comes out takes the number of bytes done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
