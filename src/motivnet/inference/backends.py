"""Backends run a model: pixels in, logits out, and valence and arousal if the model predicts them.

Shape suffixes: B images, C channels (pixels) or classes (logits), H height, W width.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from motivnet.checkpoints.bundle import Bundle, BundleConfig, find_weights, is_bundle, open_bundle, require_head
from motivnet.config import from_plain, parse_json, to_plain
from motivnet.errors import CheckpointError, ConfigError, needs_extra, require, reraised
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.labels import AFFECT
from motivnet.onnx_session import offers, open_session, session_errors
from motivnet.preprocess import Preprocessing

if TYPE_CHECKING:
    from motivnet.checkpoints.formats import Contents

INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
AFFECT_NAME = "affect"
# Key in the metadata of an ONNX file, whose outputs are uncalibrated logits.
CALIBRATION_KEY = "calibration"


class Outputs(NamedTuple):
    """The outputs of a model.

    Attributes:
        logits: logits of the classes, float32 (B, C).
        affect: valence and arousal from -1 to 1, float32 (B, 2); None if the model does not predict them.
    """

    logits: np.ndarray
    affect: np.ndarray | None


def answers(config: BundleConfig, outputs: Outputs, num_images: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Check the outputs of a backend, and return probabilities, float64 (B, C), and valence and arousal.

    Raises:
        CheckpointError: if they are not finite, or not one row for each image.
    """
    logits_BC = finite(config, OUTPUT_NAME, outputs.logits, (num_images, config.model.num_classes))
    affect = config.model.affect
    affect_B2 = finite(config, AFFECT_NAME, outputs.affect, (num_images, len(AFFECT))) if affect else None
    return config.calibration.probs(logits_BC), affect_B2


