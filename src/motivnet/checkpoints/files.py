"""Weight files: opened safely and memory-mapped, whatever their container. Nothing in a file is executed.

The container is recognised by the first bytes, never by the name:

- safetensors;
- a file by `torch.save`: a zip with a pickle inside, or a bare pickle before torch 1.6;
- a TorchScript archive: a zip with code beside the pickle.
"""

import contextlib
import ctypes
import dataclasses
import io
import mmap
import pickle
import re
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import add_safe_globals, get_safe_globals, safe_globals

from motivnet.checkpoints.bundle import open_bundle
from motivnet.checkpoints.hub import VerifyReport, cached, is_hub_name, verify, weight_files
from motivnet.checkpoints.torchscript import names_in_pickle, read_member, read_torchscript
from motivnet.errors import CheckpointError

Container = Literal["safetensors", "pickle", "torchscript"]

_ALLOWED = "a safetensors file, a file by torch.save with a dict of tensors, or a TorchScript archive"

# A bare pickle by torch.save begins with this number, pickled.
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_NUM_LEGACY_PICKLES = 5  # magic number, version, machine, contents, order of the storages

# What the pickles of released files name beside tensors, in their training settings.
_INERT_NAMES = (
    "mmengine.config.config.ConfigDict",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
)

# torch would also rebuild sparse, quantised, nested and empty (meta) tensors, with warnings.
_OTHER_TENSORS = re.compile(
    r"torch\.(_utils\._rebuild_(sparse|qtensor|nested|meta|wrapper|device)|_tensor\._rebuild_from_type"
    r"|sparse\.|nested\.|Q\w+Storage)"
)

# torch keeps one allow-list for the whole process.
_ALLOW_LIST_LOCK = threading.Lock()

