"""Sessions of onnxruntime, on the device of choice."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from motivnet.errors import CheckpointError, ConfigError
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


def open_session(path: Path, *, device: str = "cpu", threads: int | None = None) -> "onnxruntime.InferenceSession":
    """Load an ONNX file. The session is thread-safe.

    Args:
        path: the file.
        device: a key of `PROVIDERS`, `cuda:N`, or `auto` for the CPU.
        threads: CPU threads per call; None: one per core.

    Raises:
        ConfigError: if this build of onnxruntime does not offer the device, or the device cannot be used.
        CheckpointError: if the file is damaged, or there is not enough memory.
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
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except (*session_errors(), RuntimeError) as error:  # the latter if there is no memory for its threads
        raise CheckpointError(f"{path}: cannot be loaded: {error}") from None
    # onnxruntime continues without a provider that cannot start.
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise ConfigError(f"device {device!r}: {PROVIDERS[kind]} cannot start here, as its libraries or hardware miss")
    return session


def offers(device: str) -> bool:
    """Return whether this build of onnxruntime has a provider for a device."""
    kind = device.replace("auto", "cpu").partition(":")[0]
    return PROVIDERS.get(kind) in _onnxruntime().get_available_providers()


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