def finite(config: BundleConfig, name: str, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return an output of a model, named for messages, if it has this shape and is finite; else CheckpointError."""
    if values is None or values.shape != shape:
        found = None if values is None else values.shape
        raise CheckpointError(f"model {config.name!r}: {name} of shape {found}, expected {shape}")
    if not np.isfinite(values).all():
        raise CheckpointError(f"model {config.name!r}: {name} are NaN or infinite: its weights are damaged")
    return values


class Backend(Protocol):
    """Runs a model. Implementations must be thread-safe."""

    @property
    def max_batch(self) -> int | None:
        """Maximum useful batch size, by speed and memory; None: no limit."""
        ...

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model on normalised pixels, float32 (B, C, H, W)."""
        ...


class OnnxBackend:
    """A bundle's ONNX file in onnxruntime."""

    max_batch: int | None = None

    def __init__(
        self, bundle: Bundle, *, path: Path | None = None, threads: int | None = None, device: str = "cpu"
    ) -> None:
        """Load the model and check that it agrees with the bundle.

        Args:
            bundle: the bundle.
            path: its ONNX file, if that is not in the bundle.
            threads: CPU threads per call; None: one per core.
            device: as for `open_session`.

        Raises:
            CheckpointError: if the file is missing, damaged, or disagrees with the bundle's settings.
            ConfigError: if the device is not available.
        """
        self._path = path = path or bundle.onnx
        require(path.is_file(), f"{path}: no such file; the bundle has no ONNX model", CheckpointError)
        self._session = open_session(path, device=device, threads=threads)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        _check(path, bundle.config, self._session, self.metadata)
        self._names = [OUTPUT_NAME, AFFECT_NAME] if bundle.config.model.affect else [OUTPUT_NAME]

    def logits(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """Return only the logits of `outputs`, float32 (B, C)."""
        return self.outputs(pixels_BCHW).logits

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model on normalised pixels, float32 (B, C, H, W).

        Raises:
            CheckpointError: if the model cannot be run, for example because memory is exhausted.
        """
        what = f"{self._path}: cannot be run on {len(pixels_BCHW)} image(s)"
        with reraised(CheckpointError, what, *session_errors(), MemoryError, RuntimeError):
            logits_BC, *affect = self._session.run(self._names, {INPUT_NAME: pixels_BCHW})
        return Outputs(np.asarray(logits_BC), np.asarray(affect[0]) if affect else None)


def _check(path: Path, config: BundleConfig, session, metadata: dict[str, str]) -> None:
    """Check that an ONNX file agrees with its bundle; files of different bundles would give wrong results silently."""
    inputs = {item.name: item.shape[1:] for item in session.get_inputs()}
    outputs = {item.name: item.shape[1:] for item in session.get_outputs()}
    affect = {AFFECT_NAME: [len(AFFECT)]} if config.model.affect else {}
    expected = {
        "inputs": (inputs, {INPUT_NAME: [config.model.input_chans, *config.model.image_size]}),
        "outputs": (outputs, {OUTPUT_NAME: [config.model.num_classes]} | affect),
        "labels": (_read(path, metadata, "labels"), list(config.labels)),
        "preprocessing": (_preprocessing(path, metadata), config.preprocessing),
    }
    # Backward compatible: older files have no calibration.
    if CALIBRATION_KEY in metadata:
        expected[CALIBRATION_KEY] = (_read(path, metadata, CALIBRATION_KEY), to_plain(config.calibration))
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise CheckpointError(
                f"{path}: {what} {str(found)[:500]} do not agree with the bundle's config.json: {wanted}"
            )


def _preprocessing(path: Path, metadata: dict[str, str]) -> Preprocessing:
    with reraised(CheckpointError, f"{path}: metadata 'preprocessing'", ConfigError):
        return from_plain(Preprocessing, _read(path, metadata, "preprocessing"))


def _read(path: Path, metadata: dict[str, str], key: str) -> object:
    try:
        return parse_json(metadata[key])
    except KeyError:
        raise CheckpointError(f"{path}: has no metadata {key!r}; was it written by motivnet export?") from None
    except ValueError:
        raise CheckpointError(f"{path}: metadata {key!r} is no JSON: {metadata[key]!r}") from None


def load_backend(model: str | Path, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    """Load a model.

    Args:
        model: name of an embedded model, folder of a bundle, file in a released format, a name that
            `motivnet weights list` knows, or `hf:owner/repo`.
        options: backend, device, precision and the like; detector, batch size and threshold are ignored.

    Raises:
        CheckpointError: if there is no such model, it is damaged, or too large for the free memory.
        ConfigError: if the model or the machine does not support an option.
        MissingExtraError: if it needs torch, which is not installed.
    """
    if not is_bundle(model):
        return _load_released(model, options)
    return _load_bundle(open_bundle(model), options)


def _load_bundle(bundle: Bundle, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    require_head(bundle)
    for name in ("geometry", "num_heads"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} belongs to released files; bundle {bundle.config.name!r} defines its own")
    precision = options.precision
    if precision != "fp32":
        # Named, so that every row of results tells which file it is of.
        named = dataclasses.replace(bundle.config, name=f"{bundle.config.name}-{precision}")
        path = bundle.onnx_file(precision)
        return named, OnnxBackend(bundle, path=path, threads=options.threads, device=options.device)
    if _uses_onnx(bundle, options):
        return bundle.config, OnnxBackend(bundle, threads=options.threads, device=options.device)
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.load import resized
    size = options.image_size or bundle.config.model.image_size
    config = dataclasses.replace(
        bundle.config,
        model=resized(bundle.config.model, size, bundle.path),
        preprocessing=dataclasses.replace(bundle.config.preprocessing, size=size),
    )
    return config, _in_torch(bundle, config, options)


def _uses_onnx(bundle: Bundle, options: PredictorConfig) -> bool:
    if options.backend != "auto":
        return options.backend == "onnx"
    if options.needs_torch or (bundle.weights.is_file() and not bundle.onnx.is_file()):
        return False
    # On CUDA, torch stands in for an onnxruntime without it.
    return offers(options.device) or not (options.device.startswith("cuda") and find_spec("torch"))


def _load_released(model: str | Path, options: PredictorConfig) -> tuple[BundleConfig, Backend]:
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.load import require_model

    path = find_weights(model)
    if path.is_dir():
        return _load_bundle(open_bundle(path), options)
    if options.backend == "onnx" or options.precision != "fp32":
        wanted = "backend 'onnx'" if options.backend == "onnx" else f"precision {options.precision!r}"
        raise ConfigError(f"{path}: {wanted} needs a bundle with an ONNX model. Allowed: torch, auto; fp32")
    from motivnet.checkpoints.files import open_weights
    from motivnet.checkpoints.formats import DEFAULT_GEOMETRY, identify, released_config

    file = open_weights(path)
    contents = require_model(identify(file, num_heads=options.num_heads, image_size=options.image_size))
    config = released_config(contents, options.geometry or DEFAULT_GEOMETRY, options.image_size)
    return config, _in_torch(contents, config, options)


def _in_torch(source: "Bundle | Contents", config: BundleConfig, options: PredictorConfig) -> Backend:
    """Load a network at the size of `config` and wrap it, on the device and in the precision of the options."""
    import torch

    from motivnet.checkpoints.load import load_bundle
    from motivnet.inference.torch_backend import TorchBackend, choose_device, choose_dtype

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device, config.model)
    net = load_bundle(source, image_size=config.model.image_size, device=device, dtype=dtype)
    return TorchBackend(net, config.model, compiled=options.compile)
