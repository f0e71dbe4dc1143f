"""Reads the tensors of a TorchScript archive without executing it.

Kept on purpose instead of `torch.jit.load`, which compiles whatever code a file brings: here nothing is compiled.

```
archive (zip)
├── NAME/data.pkl                  the tree of modules; a tensor is a view of a numbered storage
├── NAME/data/0, 1, ...            the storages, uncompressed
├── NAME/code/__torch__/*.py       the classes of the modules, which name their parameters and buffers
└── NAME/constants.pkl             constants of the code, not weights
```
"""

import functools
import io
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

# Sapiens-2B has about 1,000 modules; a module that contains itself would never end.
MAX_MODULES = 20_000
MAX_TEXT_BYTES = 1 << 28

# torch.double and the like, after which storages are named, and the types of one byte.
_STORAGES = {
    f"{name}Storage": getattr(torch, name.lower())
    for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Bool")
} | {"CharStorage": torch.int8, "ByteStorage": torch.uint8}
_LISTS = {f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_MODULE_CLASS = r"^class {name}\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]$"


def read_torchscript(path: Path, archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """Read the parameters and buffers of an archive, memory-mapped, named and ordered as its `state_dict()`.

    Args:
        path: of the file.
        archive: the same file, opened.
        root: folder inside the archive that holds everything.

    Raises:
        ValueError, LookupError, pickle.UnpicklingError, RuntimeError: if the archive is damaged, or its pickle names
            anything that modules of tensors do not need.
    """
    byteorder = f"{root}/byteorder"
    if byteorder in archive.namelist() and archive.read(byteorder).decode() != sys.byteorder:
        raise ValueError(f"its numbers are {archive.read(byteorder).decode()!r} endian, expected {sys.byteorder!r}")
    pickled = read_member(archive, f"{root}/data.pkl")
    names_in_pickle(io.BytesIO(pickled))
    module = _Unpickler(pickled, path, archive, root).load()
    if not isinstance(module, _ScriptObject):
        raise ValueError(f"found {type(module).__name__}, expected a module")
    tensors = _named_tensors(module, archive, root)
    if not tensors:
        raise ValueError("found no parameters; those of a frozen module are constants of its code, which is not read")
    return tensors


def names_in_pickle(file: BinaryIO) -> set[str]:
    """Return the names of all classes and functions that a pickle would use, without executing it.

    Raises:
        pickle.UnpicklingError: if torch did not write it: another protocol, or a memo with gaps, for which Python's
            unpickler would reserve memory.
        ValueError: if it is no pickle.
    """
    names: set[str] = set()
    strings: list[str] = []
    protocols: set[int] = set()
    num_memoised = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(_full_name(*str(argument).split(" ", 1)))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif opcode.name == "PROTO":
            protocols.add(int(argument or 0))
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if int(argument or 0) > num_memoised:
                raise pickle.UnpicklingError("its pickle has a memo with holes, which torch does not write")
            num_memoised += 1
        elif isinstance(argument, str):
            strings.append(argument)
    if protocols != {2}:
        found = f"{', '.join(map(str, sorted(protocols))) or 0}, naming {', '.join(sorted(names)) or 'nothing'}"
        raise pickle.UnpicklingError(f"its pickle is of protocol {found}; expected protocol 2 as torch writes it")
    return names


def _full_name(module: str, name: str) -> str:
    """Return the current name: pickles of protocol 2 have `__builtin__` for `builtins`."""
    return ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member that is text or a pickle.

    Raises:
        ValueError: if it is too large once decompressed.
        KeyError: if it does not exist.
    """
    if archive.getinfo(name).file_size > MAX_TEXT_BYTES:
        raise ValueError(f"{name} has {archive.getinfo(name).file_size} bytes, allowed are {MAX_TEXT_BYTES}")
    return archive.read(name)


class _ScriptObject:
    """Stands in for any class of an archive: stores the attributes and does nothing else."""

    attributes: dict[str, Any]

    def __new__(cls, *_: object) -> "_ScriptObject":
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: object) -> None:
        # A class with its own __getstate__ may have any state; its tensors are in no state_dict.
        self.attributes = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Rebuilds modules as stand-ins and tensors as views of one memory map; every other name is refused."""

    def __init__(self, pickled: bytes, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(pickled))
        self._path, self._archive, self._root = path, archive, root
        self._num_bytes = path.stat().st_size
        self._mapped = torch.UntypedStorage.from_file(str(path), False, self._num_bytes)
        # Bound methods, because a pickle could set attributes of functions and classes.
        self._functions = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._view,
            "torch._utils._rebuild_parameter": self._first,
            "torch.jit._pickle.restore_type_tag": self._first,
        } | dict.fromkeys(_LISTS, self._first)

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type(name, (_ScriptObject,), {"__module__": module})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if f"{module}.{name}" not in self._functions:
            raise pickle.UnpicklingError(f"its pickle names {_full_name(module, name)}, which weights do not need")
        return self._functions[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"its pickle refers to {kind!r}, expected a storage")
        member = self._archive.getinfo(f"{self._root}/data/{key}")
        with self._path.open("rb") as file:
            file.seek(member.header_offset)
            # The local header gives the lengths of the name and of the padding before the data.
            name_length, padding = struct.unpack("<26xHH", file.read(30))
        start = member.header_offset + 30 + name_length + padding
        size = numel * dtype.itemsize
        if member.file_size != size or start + size > self._num_bytes:
            raise ValueError(f"{member.filename} has {member.file_size} bytes, expected {numel} of {dtype}")
        if start % dtype.itemsize:
            raise ValueError(f"{member.filename} starts at byte {start}, expected a multiple of {dtype.itemsize}")
        return torch.empty(0, dtype=dtype).set_(cast(torch.UntypedStorage, self._mapped[start : start + size]))

    def _view(self, flat: Tensor, offset: int, size: tuple, stride: tuple, *_grad_and_hooks: object) -> Tensor:
        return flat.as_strided(size, stride, offset)  # raises if that leaves the storage

    def _first(self, value: object, *_: object) -> object:
        return value


def _named_tensors(root_module: _ScriptObject, archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """Walk the tree depth first: parameters and buffers of a module, then the modules inside it."""
    tensors: dict[str, Tensor] = {}
    names_of = functools.cache(lambda kind: _parameters_and_buffers(kind, archive, root))
    pending = [("", root_module)]
    for _ in range(MAX_MODULES):
        if not pending:
            return tensors
        prefix, module = pending.pop()
        own = names_of(type(module))
        if own is None:  # an object, not a module
            continue
        for name in own:
            if isinstance(module.attributes[name], Tensor):  # a parameter may be None
                tensors[prefix + name] = module.attributes[name]
        inner = [(f"{prefix}{name}.", value) for name, value in module.attributes.items()]
        pending += [(name, value) for name, value in reversed(inner) if isinstance(value, _ScriptObject)]
    raise ValueError(f"found more than {MAX_MODULES} modules")


def _parameters_and_buffers(kind: type, archive: zipfile.ZipFile, root: str) -> list[str] | None:
    """Parse the names from the source of a class, which is not compiled; None if it is no module."""
    source = read_member(archive, f"{root}/code/{kind.__module__.replace('.', '/')}.py").decode()
    match = re.search(_MODULE_CLASS.format(name=re.escape(kind.__name__)), source, re.MULTILINE)
    return match and re.findall(r'"([^"]+)"', f"{match[1]},{match[2]}")
