"""Which rows a run learns from, and which its best epoch is chosen on. All of it is checked before anything is written.

Shape suffixes: C classes.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motivnet.data.clean import fit_for_training, picture_keys
from motivnet.data.manifest import Manifest
from motivnet.data.sampling import class_counts, class_weights, uniform_rows
from motivnet.errors import ConfigError, DataError
from motivnet.labels import AFFECT, EMOTIONS
from motivnet.training.losses import class_log_prior
from motivnet.training.settings import Recipe, SplitConfig


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a run.

    Args:
        train: what is learnt from, in each epoch (the balanced sampler draws from them).
        select: what the best epoch is chosen on; shares no image with `train`, and no person where persons are known.
        report: how many there were, and how many were left out, by reason.
        log_prior_C: log frequency of each class as the model will see it, float32 (C,).
        class_weights_C: how much each class counts in the loss, float32 (C,); None: all alike.
    """

    train: Manifest
    select: Manifest
    report: dict[str, Any]
    log_prior_C: Tensor
    class_weights_C: Tensor | None


def choose_rows(recipe: Recipe, manifest: Manifest) -> Rows:
    """Clean the training split, hold rows out where the recipe says so, and sample.

    Args:
        recipe: its `split` and `sampling`.
        manifest: labelled images; labels that the model does not know are left out and counted.

    Raises:
        ConfigError: if the model has another number of classes than there are emotions.
        DataError: naming a split that is not there, a class without rows, an image that is missing, or valence or
            arousal that the model is to learn and no row has.
    """
    if recipe.model.num_classes != len(EMOTIONS):
        raise ConfigError(f"model.num_classes {recipe.model.num_classes}. Allowed in training: {len(EMOTIONS)}")
    manifest, split = manifest.restrict(EMOTIONS), recipe.split
    for name in filter(None, (split.train, split.select)):
        manifest.split(name)  # says so if there is none
    keys, blank = picture_keys(manifest)
    keep, cleaned = fit_for_training(manifest, split.train, keys, blank)
    train = manifest.select(keep)
    report: dict[str, Any] = dataclasses.asdict(cleaned) | {"left_out": dict(manifest.dropped)}
    if split.select is None:
        held = hold_out(train, keys[keep], split)
        train, select = train.select(~held), train.select(held)
    else:
        select = manifest.split(split.select)
    for rows, name in ((train, split.train), (select, split.select or f"the share of {split.train} held out")):
        _refuse_empty(rows, name)
    if recipe.model.affect:
        _refuse_without_affect(train)
    sampling = recipe.sampling
    if sampling.kind == "uniform":
        train = train.select(
            uniform_rows(train.targets, train.labels, per_class=sampling.per_class, seed=sampling.seed)
        )
    # The balanced sampler shows every class equally often.
    seen = np.arange(len(EMOTIONS)) if sampling.kind == "balanced" else train.targets
    weights_C = class_weights(train.targets, train.labels, sampling)
    return Rows(
        train,
        select,
        report | {"selection": len(select), "sampled": len(train)},
        class_log_prior(torch.from_numpy(seen), len(EMOTIONS)),
        None if weights_C is None else torch.from_numpy(weights_C).float(),
    )


def hold_out(manifest: Manifest, keys: np.ndarray, split: SplitConfig) -> np.ndarray:
    """Mark the rows that the best epoch is to be chosen on: a share of each class, people and copies kept together.

    People, or pictures of nobody known, are taken in random order as long as no class exceeds its share; then, for a
    class that has none yet, the smallest that shows it.

    Args:
        manifest: of one split.
        keys: of each row's picture; equal keys are copies of one.
        split: `hold_out` and `seed`.

    Returns:
        bool (rows,).

    Raises:
        DataError: naming a class that is all of one person or picture, and cannot be on both sides.
    """
    targets, num_classes = manifest.targets, len(manifest.labels)
    group_B = _together(manifest.table["subject"].to_pylist(), keys.tolist())
    counts_GC = np.zeros((int(group_B.max(initial=-1)) + 1, num_classes), np.int64)
    np.add.at(counts_GC, (group_B, targets), 1)
    total_C = counts_GC.sum(0)
    wanted_C = np.maximum(1, np.rint(split.hold_out * total_C)).astype(np.int64)
    held_C, held_G = np.zeros(num_classes, np.int64), np.zeros(len(counts_GC), np.bool_)
    # The raw stream of a bit generator is the same with every version of numpy.
    order = np.argsort(np.random.PCG64(split.seed).random_raw(len(counts_GC)), kind="stable")
    for group in order:
        if (held_C + counts_GC[group] <= wanted_C).all():
            held_G[group] = True
            held_C += counts_GC[group]
    sizes_G = counts_GC.sum(1)
    for label in np.flatnonzero(held_C == 0):
        showing = order[(counts_GC[order, label] > 0)]
        if len(showing) and not held_G[showing].any():
            held_G[showing[np.argmin(sizes_G[showing])]] = True
    left_C = total_C - counts_GC[held_G].sum(0)
    for label, name in enumerate(manifest.labels):
        if total_C[label] and not left_C[label]:
            raise DataError(
                f"split {split.train!r}: all of {name} is of one person or picture, which cannot be both learnt from "
                "and selected on. Allowed: another split as split.select"
            )
    return held_G[group_B]


def _together(*columns: list[Any]) -> np.ndarray:
    """Number rows so that those with an equal value in any column have the same number, None being equal to nothing."""
    parent: list[int] = list(range(len(columns[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in columns:
        first: dict[Any, int] = {}
        for row, value in enumerate(column):
            if value is not None:
                parent[root(row)] = root(first.setdefault(value, row))
    roots = np.array([root(row) for row in range(len(parent))], np.int64)
    return np.unique(roots, return_inverse=True)[1]


def _refuse_without_affect(train: Manifest) -> None:
    missing = [name for name, values_B in zip(AFFECT, train.affect.T, strict=True) if np.isnan(values_B).all()]
    if missing:
        raise DataError(
            f"no training row has {' or '.join(missing)}, and the model would give numbers that it never learnt. "
            "Allowed: --set model.affect=false, or data with both"
        )


def _refuse_empty(rows: Manifest, name: str) -> None:
    counts_C = class_counts(rows.targets, rows.labels)
    missing = [label for label, count in zip(rows.labels, counts_C, strict=True) if not count]
    if missing:
        raise DataError(f"no rows of {', '.join(missing)} in {name}, after cleaning. A run needs some of every class")
