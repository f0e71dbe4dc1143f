"""Calibration of a model's probabilities, and the threshold below which it abstains.

The split to fit on must be one that is not reported: scores of the images that a calibration was fitted on are too
good.

Shape suffixes: B images, C classes, N distinct thresholds.
"""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from motivnet.checkpoints import bundle as bundles
from motivnet.checkpoints.bundle import Bundle, BundleConfig, Calibration
from motivnet.config import to_plain
from motivnet.data.sources.named import read_source, split_off
from motivnet.errors import CheckpointError, DataError, OutputError, needs_extra, require
from motivnet.evaluation.metrics import checked_target
from motivnet.evaluation.predictions import Predictions, Track, no_progress, predict_manifest
from motivnet.evaluation.probabilities import ProbabilityScores, checked_probs
from motivnet.inference.backends import CALIBRATION_KEY
from motivnet.inference.predictor import Predictor
from motivnet.storage import atomic_folder
from motivnet.version import __version__

# Key of the calibration in a bundle's provenance.
RECORD = "calibration"
TEMPERATURES = (0.05, 20.0)
EXPONENTS = (0.2, 5.0)
# Every probability that float32 rounds to 0 is below this.
SMALLEST_PROB = float(np.finfo(np.float32).smallest_subnormal)


def calibrate(
    model: str | Path,
    data: str,
    *,
    split: str | None = None,
    out: Path | None = None,
    exponent: bool = False,
    accuracy: float | None = None,
    detect: bool = False,
    overwrite: bool = False,
    track: Track = no_progress,
) -> Bundle:
    """Fit the calibration of a bundle on a validation split, and store it there; what `motivnet calibrate` does.

    Args:
        model: an embedded model, or folder of a bundle.
        data: `KIND:PATH` or `KIND:PATH@SPLIT`, such as `fer2013:fer2013.parquet@PublicTest`.
        split: to fit on, if `data` does not name it: never the one whose scores are reported.
        out: folder for a calibrated copy; None changes the bundle.
        exponent: fit an exponent as well: for models trained with label smoothing or mixup.
        accuracy: also find the threshold of abstention that reaches this accuracy.
        detect: detect faces; otherwise the face is the data set's box, and without one the whole image.
        overwrite: replace `out`; or a calibration; or change a model of the package.
        track: shows progress.

    Returns:
        The calibrated bundle, with `config.provenance["calibration"]` as of `calibrated_config`.

    Raises:
        CheckpointError: if there is no such bundle.
        DataError: if the data cannot be read; see also `calibrated_config`.
        OutputError: if something would be replaced without `overwrite`, or cannot be written.
        MissingExtraError: if the bundle's ONNX file states a calibration, and onnx is not installed to change it.
    """
    if not bundles.is_bundle(model) and Path(model).exists():
        raise CheckpointError(f"{model}: no bundle, so it has no place for a calibration: motivnet weights convert")
    bundle = bundles.open_bundle(model)
    _check_place(bundle, out, overwrite=overwrite)
    data, split = split_off(data, split, required=True)
    predictor = Predictor.load(bundle.path, detector="yunet" if detect else "whole")
    manifest = read_source(data).split(str(split))
    predictions = predict_manifest(predictor, manifest, detect=detect, data=data, split=split, track=track)
    config = calibrated_config(bundle.config, predictions, exponent=exponent, accuracy=accuracy)
    onnx_too = CALIBRATION_KEY in getattr(predictor.backend, "metadata", {})
    if out is None:
        return _store(bundle.path, config, onnx_too=onnx_too)
    with atomic_folder(out) as folder:
        for file in bundle.path.iterdir():
            if file.name.startswith(bundles.BUNDLE_NAMES):
                shutil.copyfile(file, folder / file.name)
        _store(folder, config, onnx_too=onnx_too)
    return Bundle(out.resolve(), config)


