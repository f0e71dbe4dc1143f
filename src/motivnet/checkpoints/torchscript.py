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

import re
import zipfile
from typing import Any

from motivnet.checkpoints.pickles import ScriptObject, StoredTensor

# Of attributes. Sapiens-2B has about 1,000 modules of 20; a module that contains itself would never end.
MAX_ATTRIBUTES = 200_000
MAX_NAME = 200
MAX_CODE_BYTES = 1 << 25

_MODULE_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]$", re.MULTILINE
)
Names = dict[str, list[str]]


def module_tensors(module: Any, archive: zipfile.ZipFile, root: str) -> dict[str, StoredTensor]:
    """Return the parameters and buffers of a module, named and ordered as in its `state_dict()`.

    Args:
        module: as `pickles.Unpickler` reads `data.pkl`.
        archive: opened.
        root: folder inside the archive that holds everything.

    Raises:
        ValueError, LookupError: if it is no module, or without parameters, or has too many.
    """
    if not isinstance(module, ScriptObject):
        raise ValueError(f"found {type(module).__name__}, expected a module")
    code = f"{root}/code/"
    num_bytes = sum(member.file_size for member in archive.infolist() if member.filename.startswith(code))
    if num_bytes > MAX_CODE_BYTES:
        raise ValueError(f"its code has {num_bytes} bytes, allowed are {MAX_CODE_BYTES}")
    tensors = _named_tensors(module, archive, code)
    if not tensors:
        raise ValueError("found no parameters; those of a frozen module are constants of its code, which is not read")
    return tensors


def _named_tensors(root_module: ScriptObject, archive: zipfile.ZipFile, code: str) -> dict[str, StoredTensor]:
    """Walk the tree depth first: parameters and buffers of a module, then the modules inside it."""
    tensors: dict[str, StoredTensor] = {}
    sources: dict[str, Names] = {}
    pending, count = [("", root_module)], 0
    while pending:
        prefix, module = pending.pop()
        file = f"{code}{type(module).__module__.replace('.', '/')}.py"
        if file not in sources:
            sources[file] = _parameters_and_buffers(archive.read(file).decode())
        own = sources[file].get(type(module).__name__)
        if own is None:  # an object, not a module
            continue
        inner = [(f"{prefix}{name}.", value) for name, value in module.attributes.items() if isinstance(name, str)]
        count += len(inner) + len(own)
        if count > MAX_ATTRIBUTES or len(prefix) > MAX_NAME:
            raise ValueError(
                f"found more than {MAX_ATTRIBUTES} attributes of modules, or a name of {len(prefix)} letters"
            )
        for name in own:
            if isinstance(module.attributes[name], StoredTensor):  # a parameter may be None
                tensors[prefix + name] = module.attributes[name]
        pending += [(name, value) for name, value in reversed(inner) if isinstance(value, ScriptObject)]
    return tensors


def _parameters_and_buffers(source: str) -> Names:
    """Parse the names of each class of a source, which is not compiled; one that is no module is left out."""
    found = _MODULE_CLASS.findall(source)
    return {name: re.findall(r'"([^"]+)"', f"{parameters},{buffers}") for name, parameters, buffers in found}
