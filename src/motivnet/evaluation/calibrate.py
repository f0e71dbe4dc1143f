"""Give a model the calibration that its answers on a validation split ask for.

The split must be one that is not reported: what is fitted on the images that are then scored flatters itself.

Shape suffixes: B images, C classes.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from motivnet.checkpoints.bundle import BundleConfig, Calibration
from motivnet.config import to_plain
from motivnet.errors import DataError
from motivnet.evaluation.calibration import TEMPERATURES, apply_calibration, fit_calibration, threshold_for_accuracy
from motivnet.evaluation.predictions import Predictions
from motivnet.evaluation.probabilities import ece, log_loss
from motivnet.version import __version__

# Where in a bundle's provenance the calibration stands.
RECORD = "calibration"


def calibrate(
    config: BundleConfig, predictions: Predictions, *, exponent: bool = False, accuracy: float | None = None
) -> BundleConfig:
    """Fit a calibration, and a threshold of abstention if an accuracy is wanted.

    Args:
        config: of the model's bundle.
        predictions: its answers on a validation split, with whatever calibration the protocol states.
        exponent: fit an exponent beside the temperature.
        accuracy: share of right answers that the threshold is to reach there, above 0 and at most 1; None leaves the
            bundle without a threshold, since one that was fitted with another calibration means nothing.

    Returns:
        The bundle's settings with `calibration` and `abstain_below`, and under `provenance["calibration"]` what they
        were fitted on and what they changed; "before" is uncalibrated.

    Raises:
        DataError: if no image has an answer, these are no probabilities of this model's labels, no temperature is
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
            "them are classified rightly, or the probabilities tell nothing"
        )
    after_BC = apply_calibration(before_BC, calibration)
    record = {
        "data": protocol.data,
        "data_fingerprint": protocol.data_fingerprint,
        "split": protocol.split,
        "detection": protocol.detection,
        "n": len(target_B),
        "left_out": dict(Counter(status for status in predictions.status if status != "ok")),
        **to_plain(calibration),
        "log_loss": {"before": log_loss(before_BC, target_B), "after": log_loss(after_BC, target_B)},
        "ece": {"before": ece(before_BC, target_B), "after": ece(after_BC, target_B)},
        "abstention": None if accuracy is None else _abstention(after_BC, target_B, accuracy),
        "version": __version__,
    }
    return dataclasses.replace(
        config,
        calibration=calibration,
        abstain_below=record["abstention"] and record["abstention"]["abstain_below"],
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