def _check_place(bundle: Bundle, out: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace anything without `overwrite`, before any work is done."""
    if out is not None:
        bundles.check_place(out.resolve(), overwrite=overwrite)
    elif overwrite:
        return
    elif bundle.path.resolve().is_relative_to(bundles.ASSETS.resolve()):
        raise OutputError(f"{bundle.config.name} is part of the package. Allowed: --out DIR, or --overwrite")
    elif bundle.config.calibration != Calibration():
        raise OutputError(f"{bundle.path}: is calibrated already. Allowed: --out DIR, or --overwrite")


def _store(folder: Path, config: BundleConfig, *, onnx_too: bool) -> Bundle:
    """Write the settings; an ONNX file that states a calibration of its own must not contradict them."""
    if onnx_too:
        with needs_extra("onnx", "train"):
            from motivnet.export.onnx import state_calibration
        for name in bundles.ONNX_NAMES.values():
            if (folder / name).is_file():
                state_calibration(folder / name, config.calibration)
    return bundles.write_config(folder, config)


def calibrated_config(
    config: BundleConfig, predictions: Predictions, *, exponent: bool = False, accuracy: float | None = None
) -> BundleConfig:
    """Fit a calibration, and a threshold of abstention for a wanted accuracy.

    Args:
        config: of the model's bundle.
        predictions: of the model on a validation split, calibrated as their protocol states.
        exponent: fit an exponent beside the temperature.
        accuracy: share of correct answers that the threshold reaches there, above 0 and at most 1; None leaves the
            bundle without a threshold, since one that was fitted with another calibration means nothing.

    Returns:
        The bundle's settings with `calibration` and `abstain_below`, and under `provenance["calibration"]` what they
        were fitted on and the scores before and after; "before" is uncalibrated.

    Raises:
        DataError: if no image has an answer, the predictions are of other labels than the model's, no temperature is
            best, or the accuracy is not reached at any threshold.
    """
    protocol, answered_B = predictions.protocol, predictions.answered_B
    if predictions.labels != config.labels:
        raise DataError(f"{protocol.data}: predictions of other labels than those of model {config.name!r}")
    if not answered_B.any():
        raise DataError(f"{protocol.data}: none of {len(answered_B)} images has an answer to calibrate by")
    target_B = predictions.target_B[answered_B]
    applied = protocol.calibration or Calibration()
    before_BC = apply_calibration(predictions.probs_BC[answered_B], applied.inverse())
    calibration = fit_calibration(before_BC, target_B, exponent=exponent)
    low, high = TEMPERATURES
    flawless = bool((before_BC.argmax(axis=1) == target_B).all())
    if flawless or not 1.001 * low < calibration.temperature < 0.999 * high:
        raise DataError(
            f"{protocol.data}: no temperature from {low:g} to {high:g} is best for its {len(target_B)} images: all of "
            "them are classified correctly, or the probabilities are uninformative"
        )
    after_BC = apply_calibration(before_BC, calibration)
    before, after = ProbabilityScores(before_BC, target_B), ProbabilityScores(after_BC, target_B)
    abstention = None if accuracy is None else _abstention(after_BC, target_B, accuracy)
    record = {
        "data": protocol.data,
        "data_fingerprint": protocol.data_fingerprint,
        "split": protocol.split,
        "detection": protocol.detection,
        "n": len(target_B),
        "left_out": dict(Counter(status for status in predictions.status if status != "ok")),
        **to_plain(calibration),
        "log_loss": {"before": before.log_loss(), "after": after.log_loss()},
        "ece": {"before": before.ece(), "after": after.ece()},
        "abstention": abstention,
        "version": __version__,
    }
    return dataclasses.replace(
        config,
        calibration=calibration,
        abstain_below=abstention and abstention["abstain_below"],
        provenance={**config.provenance, RECORD: record},
    )


def _abstention(probs_BC: np.ndarray, target_B: np.ndarray, accuracy: float) -> dict[str, Any]:
    threshold = threshold_for_accuracy(probs_BC, target_B, accuracy)
    kept_B = probs_BC.max(axis=1) >= threshold
    return {
        "wanted_accuracy": accuracy,
        "abstain_below": threshold,
        "accuracy": float((probs_BC.argmax(axis=1) == target_B)[kept_B].mean()),
        "coverage": float(kept_B.mean()),
    }


def fit_calibration(probs: ArrayLike, target: ArrayLike, *, exponent: bool = False) -> Calibration:
    """Find the calibration with which the probabilities have the smallest log loss.

    The temperature alone is after Guo et al., On calibration of modern neural networks, 2017, arXiv 1706.04599, section
    4.2: the loss is convex in 1 / temperature, so that the search finds its one minimum. With an exponent the search
    starts there, and returns the nearest minimum; it is the same each time. Probabilities serve as well as logits:
    their logarithms differ from the logits by a constant per image, which the softmax removes.

    Without a minimum between the bounds, the temperature is near the upper one if the probabilities are uninformative;
    and merely low if all images are classified correctly, as there is then no mistake to weigh the confidence against.

    Args:
        probs: uncalibrated probability of every class, (B, C), of images that the model was not trained on.
        target: true class of each image, integers (B,) from 0 to C - 1.
        exponent: fit it as well; otherwise it is 1.

    Returns:
        Its temperature is from 0.05 to 20, its exponent from 0.2 to 5.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a row of probabilities is
            invalid.
    """
    from scipy.optimize import minimize, minimize_scalar

    probs_BC = checked_probs(probs)
    target_B = checked_target(target, "probs", *probs_BC.shape)
    logs_BC = _logarithms(probs_BC)
    margins_BC = logs_BC.max(axis=1, keepdims=True) - logs_BC

    def loss(log_temperature: float, log_exponent: float = 0.0) -> float:
        energy_BC = margins_BC ** np.exp(log_exponent) / np.exp(log_temperature)
        of_truth_B = np.take_along_axis(energy_BC, target_B[:, None], axis=1)[:, 0]
        # The best class has the energy 0: nothing can overflow.
        return float((np.log(np.exp(-energy_BC).sum(axis=1)) + of_truth_B).mean())

    found: Any = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-7})
    if not exponent:
        return Calibration(temperature=float(np.exp(found.x)))
    both: Any = minimize(
        lambda x: loss(*x),
        (found.x, 0.0),
        method="Nelder-Mead",
        bounds=np.log((TEMPERATURES, EXPONENTS)),
        options={"xatol": 1e-6, "fatol": 1e-10},
    )
    temperature, power = np.exp(both.x).tolist()
    return Calibration(temperature=temperature, exponent=power)


def apply_calibration(probs: ArrayLike, calibration: Calibration) -> np.ndarray:
    """Return calibrated probabilities, float64 (B, C).

    Args:
        probs: probability of every class, (B, C).
        calibration: to apply; the inverse of one undoes it.

    Raises:
        DataError: if a row of probabilities is invalid.
    """
    return calibration.probs(_logarithms(checked_probs(probs)))


def threshold_for_accuracy(probs: ArrayLike, target: ArrayLike, accuracy: float) -> float:
    """Find the smallest threshold such that the images with at least that highest probability are correct often enough.

    So as many images as possible are answered. Images with the same highest probability are answered together. The
    threshold is one of the highest probabilities themselves, or 0 if all images may be answered.

    The accuracy is that of these images: on others it will be a little lower, the more so the fewer are answered.

    Args:
        probs: probability of every class, (B, C), of images that the model was not trained on.
        target: true class of each image, integers (B,) from 0 to C - 1.
        accuracy: wanted share of correct answers, above 0 and at most 1.

    Raises:
        DataError: as `fit_calibration`, or if `accuracy` is out of range or not reached at any threshold.
    """
    require(0 < accuracy <= 1, f"accuracy must be above 0 and at most 1, not {accuracy}", DataError)
    probs_BC = checked_probs(probs)
    target_B = checked_target(target, "probs", *probs_BC.shape)
    correct_B = probs_BC.argmax(axis=1) == target_B
    # The distinct highest probabilities, descending, and how many images have at least that.
    threshold_N, place_B = np.unique(-probs_BC.max(axis=1), return_inverse=True)
    threshold_N, answered_N = -threshold_N, np.bincount(place_B).cumsum()
    accuracy_N = np.bincount(place_B, correct_B).cumsum() / answered_N
    reached = np.flatnonzero(accuracy_N >= accuracy)
    if not len(reached):
        best = int(np.argmax(accuracy_N))
        raise DataError(
            f"an accuracy of {accuracy:g} is reached at no threshold. The best is {accuracy_N[best]:.4f}, on the"
            f" {answered_N[best]} of {answered_N[-1]} images with a probability of at least {threshold_N[best]:.4f}"
        )
    last = reached[-1]
    return 0.0 if last == len(threshold_N) - 1 else float(threshold_N[last])


def _logarithms(probs_BC: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probs_BC, SMALLEST_PROB))
