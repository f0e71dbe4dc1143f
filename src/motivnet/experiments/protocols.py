"""What makes two figures comparable: which data a model has seen, and which subjects a fold holds.

Shape suffixes: B images, K folds, C classes.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError


class Setting(enum.StrEnum):
    """What a model may have seen of a data set before it is scored on it."""

    ZERO_SHOT = "zero-shot"
    OWN_DOMAIN = "own domain"
    ADAPTED = "domain adaptation"
    UNSTATED = "training data not stated"


# The usual name of each data set, by the kind under which it is read.
NAMES: Mapping[str, str] = {
    "affectnet": "AffectNet",
    "ckplus": "CK+",
    "emotionet": "EmotioNet",
    "expw": "ExpW",
    "fer2013": "FER-2013",
    "jaffe": "JAFFE",
    "rafdb": "RAF-DB",
    "sfew": "SFEW 2.0",
}

# Names for the same photographs, in letters and digits alone: FERPlus is FER-2013 with other labels.
SAME_IMAGES: Mapping[str, str] = {
    "affectnet7": "affectnet",
    "affectnet8": "affectnet",
    "ck+": "ckplus",
    "ck": "ckplus",
    "fer+": "fer2013",
    "ferplus": "fer2013",
    "sfew20": "sfew",
}


def domain(name: str) -> str:
    """Give the photographs that a data set consists of, whatever its labels: one name for all who share them."""
    key = re.sub(r"[^a-z0-9+]", "", name.lower())
    return SAME_IMAGES.get(key, key)


def training_domains(provenance: Mapping[str, Any]) -> frozenset[str] | None:
    """Read from a bundle's provenance what its model was trained on, the models that it began from included.

    `trained_on` names data sets. Without it, the `source` of `data` counts, `kind:file`, if its kind is a data set's or
    its file or folder is named as one is.

    Returns:
        Domains; None if the provenance does not tell.
    """
    stated = provenance.get("trained_on")
    if stated is not None:
        found = frozenset(domain(str(name)) for name in ([stated] if isinstance(stated, str) else stated))
    else:
        data = provenance.get("data", "")
        kind, _, file = str(data.get("source", "") if isinstance(data, Mapping) else data).rpartition(":")
        named = [domain(kind), domain(PurePath(file.partition("?")[0]).stem)]
        found = frozenset(name for name in named if name in NAMES)
        if not found:
            return None
    before = provenance.get("init")
    if not isinstance(before, Mapping):
        return found
    earlier = training_domains(before.get("provenance") or {})
    return None if earlier is None else found | earlier


def setting_of(trained_on: frozenset[str] | None, data_set: str) -> Setting:
    """Say what scoring a model on a data set shows.

    Args:
        trained_on: domains; None if unknown.
        data_set: its name.
    """
    if trained_on is None:
        return Setting.UNSTATED
    return Setting.OWN_DOMAIN if domain(data_set) in trained_on else Setting.ZERO_SHOT


def caution(provenance: Mapping[str, Any], split: str | None) -> str | None:
    """Say why a score on the model's own data set is better than on faces that had no part in making it.

    Args:
        provenance: of the model's bundle.
        split: that is scored; None for all of them.

    Returns:
        The reason; None if the split had no part as far as the provenance tells.
    """
    recipe, selected = provenance.get("recipe"), provenance.get("selected")
    splits = recipe.get("split") if isinstance(recipe, Mapping) else None
    trained = splits.get("train") if isinstance(splits, Mapping) else None
    if split is None:
        return "no test: all splits, so what it was trained on is among them"
    if split == trained:
        return "no test: trained on this very split"
    if isinstance(selected, Mapping) and split == selected.get("split"):
        return "optimistic: selected on the split it reports"
    return None


def leave_one_out(data_sets: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Plan training on all data sets but one, and testing on that one.

    Data sets of the same photographs leave together: who trains on FERPlus has seen FER-2013.

    Returns:
        (names to train on, name to test on), one for each data set, in the given order. What leaves nothing to train
        on is left out.
    """
    names = list(dict.fromkeys(data_sets))
    plan = [(tuple(name for name in names if domain(name) != domain(test)), test) for test in names]
    return [(train, test) for train, test in plan if train]


def subject_folds(subjects: Sequence[str], target: ArrayLike, num_folds: int = 10) -> np.ndarray:
    """Part images into folds that share no subject, with labels spread over them as evenly as subjects allow.

    Subjects are dealt out one by one, those of the most images first, each to the fold that leaves the counts of each
    label most even. No chance is involved: the same data give the same folds.

    Args:
        subjects: who is shown on each image (B,).
        target: label of each image, whole numbers from 0 (B,).
        num_folds: K, from 2 to the number of subjects.

    Returns:
        Fold of each image, int64 (B,), from 0 to K - 1; none is empty.

    Raises:
        DataError: if an image has no subject, lengths differ, or there are fewer subjects than folds.
    """
    number_B, num_subjects = _number(subjects)
    target_B = np.asarray(target)
    if len(target_B) != len(number_B):
        raise DataError(f"{len(number_B)} subjects of images, {len(target_B)} labels")
    if not 2 <= num_folds <= num_subjects:
        raise DataError(f"{num_folds} folds of {num_subjects} subjects. Allowed: from 2 to the number of subjects")
    counts_SC = np.zeros((num_subjects, int(target_B.max()) + 1))
    np.add.at(counts_SC, (number_B, target_B), 1)
    shares_SC = counts_SC / np.maximum(counts_SC.sum(axis=0), 1)
    fold_S = np.zeros(num_subjects, dtype=np.int64)
    held_KC = np.zeros((num_folds, counts_SC.shape[1]))
    images_K = np.zeros(num_folds)
    # `number_B` follows the subjects' names, so a stable sort breaks ties by name.
    for dealt, subject in enumerate(np.argsort(-counts_SC.sum(axis=1), kind="stable")):
        # The change of the sum of squares, which is least where this subject's labels are rarest so far.
        cost_K = held_KC @ shares_SC[subject]
        empty_K = images_K == 0
        if empty_K.sum() >= num_subjects - dealt:
            cost_K = np.where(empty_K, cost_K, np.inf)
        chosen = np.lexsort((images_K, np.round(cost_K, 12)))[0]
        fold_S[subject] = chosen
        held_KC[chosen] += shares_SC[subject]
        images_K[chosen] += counts_SC[subject].sum()
    return fold_S[number_B]


def leave_one_subject_out(subjects: Sequence[str]) -> np.ndarray:
    """Give every subject a fold, in the order of their names: int64 (B,).

    Raises:
        DataError: if an image has no subject, or all show the same one.
    """
    number_B, num_subjects = _number(subjects)
    if num_subjects < 2:
        raise DataError("leaving one subject out needs at least 2 subjects, found 1")
    return number_B


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A score over folds.

    Args:
        mean: of the folds, each counting the same.
        std: sample standard deviation over the folds.
        folds: score of each, in order.
    """

    mean: float
    std: float
    folds: tuple[float, ...]


def spread(scores: Sequence[float]) -> Spread:
    """Sum up the scores of at least two folds."""
    return Spread(float(np.mean(scores)), float(np.std(scores, ddof=1)), tuple(map(float, scores)))


def _number(subjects: Sequence[str]) -> tuple[np.ndarray, int]:
    """Number subjects from 0 in the order of their names."""
    missing = [row for row, subject in enumerate(subjects) if subject is None]
    if missing or not len(subjects):
        where = f"row {missing[0]} has none" if missing else "there are no images"
        raise DataError(f"folds by subject need the subject of every image: {where}")
    names, number_B = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    return number_B.astype(np.int64), len(names)
