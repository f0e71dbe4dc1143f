"""Metrics of a classifier, and of valence and arousal, as pure functions of numpy arrays.

Metrics of classes are fractions from 0 to 1. An image without an answer (no face detected) has the prediction
`NO_ANSWER`: wrong for every metric, counted among the images of its true class, in no column of the confusion matrix.

Every metric takes `weights`, one per image, as scikit-learn's `sample_weight`: a weight of 2 is the same as the image
listed twice, a weight of 0 the same as the image left out. So a class whose images all have weight 0 counts as absent
(scikit-learn still lists it).

One rule for all averages over classes: they are over the classes present in the target, as scikit-learn's with
`labels=np.unique(target)`. A class without images has no recall, and so no part in precision and F1 either; to predict
it is an error of the image's own class. (scikit-learn's default averages in a 0 for a class that was only predicted.)

Shape suffixes: B images, C classes, A answers: none, then the C classes.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError, require

NO_ANSWER = -1
Weights = ArrayLike | None


def confusion_matrix(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> np.ndarray:
    """Count images by true and predicted class.

    Args:
        preds: predicted class of each image, integers (B,) from 0 to C - 1, or `NO_ANSWER`.
        target: true class of each image, integers (B,) from 0 to C - 1.
        num_classes: C.
        weights: weight of each image, numbers (B,) of at least 0, not all 0; None: 1 each.

    Returns:
        Counts (C, C), a row per true class and a column per predicted class; int64, or float64 with `weights`. Images
        without an answer are in no column, so that a row may sum to less than the class has images.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range or a weight not allowed.
    """
    return _counts(preds, target, num_classes, weights)[:, 1:].copy()


def war(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the accuracy, also called weighted average recall; arguments and errors as for `confusion_matrix`."""
    counts_CA = _counts(preds, target, num_classes, weights)
    return float(_hits(counts_CA).sum() / counts_CA.sum())


