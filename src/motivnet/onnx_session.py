"""Sessions of onnxruntime, on the device of choice, of files whose weights are finite."""

import functools
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motivnet.errors import CheckpointError, ConfigError, require, reraised
from motivnet.machine import usable_cores

if TYPE_CHECKING:
    import onnxruntime

# Device -> execution provider of onnxruntime.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# Nodes and weights of a file, of which Sapiens-2B has 3,000; and fields of one weight.
MAX_PARTS, MAX_FIELDS = 20_000, 1000
# ONNX's number of a floating-point type -> the field of its values where they are not raw, and their numpy type. Those
# of bfloat16 are the upper halves of float32.
_FLOATS = {1: (4, "<f4"), 10: (None, "<f2"), 11: (10, "<f8"), 16: (None, "<u2")}
Message = defaultdict[int, list[Any]]


def open_session(path: Path, *, device: str = "cpu", threads: int | None = None) -> "onnxruntime.InferenceSession":
    """Load an ONNX file. The session is thread-safe.

    Args:
        path: the file.
        device: a key of `PROVIDERS`, `cuda:N`, or `auto` for the CPU.
        threads: CPU threads per call; None: one per core.

    Raises:
        ConfigError: if this build of onnxruntime does not offer the device, or the device cannot be used.
        CheckpointError: if the file is damaged, a weight is NaN or infinite, or there is not enough memory.
    """
    onnxruntime = _onnxruntime()
    kind, _, number = device.replace("auto", "cpu").partition(":")
    if not offers(device):
        here = ", ".join(name for name in PROVIDERS if offers(name))
        raise ConfigError(
            f"device {device!r}: onnxruntime {onnxruntime.__version__} as installed offers {here}. "
            "Allowed: those; for cuda or openvino, the extra gpu or openvino"
        )
    options = onnxruntime.SessionOptions()
    # Without a number, onnxruntime would bind its threads to cores, also to those that this process may not use.
    options.intra_op_num_threads = threads or usable_cores()
    # Threads that spin while idle would compete with decoding and face detection.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if kind == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries from the packages of NVIDIA
    providers = [(PROVIDERS[kind], {"device_id": number} if number else {})]
    if kind != "cpu":
        providers.append((PROVIDERS["cpu"], {}))
    check_weights(path)
    try:
        # The fallback would print, and try the CPU, which is among the providers anyway.
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=providers, enable_fallback=False
        )
        # Text that is no UTF-8 is an error only when it is read.
        _ = session.get_modelmeta().custom_metadata_map, *(one.name for one in session.get_inputs())
        _ = [one.name for one in session.get_outputs()]
    # RuntimeError: no memory for its threads.
    except (*session_errors(), UnicodeDecodeError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be loaded: {' '.join(str(error).split())}") from None
    # onnxruntime continues without a provider that cannot start.
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise ConfigError(f"device {device!r}: {PROVIDERS[kind]} cannot start here: libraries or hardware are missing")
    return session


def offers(device: str) -> bool:
    """Return whether this build of onnxruntime has a provider for a device."""
    kind = device.replace("auto", "cpu").partition(":")[0]
    return PROVIDERS.get(kind) in _onnxruntime().get_available_providers()


def check_weights(path: Path) -> None:
    """Check that all weights of an ONNX file are finite: onnxruntime clips infinities to ordinary numbers.

    The few fields of the format that matter are read here, as the package onnx is not in the core install.

    Raises:
        CheckpointError: if one is not, or the file is damaged or has too many parts.
    """
    damaged = (OSError, ValueError, TypeError, LookupError, OverflowError)
    with reraised(CheckpointError, f"{path}: cannot be loaded: damaged", *damaged):
        for graph in _fields(_mapped(path), MAX_PARTS)[7]:
            for tensor in _fields(graph, MAX_PARTS)[5]:
                values = _floats(_fields(tensor, MAX_FIELDS), path.parent)
                require(np.isfinite(values).all(), f"{path}: damaged: a weight is NaN or infinite", CheckpointError)


def _floats(tensor: Message, folder: Path) -> np.ndarray:
    """Return the values of a weight; none if they are whole numbers."""
    if tensor[2][0] not in _FLOATS:
        return np.zeros(0)
    field, dtype = _FLOATS[tensor[2][0]]
    if tensor[14] == [1]:  # in a file beside it
        entries = (_fields(entry, MAX_FIELDS) for entry in tensor[13])
        about = {bytes(entry[1][0]).decode(): bytes(entry[2][0]).decode() for entry in entries}
        file = folder / about["location"]
        if not file.is_file() or Path(about["location"]).name != about["location"]:
            raise ValueError(f"{about['location']!r} is no file beside it")
        start, size = int(about.get("offset", 0)), int(about["length"]) if "length" in about else None
        data = _mapped(file)[start:][:size]
    elif tensor[9] or field:
        data = b"".join(tensor[9] or tensor[field])
    else:
        raise ValueError("weights of 16 bits are not raw, as programs write them")
    values = np.frombuffer(data, dtype)
    return (values.astype("<u4") << 16).view("<f4") if dtype == "<u2" else values


def _mapped(path: Path) -> memoryview:
    return np.memmap(path, np.uint8, "r").data


def _fields(message: memoryview, at_most: int) -> Message:
    """Return the fields of a message of protocol buffers: number -> values, each a number or bytes."""
    found, place = Message(list), 0
    for _ in range(at_most):
        if place >= len(message):
            return found
        key, place = _number(message, place)
        if key & 7 == 0:
            value, place = _number(message, place)
        else:
            size, place = _number(message, place) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], place)
            value, place = message[place : place + size], place + size
        found[key >> 3].append(value)
    raise ValueError(f"a part has more than {at_most} parts")


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """Read a number of variable length, and return it with the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[place] & 127) << shift
        place += 1
        if message[place - 1] < 128:
            break
    return value, place


@functools.cache
def session_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of onnxruntime, which have no common base class."""
    _onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def _onnxruntime():
    # Since 1.29 onnxruntime sends telemetry over the network, unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
