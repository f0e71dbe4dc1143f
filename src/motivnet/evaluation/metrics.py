"""Scores of a classifier, as pure functions of numpy arrays; all are fractions from 0 to 1.

An image without an answer (no face found) has the prediction `NO_ANSWER`: wrong for every score, counted among the
images of its true class, in no column of the confusion matrix.

Every score takes `weights`, one an image, as scikit-learn's `sample_weight`: a weight of 2 is the same as the image
listed twice, a weight of 0 the same as the image left out. So a class whose images all have weight 0 counts as absent
(scikit-learn still lists it).

A mean over classes leaves out those that cannot have the score: `uar` those absent from the target, precision and F1
those in neither target nor predictions. scikit-learn does so too unless `labels=range(C)` is given; then it counts an
absent class as 0.

Shape suffixes: B images, C classes, A the answers: none, then the C classes.
"""

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError

NO_ANSWER = -1


def confusion_matrix(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Count how often each class was taken for each.

    Args:
        preds: predicted class of each image, whole numbers (B,) from 0 to C - 1, or `NO_ANSWER`.
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        num_classes: C.
        weights: how much each image counts, numbers (B,) of at least 0, not all 0; None: 1 each.

    Returns:
        Counts (C, C), a row for each true class and a column for each predicted one; int64, or float64 with `weights`.
        Images without an answer are in no column, so that a row may sum to less than the class has images.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range or a weight not allowed.
    """
    return _counts(preds, target, num_classes, weights)[:, 1:].copy()


def war(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None) -> float:
    """Share of images classified rightly: accuracy, also called weighted average recall.

    Args and errors are those of `confusion_matrix`.
    """
    counts_CA = _counts(preds, target, num_classes, weights)
    return float(_hits(counts_CA).sum() / counts_CA.sum())


def uar(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None) -> float:
    """Mean recall of the classes present in `target`: balanced accuracy, unweighted average recall, recall (macro).

    Args and errors are those of `confusion_matrix`.
    """
    return float(np.nanmean(recall_per_class(preds, target, num_classes, weights=weights)))


def recall_per_class(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Share of each class's images that were recognised, float64 (C,); NaN for a class absent from `target`.

    Args and errors are those of `confusion_matrix`.
    """
    counts_CA = _counts(preds, target, num_classes, weights)
    return _ratio(_hits(counts_CA), _support(counts_CA), absent=np.nan)


def precision_per_class(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Share of the images taken for each class that are of it, float64 (C,).

    It is 0 for a class that was never predicted, and NaN for one that is in neither `target` nor `preds`.

    Args and errors are those of `confusion_matrix`.
    """
    return _precision(_counts(preds, target, num_classes, weights))


def precision_macro(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> float:
    """Mean precision of the classes present in `target` or `preds`; 0 for one that was never predicted.

    Args and errors are those of `confusion_matrix`.
    """
    return float(np.nanmean(precision_per_class(preds, target, num_classes, weights=weights)))


def precision_weighted(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> float:
    """Mean precision of the classes present in `target`, each weighted by its number of images there.

    Args and errors are those of `confusion_matrix`.
    """
    counts_CA = _counts(preds, target, num_classes, weights)
    return _by_support(_precision(counts_CA), counts_CA)


def f1_per_class(
    preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Harmonic mean of each class's precision and recall, float64 (C,); NaN for one in neither `target` nor `preds`.

    Args and errors are those of `confusion_matrix`.
    """
    return _f1(_counts(preds, target, num_classes, weights))


def f1_macro(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None) -> float:
    """Mean F1, the harmonic mean of precision and recall, of the classes present in `target` or `preds`.

    Args and errors are those of `confusion_matrix`.
    """
    return float(np.nanmean(f1_per_class(preds, target, num_classes, weights=weights)))


def f1_weighted(preds: ArrayLike, target: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None) -> float:
    """Mean F1 of the classes present in `target`, each weighted by its number of images there.

    Args and errors are those of `confusion_matrix`.
    """
    counts_CA = _counts(preds, target, num_classes, weights)
    return _by_support(_f1(counts_CA), counts_CA)


def top_k_accuracy(probs: ArrayLike, target: ArrayLike, k: int, *, weights: ArrayLike | None = None) -> float:
    """Share of images whose true class is among the `k` most probable.

    Of equal values the lower class counts as the more probable, as `argmax` has it, so that k=1 is `war` of the argmax.

    Args:
        probs: probabilities, logits or any other scores, (B, C).
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        k: from 1 to C.
        weights: how much each image counts, as in `confusion_matrix`.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, a score is NaN or a weight not
            allowed.
    """
    rank_B = rank_of_truth(probs, target)
    num_classes = np.shape(probs)[1]
    if not 1 <= k <= num_classes:
        raise DataError(f"k must be from 1 to the {num_classes} classes, not {k}")
    return weighted_mean(rank_B < k, weights)


def rank_of_truth(probs: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Say how many classes were held more probable than the true one, int64 (B,); `top_k_accuracy` is `rank < k`.

    Args and errors are those of `top_k_accuracy`.
    """
    probs_BC = checked_scores(probs)
    num_classes = probs_BC.shape[1]
    target_B = checked_classes("target", target, num_classes)
    checked_length("probs", len(probs_BC), len(target_B))
    true_B1 = np.take_along_axis(probs_BC, target_B[:, None], axis=1)
    earlier_BC = np.arange(num_classes) < target_B[:, None]
    return ((probs_BC > true_B1) | ((probs_BC == true_B1) & earlier_BC)).sum(axis=1)


def weighted_mean(values: np.ndarray, weights: ArrayLike | None) -> float:
    """Average one checked number an image, (B,), by weights as in `confusion_matrix`.

    Raises:
        DataError: if a weight is not allowed.
    """
    if weights is None:
        return float(values.mean())
    weights_B = checked_weights(weights, len(values))
    return float((weights_B * values).sum() / weights_B.sum())


def checked_scores(probs: ArrayLike) -> np.ndarray:
    """Give one row of scores an image as float64 (B, C).

    Raises:
        DataError: unless it is a matrix of numbers with at least one row and column, none NaN.
    """
    probs_BC = np.asarray(probs)
    if probs_BC.ndim != 2 or probs_BC.size == 0:
        raise DataError(f"probs of shape {probs_BC.shape}. Allowed: (images, classes), at least one of each")
    if probs_BC.dtype.kind not in "iuf":
        raise DataError(f"probs of {probs_BC.dtype}. Allowed: numbers")
    probs_BC = probs_BC.astype(np.float64)
    nan_B = np.isnan(probs_BC).any(axis=1)
    if nan_B.any():
        raise DataError(f"probs: {nan_B.sum()} of {len(probs_BC)} rows hold NaN, the first is row {np.argmax(nan_B)}")
    return probs_BC


def checked_classes(what: str, values: ArrayLike, num_classes: int, *, no_answer: bool = False) -> np.ndarray:
    """Give one class an image as int64 (B,); `no_answer`: it may be `NO_ANSWER`.

    Raises:
        DataError: unless there is at least one, of an integer type, and all from 0 to C - 1.
    """
    values_B = np.asarray(values)
    if values_B.ndim != 1 or values_B.size == 0:
        raise DataError(f"{what} of shape {values_B.shape}. Allowed: one class an image, at least one image")
    if values_B.dtype.kind not in "iu":
        raise DataError(f"{what} of {values_B.dtype}. Allowed: whole numbers of an integer type")
    wrong_B = (values_B < (NO_ANSWER if no_answer else 0)) | (values_B >= num_classes)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        allowed = f"classes from 0 to {num_classes - 1}" + (f", {NO_ANSWER} for no answer" if no_answer else "")
        raise DataError(f"{what}[{row}] is {values_B[row]}. Allowed: {allowed}")
    return values_B.astype(np.int64)


def checked_weights(weights: ArrayLike | None, num_rows: int) -> np.ndarray:
    """Give one weight an image as float64 (B,); ones for None.

    Raises:
        DataError: unless there is one weight an image, all finite and at least 0, not all of them 0.
    """
    if weights is None:
        return np.ones(num_rows)
    weights_B = np.asarray(weights)
    if weights_B.shape != (num_rows,) or weights_B.dtype.kind not in "biuf":
        raise DataError(
            f"weights of shape {weights_B.shape} and {weights_B.dtype}. Allowed: a number for each of {num_rows} images"
        )
    weights_B = weights_B.astype(np.float64)
    wrong_B = ~np.isfinite(weights_B) | (weights_B < 0)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise DataError(f"weights[{row}] is {weights_B[row]}. Allowed: finite numbers of at least 0")
    if not weights_B.any():
        raise DataError("all weights are 0. Allowed: at least one above")
    return weights_B


def checked_length(what: str, length: int, target_length: int) -> None:
    """Refuse predictions for another number of images than the target has.

    Raises:
        DataError: if the lengths differ.
    """
    if length != target_length:
        raise DataError(f"{what} of {length} images, target of {target_length}")


def _counts(preds: ArrayLike, target: ArrayLike, num_classes: int, weights: ArrayLike | None) -> np.ndarray:
    """Count images by true class (row) and answer (column; the first is no answer at all), (C, A)."""
    if num_classes < 1:
        raise DataError(f"num_classes must be at least 1, not {num_classes}")
    preds_B = checked_classes("preds", preds, num_classes, no_answer=True)
    target_B = checked_classes("target", target, num_classes)
    checked_length("preds", len(preds_B), len(target_B))
    num_answers = num_classes + 1
    place_B = target_B * num_answers + (preds_B - NO_ANSWER)
    weights_B = None if weights is None else checked_weights(weights, len(target_B))
    return np.bincount(place_B, weights_B, minlength=num_classes * num_answers).reshape(num_classes, num_answers)


def _hits(counts_CA: np.ndarray) -> np.ndarray:
    return np.diagonal(counts_CA, offset=1)


def _support(counts_CA: np.ndarray) -> np.ndarray:
    return counts_CA.sum(axis=1)


def _precision(counts_CA: np.ndarray) -> np.ndarray:
    predicted_C = counts_CA[:, 1:].sum(axis=0)
    precision_C = _ratio(_hits(counts_CA), predicted_C, absent=0.0)
    precision_C[predicted_C + _support(counts_CA) == 0] = np.nan
    return precision_C


def _f1(counts_CA: np.ndarray) -> np.ndarray:
    return _ratio(2 * _hits(counts_CA), counts_CA[:, 1:].sum(axis=0) + _support(counts_CA), absent=np.nan)


def _by_support(score_C: np.ndarray, counts_CA: np.ndarray) -> float:
    support_C = _support(counts_CA)
    present_C = support_C > 0
    return float(np.average(score_C[present_C], weights=support_C[present_C]))


def _ratio(part_C: np.ndarray, whole_C: np.ndarray, *, absent: float) -> np.ndarray:
    return np.divide(part_C, whole_C, out=np.full(len(whole_C), absent), where=whole_C > 0)