def uar(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the mean recall of the classes present in `target`: balanced accuracy, unweighted average recall.

    Arguments and errors as for `confusion_matrix`.
    """
    return float(np.nanmean(recall_per_class(preds, target, num_classes, weights=weights)))


def recall_per_class(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> np.ndarray:
    """Return the recall of each class, float64 (C,); NaN for a class absent from `target`.

    Arguments and errors as for `confusion_matrix`.
    """
    counts_CA = _counts(preds, target, num_classes, weights)
    return ratio(_hits(counts_CA), counts_CA.sum(axis=1))


def precision_per_class(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None
) -> np.ndarray:
    """Return the precision of each class, float64 (C,).

    It is 0 for a class that was never predicted, and NaN for one that is in neither `target` nor `preds`.

    Arguments and errors as for `confusion_matrix`.
    """
    return _precision(_counts(preds, target, num_classes, weights))


def precision_macro(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the mean precision of the classes present in `target`; 0 for one that was never predicted.

    Arguments and errors as for `confusion_matrix`.
    """
    return _mean(_precision, _counts(preds, target, num_classes, weights))


def precision_weighted(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the mean precision of the classes present in `target`, each weighted by its number of images there.

    Arguments and errors as for `confusion_matrix`.
    """
    return _mean(_precision, _counts(preds, target, num_classes, weights), by_support=True)


def f1_per_class(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> np.ndarray:
    """Return the F1 score of each class, float64 (C,); NaN for one in neither `target` nor `preds`.

    Arguments and errors as for `confusion_matrix`.
    """
    return _f1(_counts(preds, target, num_classes, weights))


def f1_macro(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the mean F1 score of the classes present in `target`; arguments and errors as for `confusion_matrix`."""
    return _mean(_f1, _counts(preds, target, num_classes, weights))


def f1_weighted(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: Weights = None) -> float:
    """Return the mean F1 score of the classes present in `target`, each weighted by its number of images there.

    Arguments and errors as for `confusion_matrix`.
    """
    return _mean(_f1, _counts(preds, target, num_classes, weights), by_support=True)


CLASS_METRICS = {each.__name__: each for each in (war, uar, precision_macro, precision_weighted, f1_macro, f1_weighted)}


def class_scores(
    names: Iterable[str], preds: ArrayLike, target: ArrayLike, num_classes: int, weights: Weights = None
) -> dict[str, float]:
    """Return some of CLASS_METRICS by name; other arguments and errors as for `confusion_matrix`."""
    return {name: CLASS_METRICS[name](preds, target, num_classes, weights=weights) for name in names}


def rank_of_truth(probs: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return how many classes are more probable than the true one, int64 (B,): below k, it is among the k first.

    Of equal values the lower class counts as the more probable, as in `argmax`.

    Args:
        probs: probabilities, logits or any other scores, (B, C).
        target: true class of each image, integers (B,) from 0 to C - 1.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range or a score is NaN.
    """
    probs_BC = checked_scores(probs)
    target_B = checked_target(target, "probs", *probs_BC.shape)
    true_B1 = np.take_along_axis(probs_BC, target_B[:, None], axis=1)
    earlier_BC = np.arange(probs_BC.shape[1]) < target_B[:, None]
    return ((probs_BC > true_B1) | ((probs_BC == true_B1) & earlier_BC)).sum(axis=1)


def ccc(preds: ArrayLike, target: ArrayLike, *, weights: Weights = None) -> float:
    """Return the concordance correlation coefficient, from -1 to 1.

    After Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 1989: twice the covariance,
    divided by the sum of both variances and the squared difference of the means; all moments divide by the number of
    images. (torchmetrics divides by one less, and so is a little further from 0 where the means differ.)

    It is NaN where `preds` or `target` is constant, as in torchmetrics.

    Args:
        preds: predicted value of each image, (B,).
        target: true value of each image, (B,).
        weights: as in `confusion_matrix`.

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


def rmse(preds: ArrayLike, target: ArrayLike, *, weights: Weights = None) -> float:
    """Return the root mean squared error, in units of the target; arguments and errors as for `ccc`."""
    preds_B, target_B = _values(preds, target)
    return float(np.sqrt(weighted_mean((preds_B - target_B) ** 2, weights)))


def sign_agreement(preds: ArrayLike, target: ArrayLike, *, weights: Weights = None) -> float:
    """Return the share of images whose predicted value has the sign of the true one (SAGR), from 0 to 1.

    After Nicolaou et al., Continuous prediction of spontaneous affect, IEEE Transactions on Affective Computing 2011.
    0 is a sign of its own: it agrees with 0 alone.

    Arguments and errors as for `ccc`.
    """
    preds_B, target_B = _values(preds, target)
    return weighted_mean(np.sign(preds_B) == np.sign(target_B), weights)


def weighted_mean(values: np.ndarray, weights: Weights) -> float:
    """Average checked numbers, one per image, (B,); weights and errors as for `confusion_matrix`."""
    weights_B = checked_weights(weights, len(values))
    return float((weights_B * values).sum() / weights_B.sum())


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def checked(what: str, values: ArrayLike, allowed: str, *, kinds: str = "iuf", num_axes: int = 1) -> np.ndarray:
    """Return values as an array.

    Raises:
        DataError: unless it has `num_axes` axes, at least one value, and a type whose letter in numpy is in `kinds`.
    """
    array = np.asarray(values)
    if array.ndim != num_axes or array.size == 0 or array.dtype.kind not in kinds:
        raise DataError(f"{what} of shape {array.shape} and {array.dtype}. Allowed: {allowed}")
    return array


def checked_scores(probs: ArrayLike) -> np.ndarray:
    """Return one row of scores per image as float64 (B, C).

    Raises:
        DataError: unless it is a matrix of numbers with at least one row and column, none NaN.
    """
    allowed = "numbers (images, classes), at least one of each"
    probs_BC = checked("probs", probs, allowed, num_axes=2).astype(np.float64)
    nan_B = np.isnan(probs_BC).any(axis=1)
    if nan_B.any():
        raise DataError(f"probs: {nan_B.sum()} of {len(probs_BC)} rows hold NaN, the first is row {np.argmax(nan_B)}")
    return probs_BC


def checked_target(target: ArrayLike, what: str, length: int, num_classes: int) -> np.ndarray:
    """Return the true class of each image as int64 (B,).

    Raises:
        DataError: as of `_classes`, or unless there are as many as predictions, which are named `what`.
    """
    target_B = _classes("target", target, num_classes)
    require(length == len(target_B), f"{what} of {length} images, target of {len(target_B)}", DataError)
    return target_B


def check_each(what: str, values: np.ndarray, valid: np.ndarray, allowed: str) -> None:
    """Raise DataError, naming the first value that is not valid, if there is one."""
    if not valid.all():
        place = int(np.argmin(valid))
        raise DataError(f"{what}[{place}] is {values[place]}. Allowed: {allowed}")


def checked_weights(weights: Weights, num_rows: int) -> np.ndarray:
    """Return one weight per image as float64 (B,); ones for None.

    Raises:
        DataError: unless there is one weight per image, all finite and at least 0, not all of them 0.
    """
    if weights is None:
        return np.ones(num_rows)
    allowed = f"a finite number of at least 0 for each of {num_rows} images, not all of them 0"
    weights_B = checked("weights", weights, allowed, kinds="biuf").astype(np.float64)
    check_each("weights", weights_B, np.isfinite(weights_B) & (weights_B >= 0), allowed)
    if len(weights_B) != num_rows or not weights_B.any():
        raise DataError(f"{len(weights_B)} weights with a sum of {weights_B.sum():g}. Allowed: {allowed}")
    return weights_B


def _values(preds: ArrayLike, target: ArrayLike) -> list[np.ndarray]:
    """Return numbers, one per image and as many of both, as float64 (B,)."""
    both = []
    for what, values in (("preds", preds), ("target", target)):
        values_B = checked(what, values, "one number per image, at least one image")
        check_each(what, values_B, np.isfinite(values_B), "finite numbers")
        both.append(values_B.astype(np.float64))
    require(len(both[0]) == len(both[1]), f"preds of {len(both[0])} images, target of {len(both[1])}", DataError)
    return both


def _classes(what: str, values: ArrayLike, num_classes: int, *, lowest: int = 0) -> np.ndarray:
    """Return one class per image as int64 (B,), from `lowest`: 0, or `NO_ANSWER`."""
    values_B = checked(what, values, "one class per image, of an integer type, at least one image", kinds="iu")
    allowed = f"classes from 0 to {num_classes - 1}" + (f", {NO_ANSWER} for no answer" if lowest else "")
    check_each(what, values_B, (values_B >= lowest) & (values_B < num_classes), allowed)
    return values_B.astype(np.int64)


def _counts(preds: ArrayLike, target: ArrayLike, num_classes: int, weights: Weights) -> np.ndarray:
    """Count images by true class (row) and answer (column; the first is no answer at all), (C, A)."""
    require(num_classes >= 1, f"num_classes must be at least 1, not {num_classes}", DataError)
    preds_B = _classes("preds", preds, num_classes, lowest=NO_ANSWER)
    target_B = checked_target(target, "preds", len(preds_B), num_classes)
    num_answers = num_classes + 1
    place_B = target_B * num_answers + (preds_B - NO_ANSWER)
    weights_B = None if weights is None else checked_weights(weights, len(target_B))
    return np.bincount(place_B, weights_B, minlength=num_classes * num_answers).reshape(num_classes, num_answers)


def _hits(counts_CA: np.ndarray) -> np.ndarray:
    return np.diagonal(counts_CA, offset=1)


def _precision(counts_CA: np.ndarray) -> np.ndarray:
    predicted_C = counts_CA[:, 1:].sum(axis=0)
    # Of a class that was never predicted: no hits of its images, or 0 of 0.
    return ratio(_hits(counts_CA), np.where(predicted_C > 0, predicted_C, counts_CA.sum(axis=1)))


def _f1(counts_CA: np.ndarray) -> np.ndarray:
    return ratio(2 * _hits(counts_CA), counts_CA[:, 1:].sum(axis=0) + counts_CA.sum(axis=1))


def _mean(score: Callable[[np.ndarray], np.ndarray], counts_CA: np.ndarray, *, by_support: bool = False) -> float:
    """Average a score over the classes present in the target, equally or by their number of images."""
    support_C = counts_CA.sum(axis=1)
    present_C = support_C > 0
    return float(np.average(score(counts_CA)[present_C], weights=support_C[present_C] if by_support else None))
