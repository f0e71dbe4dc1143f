"""Scores of a classifier, as pure functions of numpy arrays; all are fractions from 0 to 1.

Shape suffixes: B images, C classes.
"""

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError


def confusion_matrix(preds: ArrayLike, target: ArrayLike, num_classes: int) -> np.ndarray:
    """Count how often each class was taken for each.

    Args:
        preds: predicted class of each image, whole numbers (B,) from 0 to C - 1.
        target: true class of each image, likewise.
        num_classes: C.

    Returns:
        int64 (C, C): row is the true class, column the predicted one.

    Raises:
        DataError: if there are no images, lengths differ, or a class is out of range.
    """
    if num_classes < 1:
        raise DataError(f"num_classes must be at least 1, not {num_classes}")
    preds_B = _classes("preds", preds, num_classes)
    target_B = _classes("target", target, num_classes)
    _same_length("preds", len(preds_B), len(target_B))
    counts = np.bincount(target_B * num_classes + preds_B, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def war(preds: ArrayLike, target: ArrayLike, num_classes: int) -> float:
    """Share of images classified rightly: accuracy, also called weighted average recall.

    Args and errors are those of `confusion_matrix`.
    """
    matrix_CC = confusion_matrix(preds, target, num_classes)
    return float(np.trace(matrix_CC) / matrix_CC.sum())


def uar(preds: ArrayLike, target: ArrayLike, num_classes: int) -> float:
    """Mean recall of the classes present in `target`: balanced accuracy, or unweighted average recall.

    Args and errors are those of `confusion_matrix`.
    """
    return float(np.nanmean(recall_per_class(preds, target, num_classes)))


def recall_per_class(preds: ArrayLike, target: ArrayLike, num_classes: int) -> np.ndarray:
    """Share of each class's images that were recognised, float64 (C,); NaN for a class absent from `target`.

    Args and errors are those of `confusion_matrix`.
    """
    matrix_CC = confusion_matrix(preds, target, num_classes)
    return _ratio(np.diagonal(matrix_CC), matrix_CC.sum(axis=1), absent=np.nan)


def precision_macro(preds: ArrayLike, target: ArrayLike, num_classes: int) -> float:
    """Mean precision of the classes present in `target` or `preds`; 0 for one that was never predicted.

    Args and errors are those of `confusion_matrix`.
    """
    matrix_CC = confusion_matrix(preds, target, num_classes)
    precision_C = _ratio(np.diagonal(matrix_CC), matrix_CC.sum(axis=0), absent=0.0)
    return float(precision_C[_occurring(matrix_CC)].mean())


def f1_macro(preds: ArrayLike, target: ArrayLike, num_classes: int) -> float:
    """Mean F1, the harmonic mean of precision and recall, of the classes present in `target` or `preds`.

    Args and errors are those of `confusion_matrix`.
    """
    matrix_CC = confusion_matrix(preds, target, num_classes)
    f1_C = _ratio(2 * np.diagonal(matrix_CC), matrix_CC.sum(axis=0) + matrix_CC.sum(axis=1), absent=0.0)
    return float(f1_C[_occurring(matrix_CC)].mean())


def top_k_accuracy(probs: ArrayLike, target: ArrayLike, k: int) -> float:
    """Share of images whose true class is among the `k` most probable.

    Of equal values the lower class counts as the more probable, as `argmax` has it, so that k=1 is `war` of the argmax.

    Args:
        probs: probabilities, logits or any other scores, (B, C).
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        k: from 1 to C.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a score is NaN.
    """
    probs_BC = np.asarray(probs)
    if probs_BC.ndim != 2 or probs_BC.size == 0:
        raise DataError(f"probs of shape {probs_BC.shape}. Allowed: (images, classes), at least one of each")
    if not (np.issubdtype(probs_BC.dtype, np.floating) or np.issubdtype(probs_BC.dtype, np.integer)):
        raise DataError(f"probs of {probs_BC.dtype}. Allowed: numbers")
    # Signed and wide, so that turning the order round below loses nothing.
    probs_BC = probs_BC.astype(np.float64)
    if np.isnan(probs_BC).any():
        raise DataError(f"probs: {int(np.isnan(probs_BC).any(axis=1).sum())} of {len(probs_BC)} rows hold NaN")
    num_classes = probs_BC.shape[1]
    target_B = _classes("target", target, num_classes)
    _same_length("probs", len(probs_BC), len(target_B))
    if not 1 <= k <= num_classes:
        raise DataError(f"k must be from 1 to the {num_classes} classes, not {k}")
    order_BC = np.argsort(-probs_BC, axis=1, kind="stable")
    return float((order_BC[:, :k] == target_B[:, None]).any(axis=1).mean())


def _classes(what: str, values: ArrayLike, num_classes: int) -> np.ndarray:
    values_B = np.asarray(values)
    if values_B.ndim != 1 or values_B.size == 0:
        raise DataError(f"{what} of shape {values_B.shape}. Allowed: one class an image, at least one image")
    if not np.issubdtype(values_B.dtype, np.integer):
        raise DataError(f"{what} of {values_B.dtype}. Allowed: whole numbers of an integer type")
    wrong_B = (values_B < 0) | (values_B >= num_classes)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise DataError(f"{what}[{row}] is {values_B[row]}. Allowed: classes from 0 to {num_classes - 1}")
    return values_B.astype(np.int64)


def _same_length(what: str, length: int, target_length: int) -> None:
    if length != target_length:
        raise DataError(f"{what} of {length} images, target of {target_length}")


def _occurring(matrix_CC: np.ndarray) -> np.ndarray:
    return (matrix_CC.sum(axis=0) + matrix_CC.sum(axis=1)) > 0


def _ratio(part_C: np.ndarray, whole_C: np.ndarray, *, absent: float) -> np.ndarray:
    return np.divide(part_C, whole_C, out=np.full(len(whole_C), absent), where=whole_C > 0)
