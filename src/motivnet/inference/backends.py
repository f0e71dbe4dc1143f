"""What runs a model: pixels in, logits out; beside them valence and arousal, if the model has them.

Shape suffixes: B images, C channels (pixels) or classes (logits), H height, W width.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from motivnet.checkpoints.bundle import Bundle, BundleConfig, Calibration
from motivnet.config import from_plain, to_plain
from motivnet.errors import CheckpointError, ConfigError
from motivnet.labels import AFFECT
from motivnet.preprocess import Preprocessing

INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
AFFECT_NAME = "affect"
# Of the metadata of an ONNX file, whose output stays logits.
CALIBRATION_KEY = "calibration"


class Outputs(NamedTuple):
    """All that a model says of faces.

    Attributes:
        logits: of the classes, float32 (B, C).
        affect: valence and arousal from -1 to 1, float32 (B, 2); None of a model without.
    """

    logits: np.ndarray
    affect: np.ndarray | None


class Backend(Protocol):
    """Anything that runs a model. Implementations may be called from several threads at once."""

    @property
    def max_batch(self) -> int | None:
        """Images at once beyond which nothing is gained, or memory ends; None if it does not matter."""
        ...

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Map normalised pixels, float32 (B, C, H, W), to all that the model says of them."""
        ...


class OnnxBackend:
    """A bundle's ONNX file in onnxruntime, on the CPU."""

    max_batch: int | None = None

    def __init__(self, bundle: Bundle, *, path: Path | None = None, threads: int | None = None) -> None:
        """Load the model and check that it is the one that the bundle describes.

        Args:
            bundle: what to load.
            path: its ONNX file, where that is not in the bundle.
            threads: CPU threads of one call; None takes one per core.

        Raises:
            CheckpointError: if the file is missing, damaged, or disagrees with the bundle's settings.
        """
        # Since 1.29 onnxruntime reports to its makers, over the network, what it runs. Asked before it is imported, it
        # does not.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors  # pyright: ignore[reportAttributeAccessIssue]

        self._path = path = path or bundle.onnx
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; the bundle has no ONNX model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Threads that spin while they wait for work would take the cores from decoding and face detection.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # What onnxruntime raises; they have no base of their own.
        self._errors = (
            ort_errors.Fail,
            ort_errors.InvalidArgument,
            ort_errors.InvalidGraph,
            ort_errors.InvalidProtobuf,
            ort_errors.NotImplemented,
            ort_errors.RuntimeException,
        )
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise CheckpointError(f"{path}: cannot be loaded: {error}") from None
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        _check(path, bundle.config, self._session, self.metadata)
        self._names = [OUTPUT_NAME, AFFECT_NAME] if bundle.config.model.affect else [OUTPUT_NAME]

    def logits(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """Give the logits of `outputs` alone, float32 (B, C)."""
        return self.outputs(pixels_BCHW).logits

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Map normalised pixels, float32 (B, C, H, W), to all that the model says of them.

        Raises:
            CheckpointError: if the model cannot be run, for want of memory for instance.
        """
        try:
            logits_BC, *affect = self._session.run(self._names, {INPUT_NAME: pixels_BCHW})
        except self._errors as error:
            raise CheckpointError(f"{self._path}: cannot be run on {len(pixels_BCHW)} image(s): {error}") from None
        return Outputs(np.asarray(logits_BC), np.asarray(affect[0]) if affect else None)


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Turn logits (B, C) into uncalibrated probabilities, float64 (B, C), without overflow."""
    return Calibration().probs(logits_BC)


def _check(path: Path, config: BundleConfig, session, metadata: dict[str, str]) -> None:
    """Compare an ONNX file with the settings beside it: two halves of different bundles give plausible nonsense."""
    inputs = {item.name: item.shape[1:] for item in session.get_inputs()}
    outputs = {item.name: item.shape[1:] for item in session.get_outputs()}
    affect = {AFFECT_NAME: [len(AFFECT)]} if config.model.affect else {}
    expected = {
        "inputs": (inputs, {INPUT_NAME: [config.model.in_chans, *config.model.image_size]}),
        "outputs": (outputs, {OUTPUT_NAME: [config.model.num_classes]} | affect),
        "labels": (_read(path, metadata, "labels"), list(config.labels)),
        "preprocessing": (_preprocessing(path, metadata), config.preprocessing),
    }
    # Files of before there was a calibration state none.
    if CALIBRATION_KEY in metadata:
        expected[CALIBRATION_KEY] = (_read(path, metadata, CALIBRATION_KEY), to_plain(config.calibration))
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise CheckpointError(f"{path}: {what} {found} do not agree with the bundle's config.json: {wanted}")


def _preprocessing(path: Path, metadata: dict[str, str]) -> Preprocessing:
    try:
        return from_plain(Preprocessing, _read(path, metadata, "preprocessing"))
    except ConfigError as error:
        raise CheckpointError(f"{path}: metadata 'preprocessing': {error}") from None


def _read(path: Path, metadata: dict[str, str], key: str) -> object:
    try:
        return json.loads(metadata[key])
    except KeyError:
        raise CheckpointError(f"{path}: has no metadata {key!r}; was it written by motivnet export?") from None
    except ValueError:
        raise CheckpointError(f"{path}: metadata {key!r} is no JSON: {metadata[key]!r}") from None
