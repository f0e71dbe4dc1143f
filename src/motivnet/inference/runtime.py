"""Find a model by name, folder or file, and choose what runs it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from motivnet.checkpoints.bundle import Bundle, BundleConfig, is_bundle, open_bundle, require_head
from motivnet.errors import ConfigError, MissingExtraError
from motivnet.inference.backends import Backend, OnnxBackend
from motivnet.inference.predictor_config import PredictorConfig


def load_backend(model: str | Path, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    """Load a model.

    Args:
        model: name of an embedded model, folder of a bundle, file in a released format, a name that
            `motivnet weights list` knows, or `hf:owner/repo`.
        options: how to run it; those of detector, batches and threshold are not used.

    Raises:
        CheckpointError: if there is no such model, or it is damaged, or too large for the memory that is free.
        ConfigError: at a setting that this model or machine does not have.
        MissingExtraError: if it needs torch, which is not installed.
    """
    if not is_bundle(model):
        return _load_released(model, options)
    return _load_bundle(open_bundle(model), options)


def _load_bundle(bundle: Bundle, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    require_head(bundle)
    if options.geometry is not None:
        raise ConfigError(f"geometry belongs to released files; bundle {bundle.config.name!r} states its own")
    if options.num_heads is not None:
        raise ConfigError(f"num_heads belongs to released files; bundle {bundle.config.name!r} states its own")
    has_onnx = bundle.onnx.is_file() or not bundle.weights.is_file()
    if options.backend == "onnx" or (options.backend == "auto" and not options.needs_torch and has_onnx):
        return bundle.config, OnnxBackend(bundle, threads=options.threads)
    with _needs_torch():
        from motivnet.checkpoints.load import load_bundle, resized
        from motivnet.inference.torch_backend import TorchBackend, choose_device, choose_dtype
    size = options.image_size or bundle.config.model.image_size
    config = dataclasses.replace(
        bundle.config,
        model=resized(bundle.config.model, size, bundle.path),
        preprocessing=dataclasses.replace(bundle.config.preprocessing, size=size),
    )
    _set_threads(options)
    device = choose_device(options.device)
    net = load_bundle(bundle, image_size=size, device=device, dtype=choose_dtype(options.dtype, device, config.model))
    return config, TorchBackend(net, config.model, compiled=options.compile)


def _load_released(model: str | Path, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    with _needs_torch():
        from motivnet.checkpoints.load import find_weights

    path = find_weights(model)
    if path.is_dir():
        return _load_bundle(open_bundle(path), options)
    if options.backend == "onnx":
        raise ConfigError(f"{path}: backend 'onnx' needs a bundle with an ONNX model. Allowed: torch, auto")
    from motivnet.checkpoints.files import open_weights
    from motivnet.checkpoints.formats import DEFAULT_GEOMETRY, identify, preprocessing_for, released_config
    from motivnet.checkpoints.load import load_contents, require_model
    from motivnet.inference.torch_backend import TorchBackend, choose_device, choose_dtype

    file = open_weights(path)
    contents = require_model(identify(file, num_heads=options.num_heads, image_size=options.image_size))
    size = options.image_size or contents.image_size
    config = released_config(contents, preprocessing_for(options.geometry or DEFAULT_GEOMETRY, size))
    _set_threads(options)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device, config.model)
    net = load_contents(contents, image_size=config.model.image_size, device=device, dtype=dtype)
    return config, TorchBackend(net, config.model, compiled=options.compile)


def _set_threads(options: PredictorConfig) -> None:
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)


@contextlib.contextmanager
def _needs_torch() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("motivnet"):
            raise
        raise MissingExtraError(error.name or "torch", "torch") from None
