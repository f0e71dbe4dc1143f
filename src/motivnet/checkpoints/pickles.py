"""Reads the pickles of weight files: tensors become views of the file, and nothing else that a pickle names is made.

Own code rather than `torch.load(weights_only=True)`, with which a pickle may choose any codec, some of which take
quadratic time, and make a bytearray of any size.
"""

import io
import pickle
import pickletools
import reprlib
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

# Training states of models with a thousand tensors have a quarter as many.
MAX_OPCODES = 400_000
MAX_PICKLE_BYTES = 1 << 26
# An object of objects that occur twice each doubles with each level: hashing it would never end.
MAX_SHARED = 10_000_000
MAX_DEPTH = 200
MAX_CLASSES = 20_000

# torch.double and the like, after which storages are named, and the types of one byte.
_STORAGES = {
    f"torch.{name}Storage": getattr(torch, name.lower())
    for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Bool")
} | {"torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8, "torch.storage.UntypedStorage": torch.uint8}
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
# What pickles name beside tensors, in their training settings.
INERT_NAMES = (
    *("mmengine.config.config.ConfigDict", "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct"),
    *("_codecs.encode", "builtins.set", "collections.Counter", "torch.Size", "torch.device"),
)
_FIRST_NAMES = (
    *(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    "torch.jit._pickle.restore_type_tag",
)
_PUT, _GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_FILL = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "ADDITEMS")

# Key, dtype and number of values of a storage -> its values, as one dimension.
OpenStorage = Callable[[str, torch.dtype, int], Tensor]


class Inert:
    """Stands in for what a pickle names beside tensors: accepts anything and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class ScriptObject:
    """Stands in for any class of a TorchScript archive: stores the attributes and does nothing else."""

    attributes: dict[str, Any]

    def __new__(cls, *_: object) -> "ScriptObject":
        """Ignore the arguments."""
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: object) -> None:
        # A class with its own __getstate__ may have any state; its tensors are in no state_dict.
        self.attributes = state if isinstance(state, dict) else {}


class StoredTensor:
    """A tensor that a pickle describes, and that `read` reads."""

    def __init__(self, flat: Callable[[], Tensor], offset: int, size: tuple, stride: tuple, dtype: Any = None) -> None:
        self._flat, self._place, self._dtype = flat, (size, stride, offset), dtype

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("its pickle sets the state of a tensor")

    def read(self) -> Tensor:
        """Return the tensor, a view of its storage; torch raises RuntimeError if it leaves the storage."""
        flat = self._flat()
        return (flat if self._dtype is None else flat.view(self._dtype)).as_strided(*self._place)


class Unpickler(pickle.Unpickler):
    """Rebuilds tensors as StoredTensor and objects as stand-ins; every other name is refused."""

    def __init__(self, pickled: bytes, open_storage: OpenStorage) -> None:
        """Prepare to `load` a pickle.

        Args:
            pickled: one pickle, which `names_in_pickle` has checked.
            open_storage: is called when a tensor is read.
        """
        super().__init__(io.BytesIO(pickled))
        self._open = open_storage
        self._classes: dict[tuple[str, str], type] = {}
        # Key -> dtype and number of values.
        self.storages: dict[str, tuple[torch.dtype, int]] = {}
        # Bound methods, because a pickle could set attributes of functions.
        self._known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor,
            **dict.fromkeys(_FIRST_NAMES, self._first),
            **dict.fromkeys(INERT_NAMES, Inert),
            **_DTYPES,
            **_STORAGES,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a class or function; UnpicklingError if weights do not need it."""
        if module.split(".")[0] == "__torch__":
            if len(self._classes) >= MAX_CLASSES:
                raise ValueError(f"found more than {MAX_CLASSES} classes")
            kind = self._classes.get((module, name)) or type(name, (ScriptObject,), {"__module__": module})
            return self._classes.setdefault((module, name), kind)
        full = _full_name(module, name)
        if full not in self._known:
            raise pickle.UnpicklingError(
                f"its pickle names {full}, which dense tensors do not need; nothing of it was executed"
            )
        return self._known[full]

    def persistent_load(self, pid: Any) -> Callable[[], Tensor]:
        """Return a function that opens a storage; UnpicklingError if `pid` describes none."""
        kind, dtype, key, _device, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"its pickle refers to {reprlib.repr(kind)}, expected a storage")
        if not isinstance(key, str) or not isinstance(numel, int) or any(view):
            raise pickle.UnpicklingError("its pickle refers to a part of a storage, expected a whole one")
        if self.storages.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise pickle.UnpicklingError("its pickle gives a storage two types or sizes")
        return lambda: self._open(key, dtype, numel)

    def _tensor(self, flat: Any, offset: int, size: tuple, stride: tuple, *more: Any) -> StoredTensor:
        return StoredTensor(flat, offset, size, stride, *more[2:3])  # after gradient and hooks, a dtype in version 3

    def _first(self, value: object, *_: object) -> object:
        return value