# What readers raise for a damaged or malicious file.
_DAMAGED = (
    *(AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, OverflowError),
    *(RuntimeError, TypeError, ValueError),
    *(SafetensorError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsFile:
    """The tensors of a file, on the CPU, in the dtype in which they are stored, not yet read from disk.

    Args:
        path: of the file.
        container: how the tensors are packed.
        tensors: name in the file -> tensor; those of the `state_dict` if there is one.
        metadata: of a safetensors file; empty otherwise.
    """

    path: Path
    container: Container
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def open_weights(path: str | Path) -> WeightsFile:
    """Open a weight file. Its tensors are memory-mapped, except in files older than torch 1.6.

    Raises:
        CheckpointError: if the file is missing, damaged, no weight file, or a pickle that names anything that tensors
            do not need.
    """
    path = Path(path)
    try:
        container, tensors, metadata = _read(path)
        return WeightsFile(path, container, _dense(tensors), metadata)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}. Allowed: {_ALLOWED}") from None


def check_integrity(path: Path) -> str:
    """Read every value of a file, one tensor at a time, and return a summary of the contents.

    Raises:
        CheckpointError: if the file is missing, no weight file, or damaged, or a value is NaN or infinite.
    """
    file = open_weights(path)
    num_values = num_not_finite = 0
    for tensor in file.tensors.values():
        num_values += tensor.numel()
        if tensor.is_floating_point():
            # In float32, because some dtypes of one byte have no isfinite.
            num_not_finite += int((~torch.isfinite(tensor.float())).sum())
        release(tensor)
    if num_not_finite:
        raise CheckpointError(f"{path}: damaged: {num_not_finite} of {num_values} values are NaN or infinite")
    return f"{file.container}, {len(file.tensors)} tensor(s), {num_values} values, all finite"


def verify_weights(name: str, *, cache: Path | None = None) -> Iterator[tuple[VerifyReport, str]]:
    """Compare checksums of a file, or of all weights of a bundle, and check that every value is finite.

    Args:
        name: a path, or a name as for `hub.fetch`.
        cache: folder; None takes the hub's usual cache.

    Yields:
        For each file its checksum and a summary of its contents.

    Raises:
        CheckpointError: if anything is missing or damaged.
    """
    place = (cached(name, cache=cache) if is_hub_name(name) else None) or Path(name)
    if place.is_dir():
        open_bundle(place)
    files = weight_files(place)
    if not files:
        raise CheckpointError(f"{place}: a folder without weights")
    for path in files:
        report = verify(path if place.is_dir() else name, cache=cache)
        if report.status == "damaged":
            raise CheckpointError(
                f"{report.path}: damaged: sha256 {report.sha256}, expected {report.expected}. Fetch it again"
            )
        is_onnx = ".onnx" in path.suffixes
        yield report, "onnx, whose values are not checked" if is_onnx else check_integrity(report.path)


def release(tensor: Tensor) -> None:
    """Let the system drop the memory-mapped pages of a tensor until they are read again. Linux only.

    Changes to them are lost. Tensors that are not mapped from a file are left alone.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu" or tensor.numel() == 0:
        return
    begin = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = begin + (last + 1) * tensor.element_size()
    # Only whole pages: those at the edges are shared with neighbouring tensors.
    first_page = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    num_bytes = end // mmap.PAGESIZE * mmap.PAGESIZE - first_page
    if num_bytes > 0 and _is_mapped_file(first_page, first_page + num_bytes):
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(first_page), ctypes.c_size_t(num_bytes), ctypes.c_int(mmap.MADV_DONTNEED))


def _is_mapped_file(begin: int, end: int) -> bool:
    """Tell whether addresses lie in a mapped file: other memory would be zeroed for good."""
    with Path("/proc/self/maps").open("rb") as maps:
        for line in maps:  # begin-end, rights, offset, device, inode, path
            first, _, last = line[: line.index(b" ")].partition(b"-")
            if begin < int(last, 16):
                return int(first, 16) <= begin and end <= int(last, 16) and line.split(None, 5)[4] != b"0"
    return False


def _read(path: Path) -> tuple[Container, Any, dict[str, str]]:
    """Recognise the container and return it with its content and metadata."""
    if not path.is_file():
        raise ValueError("this is a folder" if path.is_dir() else "no such file")
    with path.open("rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    if head.startswith(b"PK\3\4"):
        return _read_zip(path)
    # A length of 8 bytes, little endian, then JSON.
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        with safe_open(path, "pt") as opened:
            names = opened.keys()
            return "safetensors", {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    try:
        named = _names_in_bare_pickle(path)
    except ValueError:
        if head.startswith(_LEGACY_MAGIC):
            raise
        raise ValueError(f"found a file that begins with {head!r}" if head else "the file is empty") from None
    return "pickle", _load_pickle(path, named, mapped=False), {}


def _read_zip(path: Path) -> tuple[Container, Any, dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        root = members[0].filename.partition("/")[0] if members else ""
        names = {member.filename for member in members}
        if f"{root}/data.pkl" not in names:
            raise ValueError(f"found a zip without {root}/data.pkl, which torch writes")
        for member in members:
            if member.filename.startswith(f"{root}/data/") and member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed, expected it to be stored as torch writes it")
        if f"{root}/constants.pkl" in names:  # this is how torch tells them apart
            return "torchscript", read_torchscript(path, archive, root), {}
        named = names_in_pickle(io.BytesIO(read_member(archive, f"{root}/data.pkl")))
    # torch.load would take a path with this suffix for safetensors, and can map only paths.
    return "pickle", _load_pickle(path, named, mapped=not path.name.endswith(".safetensors")), {}


def _names_in_bare_pickle(path: Path) -> set[str]:
    with path.open("rb") as file:
        names = names_in_pickle(file)
        if file.tell() != len(_LEGACY_MAGIC) or names:
            naming = ", ".join(sorted(names)) or "nothing"
            raise pickle.UnpicklingError(f"found a pickle not by torch.save, naming {naming}")
        return names.union(*(names_in_pickle(file) for _ in range(_NUM_LEGACY_PICKLES - 1)))


class _Inert:
    """Stands in for what a pickle names beside tensors: accepts anything and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@contextlib.contextmanager
def _inert_names() -> Iterator[None]:
    """Make torch use stand-ins for the allowed names, even if the process allows the real ones elsewhere."""
    with _ALLOW_LIST_LOCK:
        # A stand-in would not work together with the real ones, and which of two entries torch uses is undefined.
        others = [entry for entry in get_safe_globals() if _full_name(entry) in _INERT_NAMES]
        with safe_globals([(_Inert, name) for name in _INERT_NAMES]):
            with safe_globals(others):
                pass  # leaving the block removes them: torch has no function for that
            try:
                yield
            finally:
                add_safe_globals(others)


def _full_name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def _load_pickle(path: Path, named: set[str], *, mapped: bool) -> Any:
    others = sorted(filter(_OTHER_TENSORS.match, named))
    if others:
        raise ValueError(f"its pickle names {others[0]}, expected dense tensors of numbers")
    try:
        with _inert_names(), contextlib.nullcontext(path) if mapped else path.open("rb") as source:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        # torch omits `builtins.`, and uses the Python 2 names of some modules.
        last = refused[1].rpartition(".")[2]
        full = next((name for name in sorted(named) if name.endswith(f".{last}")), refused[1])
        raise ValueError(f"its pickle names {full}, which weights do not need; nothing of it was executed") from None


def _dense(content: Any) -> dict[str, Tensor]:
    """Extract the tensors from the content of a file.

    Raises:
        ValueError: if it is no dict of tensors.
    """
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if isinstance(content, dict) else f"an object of type {_type_name(content)}"
        raise ValueError(f"found {found}, expected a dict of tensors, or one under the key 'state_dict'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"found {name!r} of type {_type_name(value)}, expected names and tensors")
    return {name: value.detach() for name, value in content.items()}


def _type_name(value: object) -> str:
    return "numpy or mmengine" if isinstance(value, _Inert) else type(value).__name__


def _reason(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "").rstrip(".")
    clear = isinstance(error, (ValueError, pickle.UnpicklingError)) and first_line
    return first_line if clear else f"{type(error).__name__}: {first_line}"
