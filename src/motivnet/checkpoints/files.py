"""Weight files: opened safely and memory-mapped, whatever their container. Nothing in a file is executed.

The container is recognised by the first bytes, never by the name:

- safetensors;
- a file by `torch.save`: a zip with a pickle inside, or a bare pickle before torch 1.6;
- a TorchScript archive: a zip with code beside the pickle.
"""

import ctypes
import dataclasses
import functools
import io
import logging
import mmap
import pickle
import reprlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from motivnet.checkpoints.bundle import open_bundle
from motivnet.checkpoints.hub import VerifyReport, cached, is_hub_name, verify, weight_files
from motivnet.checkpoints.pickles import MAX_OPCODES, Inert, StoredTensor, Unpickler, names_in_pickle, read_member
from motivnet.checkpoints.torchscript import module_tensors
from motivnet.errors import CheckpointError, require
from motivnet.onnx_session import check_weights

_log = logging.getLogger(__name__)

Container = Literal["safetensors", "pickle", "torchscript"]

_ALLOWED = "a safetensors file, a file by torch.save with a dict of tensors, or a TorchScript archive"

# A bare pickle by torch.save begins with this number, pickled.
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# Of the other pickles: version, machine, contents, order of the storages.
_LEGACY_OPCODES = (1000, 1000, MAX_OPCODES, MAX_OPCODES // 4)

# Real headers have some hundred bytes a tensor.
MAX_HEADER_BYTES = 1 << 23
# Keys under which programs save tensors, and prefixes that wrappers of models put before all names.
WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.")

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
        tensors: name in the file -> tensor, without what was taken off.
        metadata: of a safetensors file; empty otherwise.
        taken_off: keys that the tensors were under, such as `'state_dict'`, and prefixes of all names.
    """

    path: Path
    container: Container
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    taken_off: tuple[str, ...] = ()


def open_weights(path: str | Path) -> WeightsFile:
    """Open a weight file. Its tensors are memory-mapped, except in files older than torch 1.6.

    Raises:
        CheckpointError: if the file is missing, damaged, no weight file, or a pickle that names anything that tensors
            do not need.
    """
    path = Path(path)
    try:
        container, content, metadata = _read(path)
        tensors, taken_off = _dense(content)
        return WeightsFile(path, container, tensors, metadata, taken_off)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}. Allowed: {_ALLOWED}") from None


def unwrapped(file: WeightsFile, is_whole: Callable[[WeightsFile], bool]) -> WeightsFile:
    """Take off `PREFIXES` that all names have, if that makes the file whole; a line on stderr says so.

    Args:
        file: opened.
        is_whole: tells whether a file has the names of a model.
    """
    found = file
    while found.tensors and not is_whole(found):
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in found.tensors)), None)
        if prefix is None:
            return file
        tensors = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items()}
        found = dataclasses.replace(found, tensors=tensors, taken_off=(*found.taken_off, repr(prefix)))
    if found.taken_off not in ((), ("'state_dict'",)):
        _log.warning("%s: taken off its names: %s", file.path, ", ".join(found.taken_off))
    return found


def check_integrity(path: Path) -> str:
    """Read every value of a file, one tensor at a time, and return a summary of the contents.

    Raises:
        CheckpointError: if the file is missing, no weight file, or damaged, or a value is NaN or infinite.
    """
    if ".onnx" in path.suffixes:
        if path.suffix == ".onnx":
            check_weights(path)
        return "onnx, all finite" if path.suffix == ".onnx" else "values of an onnx file"
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
    require(files, f"{place}: a folder without weights", CheckpointError)
    for path in files:
        report = verify(path if place.is_dir() else name, cache=cache)
        if report.status == "damaged":
            raise CheckpointError(
                f"{report.path}: damaged: sha256 {report.sha256}, expected {report.expected}. Fetch it again"
            )
        yield report, check_integrity(report.path)


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
        kind = "this is a folder" if path.is_dir() else "this is no regular file"
        raise ValueError(kind if path.exists() else "no such file")
    with path.open("rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    if head.startswith(b"PK\3\4"):
        return _read_zip(path)
    # A length of 8 bytes, little endian, then JSON.
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        if (num_bytes := int.from_bytes(head[:8], "little")) > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {num_bytes} bytes, allowed are {MAX_HEADER_BYTES}")
        with safe_open(path, "pt") as opened:
            names = opened.keys()
            return "safetensors", {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    try:
        return "pickle", _read_legacy(path), {}
    except ValueError:
        if head.startswith(_LEGACY_MAGIC):
            raise
        raise ValueError(f"found a file that begins with {head!r}" if head else "the file is empty") from None


def _read_zip(path: Path) -> tuple[Container, Any, dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        root = members[0].filename.partition("/")[0] if members else ""
        names = {member.filename for member in members}
        if f"{root}/data.pkl" not in names:
            raise ValueError(f"found a zip without {root}/data.pkl, which torch writes")
        if f"{root}/byteorder" in names:
            _check_order(read_member(archive, f"{root}/byteorder").decode())
        storages = _Storages(path, archive, f"{root}/data/")
        pickled = read_member(archive, f"{root}/data.pkl")
        names_in_pickle(io.BytesIO(pickled))
        content = Unpickler(pickled, functools.cache(storages.open)).load()
        if f"{root}/constants.pkl" in names:  # this is how torch tells them apart
            return "torchscript", module_tensors(content, archive, root), {}
    return "pickle", content, {}


class _Storages:
    """Opens the storages of an archive as views of one memory map."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        self._path, self._archive, self._folder = path, archive, folder
        self._num_bytes = path.stat().st_size
        self._mapped = torch.UntypedStorage.from_file(str(path), False, self._num_bytes)
        if sum(one.file_size for one in archive.infolist() if one.filename.startswith(folder)) > self._num_bytes:
            raise ValueError("its members overlap")

    def open(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        """Return the values of a storage."""
        member = self._archive.getinfo(f"{self._folder}{key}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member.filename} is compressed, expected it to be stored as torch writes it")
        with self._path.open("rb") as file:
            file.seek(member.header_offset)
            # The local header gives the lengths of the name and of the padding before the data.
            name_length, padding = struct.unpack("<26xHH", file.read(30))
        start = member.header_offset + 30 + name_length + padding
        size = numel * dtype.itemsize
        if member.file_size != size or start + size > self._num_bytes:
            raise ValueError(f"{member.filename} has {member.file_size} bytes, expected {numel} of {dtype}")
        values = cast(torch.UntypedStorage, self._mapped[start : start + size])
        # Only other programs than torch place numbers where they cannot be read in place.
        return torch.empty(0, dtype=dtype).set_(values.clone() if start % dtype.itemsize else values)


def _read_legacy(path: Path) -> Any:
    """Read a file older than torch 1.6: pickles one after the other, then the storages, each after its length."""
    with path.open("rb") as file:
        naming = ", ".join(sorted(names_in_pickle(file))) or "nothing"
        if file.tell() != len(_LEGACY_MAGIC) or naming != "nothing":
            raise pickle.UnpicklingError(f"found a pickle not by torch.save, naming {naming}")
        opened: dict[str, Tensor] = {}
        readers = []
        for max_opcodes in _LEGACY_OPCODES:
            begin = file.tell()
            names_in_pickle(file, max_opcodes)
            size, _ = file.tell() - begin, file.seek(begin)
            readers.append(Unpickler(file.read(size), lambda key, *_: opened[key]))
        _, written_on, content, keys = (reader.load() for reader in readers)
        _check_order("little" if written_on["little_endian"] else "big")
        for key in keys:
            dtype, numel = readers[2].storages[key]
            size = numel * dtype.itemsize
            data = file.read(8 + size) if 0 <= size <= path.stat().st_size else b""
            if data[:8] != struct.pack("<q", numel) or len(data) != 8 + size:
                raise ValueError(f"the file ends in, or lacks, the {numel} values of storage {key[:20]!r}")
            opened[key] = torch.frombuffer(bytearray(data[8:]), dtype=dtype) if numel else torch.empty(0, dtype=dtype)
    return content


def _check_order(order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"its numbers are {order!r} endian, expected {sys.byteorder!r}")


def _dense(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Extract the tensors from the content of a file, and return them with the keys that they were under.

    Raises:
        ValueError: if it is no dict of tensors.
    """
    taken_off: tuple[str, ...] = ()
    for key in 2 * WRAPPERS:  # some files have one inside the other
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content, taken_off = content[key], (*taken_off, repr(key))
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if isinstance(content, dict) else f"an object of type {_type_name(content)}"
        raise ValueError(f"found {found}, expected a dict of tensors, or one under the key 'state_dict' or 'model'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, StoredTensor)):
            raise ValueError(f"found {reprlib.repr(name)} of type {_type_name(value)}, expected names and tensors")
    read = {name: value if isinstance(value, Tensor) else value.read() for name, value in content.items()}
    return read, taken_off


def _type_name(value: object) -> str:
    stand_ins = {Inert: "numpy or mmengine", StoredTensor: "Tensor"}
    return stand_ins.get(type(value), type(value).__name__)


def _reason(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "").rstrip(".")
    clear = isinstance(error, (ValueError, pickle.UnpicklingError)) and first_line
    return first_line if clear else f"{type(error).__name__}: {first_line}"
