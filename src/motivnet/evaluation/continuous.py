"""Scores of valence and arousal, as pure functions of numpy arrays; weights are those of `motivnet.evaluation.metrics`.

Shape suffix: B images.
"""

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError
from motivnet.evaluation.metrics import checked_length, checked_weights, weighted_mean


def ccc(preds: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Concordance correlation coefficient, from -1 to 1: correlation, less what differs in mean and in scale.

    After Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 1989: twice the covariance,
    divided by the sum of both variances and the squared difference of the means; all moments divide by the number of
    images. (torchmetrics divides by one less, and so is a little further from 0 where the means differ.)

    It is NaN where `preds` or `target` is constant, as in torchmetrics: then there is nothing to correlate.

    Args:
        preds: predicted value of each image, (B,).
        target: true value of each image, (B,).
        weights: how much each image counts, numbers (B,) of at least 0, not all 0; None: 1 each.

    Raises:
        DataError: if there are no images, lengths differ, a value is not finite or a weight not allowed.
    """
    preds_B, target_B = _values(preds, target)
    weights_B = checked_weights(weights, len(target_B))
    counted_B = weights_B > 0
    if np.ptp(preds_B[counted_B]) == 0 or np.ptp(target_B[counted_B]) == 0:
        return float("nan")
    share_B = weights_B / weights_B.sum()
    preds_mean, target_mean = share_B @ preds_B, share_B @ target_B
    preds_B, target_B = preds_B - preds_mean, target_B - target_mean
    spread = share_B @ (preds_B**2 + target_B**2) + (preds_mean - target_mean) ** 2
    return float(2 * (share_B @ (preds_B * target_B)) / spread)


def rmse(preds: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Root of the mean squared error, in units of the target.

    Args and errors are those of `ccc`.
    """
    preds_B, target_B = _values(preds, target)
    return float(np.sqrt(weighted_mean((preds_B - target_B) ** 2, weights)))


def sign_agreement(preds: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Share of images whose predicted value has the sign of the true one (SAGR), from 0 to 1.

    After Nicolaou et al., Continuous prediction of spontaneous affect, IEEE Transactions on Affective Computing 2011.
    0 is a sign of its own: it agrees with 0 alone.

    Args and errors are those of `ccc`.
    """
    preds_B, target_B = _values(preds, target)
    return weighted_mean(np.sign(preds_B) == np.sign(target_B), weights)


def _values(preds: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    preds_B, target_B = _finite("preds", preds), _finite("target", target)
    checked_length("preds", len(preds_B), len(target_B))
    return preds_B, target_B


def _finite(what: str, values: ArrayLike) -> np.ndarray:
    values_B = np.asarray(values)
    if values_B.ndim != 1 or values_B.size == 0 or values_B.dtype.kind not in "iuf":
        raise DataError(
            f"{what} of shape {values_B.shape} and {values_B.dtype}. Allowed: one number an image, at least one image"
        )
    values_B = values_B.astype(np.float64)
    wrong_B = ~np.isfinite(values_B)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise DataError(f"{what}[{row}] is {values_B[row]}. Allowed: finite numbers")
    return values_B
