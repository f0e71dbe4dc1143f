"""Find a model by name, folder or file, and choose what runs it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from motivnet.checkpoints.bundle import Bundle, BundleConfig, is_bundle, open_bundle, require_head
from motivnet.errors import ConfigError, MissingExtraError
from motivnet.inference.backends import Backend, OnnxBackend

BACKENDS = ("auto", "onnx", "torch")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """How a model is run: the arguments of `Predictor.load` that bear on it, with the same meanings."""

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    image_size: tuple[int, int] | None = None
    geometry: str | None = None
    num_heads: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the backend and the threads.

        Raises:
            ConfigError: if there is no backend of that name, torch's settings are asked of ONNX, or `threads` is
                below 1.
        """
        if self.backend not in BACKENDS:
            raise ConfigError(f"unknown backend {self.backend!r}. Allowed: {', '.join(BACKENDS)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads {self.threads}: must be at least 1")
        if self.backend == "onnx" and self.needs_torch:
            raise ConfigError("backend 'onnx' runs on the CPU, at the size and precision of its file. Allowed: torch")

    @property
    def needs_torch(self) -> bool:
        """Whether something is asked for that ONNX cannot do."""
        asked = (self.device not in ("auto", "cpu"), self.dtype != "auto", self.compile, self.image_size is not None)
        return any(asked)


def load_backend(model: str | Path, runtime: Runtime) -> tuple[BundleConfig, Backend]:
    """Load a model.

    Args:
        model: name of an embedded model, folder of a bundle, file in a released format, a name that
            `motivnet weights list` knows, or `hf:owner/repo`.
        runtime: how to run it.

    Raises:
        CheckpointError: if there is no such model, or it is damaged, or too large for the memory that is free.
        ConfigError: at a setting that this model or machine does not have.
        MissingExtraError: if it needs torch, which is not installed.
    """
    if not is_bundle(model):
        return _load_released(model, runtime)
    return _load_bundle(open_bundle(model), runtime)


def _load_bundle(bundle: Bundle, runtime: Runtime) -> tuple[BundleConfig, Backend]:
    require_head(bundle)
    if runtime.geometry is not None:
        raise ConfigError(f"geometry belongs to released files; bundle {bundle.config.name!r} states its own")
    if runtime.num_heads is not None:
        raise ConfigError(f"num_heads belongs to released files; bundle {bundle.config.name!r} states its own")
    has_onnx = bundle.onnx.is_file() or not bundle.weights.is_file()
    if runtime.backend == "onnx" or (runtime.backend == "auto" and not runtime.needs_torch and has_onnx):
        return bundle.config, OnnxBackend(bundle, threads=runtime.threads)
    with _needs_torch():
        from motivnet.checkpoints.load import load_bundle, resized
        from motivnet.inference.torch_backend import TorchBackend, choose_device, choose_dtype
    size = runtime.image_size or bundle.config.model.image_size
    config = dataclasses.replace(
        bundle.config,
        model=resized(bundle.config.model, size, bundle.path),
        preprocessing=dataclasses.replace(bundle.config.preprocessing, size=size),
    )
    _set_threads(runtime)
    device = choose_device(runtime.device)
    net = load_bundle(bundle, image_size=size, device=device, dtype=choose_dtype(runtime.dtype, device, config.model))
    return config, TorchBackend(net, config.model, compiled=runtime.compile)


def _load_released(model: str | Path, runtime: Runtime) -> tuple[BundleConfig, Backend]:
    with _needs_torch():
        from motivnet.checkpoints.load import find_weights

    path = find_weights(model)
    if path.is_dir():
        return _load_bundle(open_bundle(path), runtime)
    if runtime.backend == "onnx":
        raise ConfigError(f"{path}: backend 'onnx' needs a bundle with an ONNX model. Allowed: torch, auto")
    from motivnet.checkpoints.convert import DEFAULT_GEOMETRY, preprocessing_for, released_config
    from motivnet.checkpoints.files import open_weights
    from motivnet.checkpoints.formats import identify
    from motivnet.checkpoints.load import load_contents, require_model
    from motivnet.inference.torch_backend import TorchBackend, choose_device, choose_dtype

    file = open_weights(path)
    contents = require_model(identify(file, num_heads=runtime.num_heads, image_size=runtime.image_size))
    size = runtime.image_size or contents.image_size
    config = released_config(contents, preprocessing_for(runtime.geometry or DEFAULT_GEOMETRY, size))
    _set_threads(runtime)
    device = choose_device(runtime.device)
    dtype = choose_dtype(runtime.dtype, device, config.model)
    net = load_contents(contents, image_size=config.model.image_size, device=device, dtype=dtype)
    return config, TorchBackend(net, config.model, compiled=runtime.compile)


def _set_threads(runtime: Runtime) -> None:
    if runtime.threads is not None:
        import torch

        torch.set_num_threads(runtime.threads)


@contextlib.contextmanager
def _needs_torch() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("motivnet"):
            raise
        raise MissingExtraError(error.name or "torch", "torch") from None