def names_in_pickle(file: BinaryIO, max_opcodes: int = MAX_OPCODES) -> set[str]:
    """Return the names of all classes and functions that a pickle would use, without executing it.

    Raises:
        pickle.UnpicklingError: if torch did not write it: another protocol, a memo with gaps, for which Python's
            unpickler would reserve memory, or so much or so deep that reading it would take long.
        ValueError: if it is no pickle.
    """
    names: set[str] = set()
    strings: deque[str] = deque(maxlen=2)
    protocols: set[int] = set()
    sizes, begin = _Sizes(), file.tell()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if count >= max_opcodes or (position or 0) - begin > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"its pickle has more than {max_opcodes} instructions or is too long")
        if opcode.name in ("GLOBAL", "INST"):
            names.add(_full_name(*str(argument).split(" ", 1)))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings))
        elif opcode.name == "PROTO":
            protocols.add(int(argument or 0))
        elif isinstance(argument, str):
            strings.append(argument)
        if protocols == {2}:
            sizes.follow(opcode, argument)
    if protocols != {2}:
        found = f"{', '.join(map(str, sorted(protocols))) or 0}, naming {', '.join(sorted(names)) or 'nothing'}"
        raise pickle.UnpicklingError(f"its pickle is of protocol {found}; expected protocol 2 as torch writes it")
    return names


class _Sizes:
    """Follows the stack of an unpickler: of how many values each object consists, and how deep they are."""

    def __init__(self) -> None:
        self.stack: list[Any] = []  # (values, depth); None is a mark
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.shared = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what one instruction does to the stack.

        Raises:
            pickle.UnpicklingError: beyond the limits.
        """
        if opcode.name in _PUT:
            if int(argument) > len(self.memo):
                raise pickle.UnpicklingError("its pickle has a memo with holes, which torch does not write")
            self.memo[int(argument) : int(argument) + 1] = self.stack[-1:]
            return
        if opcode.name in _GET or opcode.name == "DUP":
            found = self.stack[-1] if opcode.name == "DUP" else self.memo[int(argument)]
            self.shared += found[0]
            self.stack.append(found)
        else:
            taken = self._take(opcode.stack_before)
            size, depth = taken.pop(0) if taken and opcode.name in _FILL else (1, 0)
            size, depth = size + sum(one[0] for one in taken), max([depth, *(one[1] + 1 for one in taken)])
            for kind in opcode.stack_after:
                if kind is pickletools.markobject:
                    self.marks.append(len(self.stack))
                self.stack.append(None if kind is pickletools.markobject else (size, depth))
            if depth > MAX_DEPTH:
                raise pickle.UnpicklingError(f"its pickle nests objects more than {MAX_DEPTH} deep")
        if self.shared > MAX_SHARED:
            raise pickle.UnpicklingError("its pickle repeats objects inside objects, which torch does not write")

    def _take(self, kinds: list[pickletools.StackObject]) -> list[tuple[int, int]]:
        start = len(self.stack) - len(kinds)
        if pickletools.markobject in kinds:
            start = self.marks[-1] - kinds.index(pickletools.markobject)
        taken = self.stack[max(start, 0) :]
        del self.stack[max(start, 0) :]
        while self.marks and self.marks[-1] >= len(self.stack):
            self.marks.pop()
        return [one for one in taken if one is not None]


def _full_name(module: str, name: str) -> str:
    """Return the current name: pickles of protocol 2 have `__builtin__` for `builtins`."""
    return ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member that is stored as it is, as torch stores pickles and numbers.

    Raises:
        ValueError: if it is compressed, or too large.
        KeyError: if it does not exist.
    """
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, expected it to be stored as torch writes it")
    if member.file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"{name} has {member.file_size} bytes, allowed are {MAX_PICKLE_BYTES}")
    return archive.read(name)
