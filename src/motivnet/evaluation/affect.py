"""How well predicted valence and arousal agree with their labels, with intervals.

Shape suffixes: B images, A images with a label and an answer.
"""

from typing import Any

import numpy as np

from motivnet.evaluation.continuous import ccc, rmse, sign_agreement
from motivnet.evaluation.predictions import Predictions
from motivnet.evaluation.resampling import bootstrap
from motivnet.labels import AFFECT

SCORES = {"ccc": ccc, "rmse": rmse, "sign_agreement": sign_agreement}


def affect_scores(
    predictions: Predictions, subjects: list[str | None] | None, *, num_resamples: int, level: float, seed: int
) -> dict[str, dict[str, Any]]:
    """Score valence and arousal on the images that have a label and an answer: no answer is no number to compare.

    Args:
        predictions: answers to a manifest.
        subjects: of each image, to resample by; None resamples images.
        num_resamples: for the intervals; 0 gives none.
        level: of the intervals.
        seed: of the resamples.

    Returns:
        `valence` and `arousal` -> n, ccc, rmse, sign_agreement, and `intervals` of these three; empty if the model does
        not give them, or no image has a label.
    """
    found: dict[str, dict[str, Any]] = {}
    if predictions.affect_B2 is None:
        return found
    pairs = zip(AFFECT, predictions.affect_B2.T, predictions.manifest.affect.T, strict=True)
    for name, preds_B, target_B in pairs:
        (scored,) = np.nonzero(~np.isnan(preds_B) & ~np.isnan(target_B))
        if not len(scored):
            continue
        preds_A, target_A = preds_B[scored], target_B[scored]

        def scores(
            weights_A: np.ndarray | None = None, preds_A: np.ndarray = preds_A, target_A: np.ndarray = target_A
        ) -> dict[str, float]:
            return {score: measure(preds_A, target_A, weights=weights_A) for score, measure in SCORES.items()}

        units = len(scored) if subjects is None else [subjects[row] for row in scored]
        intervals = {}
        if num_resamples:
            intervals = bootstrap(scores, units, num_resamples=num_resamples, level=level, seed=seed)
        found[name] = {"n": len(scored), **scores(), "intervals": intervals}
    return found
