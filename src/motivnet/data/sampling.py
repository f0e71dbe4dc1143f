"""Which rows an epoch sees, and how much each counts: the one place that answers for unequal classes.

Shape suffixes: B rows, C classes, N rows that were drawn.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from motivnet.errors import ConfigError, DataError
from motivnet.labels import LabelSet

SamplingKind = Literal["natural", "uniform", "balanced", "class-weighted", "effective-number"]
# Those that leave the rows alone and weigh the loss instead.
WEIGHTED_KINDS = ("class-weighted", "effective-number")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """What is done about classes of unequal size.

    A weighted loss, a balanced sampler and `loss.prior_weight` are three answers to one question: take one of them.

    Args:
        kind: `natural` takes the rows as they are; `uniform` takes equally many of every class, drawn once without
            replacement (MotivNet's own, arXiv 2512.24231: 3,803 of each in AffectNet); `balanced` draws as many rows
            as there are anew for each epoch, with replacement, every class equally often; `class-weighted` weighs
            the loss of a class by n / (C n_c); `effective-number` by (1 - beta) / (1 - beta^n_c).
        per_class: rows of each class, of `uniform` only; None takes the size of the smallest.
        beta: of `effective-number`: 0 weighs all classes alike, towards 1 they are weighed by 1 / n_c.
        seed: of the draw.
    """

    kind: SamplingKind = "natural"
    per_class: int | None = None
    beta: float = 0.9999
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a value out of range, or `per_class` where it has no meaning.
        """
        if self.kind not in get_args(SamplingKind):
            raise ConfigError(f"sampling: kind {self.kind!r}. Allowed: {', '.join(get_args(SamplingKind))}")
        if self.per_class is not None and self.kind != "uniform":
            raise ConfigError(f"sampling: per_class belongs to kind 'uniform', not to {self.kind!r}")
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"sampling: per_class must be at least 1, not {self.per_class}")
        if not 0 <= self.beta < 1:
            raise ConfigError(f"sampling: beta must be from 0 to below 1, not {self.beta}")
        if self.seed < 0:
            raise ConfigError(f"sampling: seed must not be negative, found {self.seed}")


def uniform_rows(target_B: np.ndarray, labels: LabelSet, *, per_class: int | None = None, seed: int = 0) -> np.ndarray:
    """Draw equally many rows of every class, without replacement.

    The draw is the same on every platform and with every version of numpy, and a smaller one of the same seed is part
    of a larger one.

    Args:
        target_B: label indices.
        labels: what they mean; every one of them is drawn.
        per_class: how many of each; None takes the size of the smallest class.
        seed: of the draw.

    Returns:
        Row positions in ascending order, int64 (N,).

    Raises:
        DataError: naming the class that has too few rows.
    """
    counts_C = class_counts(target_B, labels)
    smallest = int(counts_C.argmin())
    wanted = int(counts_C[smallest]) if per_class is None else per_class
    if counts_C[smallest] < max(wanted, 1):
        raise DataError(
            f"{labels.names[smallest]} has {counts_C[smallest]} rows, {wanted or 'some'} of each class are wanted"
        )
    keys_B = _raw(len(target_B), seed)
    drawn = [_first_by(keys_B, np.flatnonzero(target_B == label), wanted) for label in range(len(labels))]
    return np.sort(np.concatenate(drawn))


def balanced_rows(target_B: np.ndarray, labels: LabelSet, *, seed: int, epoch: int) -> np.ndarray:
    """Draw as many rows as there are, with replacement, every class with the same probability.

    Args:
        target_B: label indices.
        labels: what they mean.
        seed: of the run.
        epoch: its number; the draw depends on it and the seed alone.

    Returns:
        Row positions in the order of the draw, int64 (B,).

    Raises:
        DataError: naming a class without rows.
    """
    until_B = np.cumsum(row_weights(target_B, labels))
    # 53 random bits are the fraction of a double from 0 to below 1.
    places = (_raw(len(target_B), seed, epoch) >> np.uint64(11)) * 2.0**-53
    rows = np.searchsorted(until_B, places * until_B[-1], side="right")
    return np.minimum(rows, len(target_B) - 1).astype(np.int64)


def row_weights(target_B: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Give the probability of each row under a class-balanced sampler, 1 / (C n_c): float64 (B,), summing to 1.

    Raises:
        DataError: naming a class without rows.
    """
    counts_C = _all_present(target_B, labels)
    return 1.0 / (len(labels) * counts_C[target_B])


def class_weights(target_B: np.ndarray, labels: LabelSet, sampling: SamplingConfig) -> np.ndarray | None:
    """Weigh classes for the loss.

    `class-weighted`: n / (C n_c), whose mean over the rows is 1. `effective-number`: in proportion to
    (1 - beta) / (1 - beta^n_c), summing to C (Cui et al., arXiv 1901.05555, equation 2 and section 4.1).

    Args:
        target_B: label indices.
        labels: what they mean.
        sampling: its kind and beta.

    Returns:
        float64 (C,), or None for the kinds that do not weigh the loss.

    Raises:
        DataError: naming a class without rows.
    """
    if sampling.kind not in WEIGHTED_KINDS:
        return None
    counts_C = _all_present(target_B, labels)
    if sampling.kind == "class-weighted":
        return len(target_B) / (len(labels) * counts_C)
    if sampling.beta == 0:
        return np.ones(len(labels))
    # 1 - beta^n, without the cancellation that a beta near 1 would suffer.
    weights_C = (1 - sampling.beta) / -np.expm1(counts_C * np.log(sampling.beta))
    return weights_C * len(labels) / weights_C.sum()


def class_counts(target_B: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Count the rows of each class: int64 (C,)."""
    return np.bincount(target_B, minlength=len(labels))


def _all_present(target_B: np.ndarray, labels: LabelSet) -> np.ndarray:
    counts_C = class_counts(target_B, labels)
    if not counts_C.all():
        missing = ", ".join(name for name, count in zip(labels, counts_C, strict=True) if not count)
        raise DataError(f"no rows of {missing}: classes without rows can be neither weighed nor drawn")
    return counts_C


def _raw(count: int, *seeds: int) -> np.ndarray:
    """Give random 64-bit numbers: the raw stream of a bit generator, the one of numpy's that never changes."""
    return np.random.PCG64(list(seeds)).random_raw(count)


def _first_by(keys_B: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.argsort(keys_B[rows], kind="stable")[:count]]
