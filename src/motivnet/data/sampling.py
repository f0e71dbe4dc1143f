"""Sampling of rows and weights of classes, for data sets with imbalanced classes.

Shape suffixes: B rows, C classes, N rows that were drawn.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from motivnet.config import bounded, check_bounds
from motivnet.errors import ConfigError, DataError
from motivnet.labels import LabelSet

SamplingKind = Literal["natural", "uniform", "balanced", "class-weighted", "effective-number"]
# These keep all rows and weight the loss.
WEIGHTED_KINDS = ("class-weighted", "effective-number")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How imbalanced classes are handled.

    A weighted loss, a balanced sampler and `loss.prior_weight` are alternatives: use one of them.

    Args:
        kind: `natural` uses the rows as they are; `uniform` uses the same number of every class, drawn once without
            replacement (MotivNet's own, arXiv 2512.24231: 3,803 of each in AffectNet); `balanced` draws as many rows as
            there are for each epoch, with replacement, every class equally often; `class-weighted` weights the loss of
            a class by n / (C n_c); `effective-number` by (1 - beta) / (1 - beta^n_c).
        per_class: for `uniform`: rows per class; None: the size of the smallest class.
        beta: for `effective-number`: 0 weights all classes equally; as it approaches 1, weights approach 1 / n_c.
        seed: random seed of `uniform` and `balanced`.
    """

    kind: SamplingKind = "natural"
    per_class: int | None = bounded(default=None, low=1)
    beta: float = bounded(default=0.9999, low=0, below=1)
    seed: int = bounded(default=0, low=0)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: if a value is out of range, or `per_class` is set for another kind than `uniform`.
        """
        if self.kind not in get_args(SamplingKind):
            raise ConfigError(f"sampling: kind {self.kind!r}. Allowed: {', '.join(get_args(SamplingKind))}")
        if self.per_class is not None and self.kind != "uniform":
            raise ConfigError(f"sampling: per_class belongs to kind 'uniform', not to {self.kind!r}")
        check_bounds(self)


def uniform_rows(target_B: np.ndarray, labels: LabelSet, *, per_class: int | None = None, seed: int = 0) -> np.ndarray:
    """Draw the same number of rows of every class, without replacement.

    The sample is the same on every platform and with every version of numpy, and a smaller sample is a subset of a
    larger one with the same seed.

    Args:
        target_B: label indices.
        labels: the classes, all of which are drawn.
        per_class: rows per class; None: the size of the smallest class.
        seed: random seed.

    Returns:
        Row positions in ascending order, int64 (N,).

    Raises:
        DataError: if a class has too few rows.
    """
    counts_C = class_counts(target_B, labels)
    smallest = int(counts_C.argmin())
    wanted = int(counts_C[smallest]) if per_class is None else per_class
    if counts_C[smallest] < max(wanted, 1):
        needed = f"{wanted or 'some'} of each class are needed"
        raise DataError(f"{labels.names[smallest]} has {counts_C[smallest]} rows, {needed}")
    shuffled_B = np.argsort(_raw(len(target_B), seed), kind="stable")
    drawn = [shuffled_B[target_B[shuffled_B] == label][:wanted] for label in range(len(labels))]
    return np.sort(np.concatenate(drawn))


def balanced_rows(target_B: np.ndarray, labels: LabelSet, *, seed: int, epoch: int) -> np.ndarray:
    """Draw as many rows as there are, with replacement, every class with the same probability.

    Args:
        target_B: label indices.
        labels: the classes.
        seed: random seed.
        epoch: number of the epoch; the sample depends on it and the seed only.

    Returns:
        Row positions in the order in which they were drawn, int64 (B,).

    Raises:
        DataError: if a class has no rows.
    """
    until_B = np.cumsum(1.0 / (len(labels) * _all_present(target_B, labels)[target_B]))
    # 53 random bits make a double from 0 to below 1.
    places = (_raw(len(target_B), seed, epoch) >> np.uint64(11)) * 2.0**-53
    rows = np.searchsorted(until_B, places * until_B[-1], side="right")
    return np.minimum(rows, len(target_B) - 1).astype(np.int64)


def class_weights(target_B: np.ndarray, labels: LabelSet, sampling: SamplingConfig) -> np.ndarray | None:
    """Return the weights of the classes in the loss.

    `class-weighted`: n / (C n_c), whose mean over the rows is 1. `effective-number`: proportional to
    (1 - beta) / (1 - beta^n_c), summing to C (Cui et al., arXiv 1901.05555, equation 2 and section 4.1).

    Args:
        target_B: label indices.
        labels: the classes.
        sampling: its kind and beta are used.

    Returns:
        float64 (C,), or None if the kind does not weight the loss.

    Raises:
        DataError: if a class has no rows.
    """
    if sampling.kind not in WEIGHTED_KINDS:
        return None
    counts_C = _all_present(target_B, labels)
    if sampling.kind == "class-weighted":
        return len(target_B) / (len(labels) * counts_C)
    if sampling.beta == 0:
        return np.ones(len(labels))
    # 1 - beta^n, without cancellation for a beta near 1.
    weights_C = (1 - sampling.beta) / -np.expm1(counts_C * np.log(sampling.beta))
    return weights_C * len(labels) / weights_C.sum()


def fold_of(subjects: Sequence[str | None], keys: Sequence[str], folds: int) -> np.ndarray:
    """Return the part of each row among `folds`, by a hash of its subject, or of its picture if nobody is named.

    It depends on nothing but the row itself: any later command finds which rows a model was not trained on.

    Args:
        subjects: person shown in each row, or None.
        keys: of each row's picture, as of `picture_keys`; equal keys are copies.
        folds: number of parts.

    Returns:
        From 0 to below `folds`, int64 (B,).
    """
    names = [key if subject is None else subject for subject, key in zip(subjects, keys, strict=True)]
    hashes = [hashlib.sha1(name.encode(), usedforsecurity=False).digest() for name in names]
    return np.array([int.from_bytes(digest[:4], "big") % folds for digest in hashes], np.int64)


def class_counts(target_B: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Return the number of rows of each class, int64 (C,)."""
    return np.bincount(target_B, minlength=len(labels))


def _all_present(target_B: np.ndarray, labels: LabelSet) -> np.ndarray:
    counts_C = class_counts(target_B, labels)
    if not counts_C.all():
        missing = ", ".join(name for name, count in zip(labels, counts_C, strict=True) if not count)
        raise DataError(f"no rows of {missing}: classes without rows can be neither weighted nor sampled")
    return counts_C


def _raw(count: int, *seeds: int) -> np.ndarray:
    """Return random 64-bit numbers: the raw stream of a bit generator is the same in every version of numpy."""
    return np.random.PCG64(list(seeds)).random_raw(count)
