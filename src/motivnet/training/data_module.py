"""The rows that a run trains on and those that select its best epoch, and the loaders of both.

Shape suffixes: C classes, G groups of rows that must stay together.
"""

import dataclasses
import sys
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from motivnet.data.clean import fit_for_training, picture_keys, some_pictures
from motivnet.data.inspect import decode_images
from motivnet.data.loader import FaceDataset, make_loader
from motivnet.data.manifest import Manifest
from motivnet.data.sampling import class_counts, class_weights, fold_of, uniform_rows
from motivnet.errors import DataError, for_terminal, require
from motivnet.labels import AFFECT
from motivnet.machine import usable_cores
from motivnet.training.losses import class_log_prior
from motivnet.training.settings import Recipe, SplitConfig


@dataclasses.dataclass(frozen=True)
class Splits:
    """The images of a run.

    Args:
        train: rows to train on.
        select: rows that select the best epoch; they share no image with `train`, and no known person.
        report: number of rows, and of those left out by reason.
    """

    train: Manifest
    select: Manifest
    report: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rows(Splits):
    """The labelled rows of a run; a balanced sampler draws from `train`.

    Args:
        log_prior_C: log frequency of each class as the model sees it, float32 (C,).
        class_weights_C: weight of each class in the loss, float32 (C,); None weights all alike.
    """

    log_prior_C: Tensor
    class_weights_C: Tensor | None


class FaceData(lightning.LightningDataModule):
    """The loaders of a run, made once the process knows its rank."""

    def __init__(
        self, recipe: Any, splits: Splits, *, sampler: Sampler[int] | None = None, select_batch_size: int | None = None
    ) -> None:
        """Set rows and batches.

        Args:
            recipe: of training or pre-training.
            splits: rows to train and select on.
            sampler: of each epoch's training rows; None shuffles all of them.
            select_batch_size: batch size of validation; None takes the run's.
        """
        super().__init__()
        self._recipe, self._run, self._splits = recipe, recipe.run, splits
        self._sampler, self._select_batch_size = sampler, select_batch_size or recipe.run.batch_size

    def check(self, world_size: int) -> None:
        """Refuse too few rows for that many processes, before these are started; DataError."""
        self._train_loader(0, world_size)
        self._select_loader(0, world_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches."""
        assert self.trainer
        return self._train_loader(self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the batches of validation."""
        assert self.trainer
        return self._select_loader(self.trainer.global_rank, self.trainer.world_size)

    def _train_loader(self, rank: int, world_size: int) -> DataLoader[Any]:
        batches = {"batch_size": self._run.batch_size, "accumulate": self._run.accumulate}
        order = {"shuffle_seed": self._run.seed, "sampler": self._sampler}
        return self._loader(self._splits.train, rank=rank, world_size=world_size, **batches, **order)

    def _select_loader(self, rank: int, world_size: int) -> DataLoader[Any]:
        batches = {"batch_size": self._select_batch_size, "shuffle_seed": None}
        return self._loader(self._splits.select, rank=rank, world_size=world_size, **batches)

    def _loader(self, rows: Manifest, **settings: Any) -> DataLoader[Any]:
        frames = {"num_frames": self._recipe.model.num_frames}
        faces = FaceDataset(rows, self._recipe.preprocessing, cache=self._run.cache, **frames)
        return make_loader(faces, num_workers=self._run.num_workers, **settings)


def choose_rows(recipe: Recipe, manifest: Manifest) -> Rows:
    """Clean the training split, leave out a fold and hold out rows if the recipe says so, and sample.

    Args:
        recipe: with its `split` and `sampling`.
        manifest: labelled images; labels that the model does not know are left out and counted.

    Raises:
        ConfigError: if the model has another number of classes than there are labels.
        DataError: naming a missing split, class or image, or valence or arousal that the model should learn and no row
            has.
    """
    manifest = readable(manifest.restrict(recipe.label_set), skip=recipe.run.skip_unreadable)
    split, sampling = recipe.split, recipe.sampling
    train, keys, report = clean_split(manifest, split.train, split.select)
    report |= {"left_out": dict(manifest.dropped)}
    if split.folds > 1:
        left_out = in_fold(train, keys, split)
        train, keys, report["fold"] = train.select(~left_out), keys[~left_out], int(left_out.sum())
    report["pictures"] = some_pictures(keys)
    if split.select is None:
        held = hold_out(train, keys, split)
        train, select = train.select(~held), train.select(held)
    else:
        select = manifest.split(split.select)
    for rows, name in ((train, split.train), (select, split.select or f"the held-out share of {split.train}")):
        counts_C = class_counts(rows.targets, rows.labels)
        missing = [label for label, count in zip(rows.labels, counts_C, strict=True) if not count]
        if missing:
            raise DataError(f"no rows of {', '.join(missing)} in {name}, after cleaning. Every class needs some")
    if recipe.model.affect:
        missing = [name for name, values_B in zip(AFFECT, train.affect.T, strict=True) if np.isnan(values_B).all()]
        if missing:
            raise DataError(
                f"no training row has {' or '.join(missing)}, which the model should learn. Allowed: "
                "--set model.affect=false, or data with both"
            )
    if sampling.kind == "uniform":
        drawn = uniform_rows(train.targets, train.labels, per_class=sampling.per_class, seed=sampling.seed)
        train = train.select(drawn)
    # The balanced sampler shows every class equally often.
    seen = np.arange(recipe.model.num_classes) if sampling.kind == "balanced" else train.targets
    weights_C = class_weights(train.targets, train.labels, sampling)
    return Rows(
        train,
        select,
        report | {"selection": len(select), "sampled": len(train)},
        class_log_prior(torch.from_numpy(seen), recipe.model.num_classes),
        None if weights_C is None else torch.from_numpy(weights_C).float(),
    )


@rank_zero_only
def announce(text: str) -> None:
    """Tell on stderr what is about to take time, from the first process."""
    sys.stderr.write(f"{text}\n")


def readable(manifest: Manifest, *, skip: bool) -> Manifest:
    """Decode every image, and leave out those that cannot be read, counted as dropped.

    Raises:
        DataError: if there are any, unless they are to be skipped; each is named on stderr.
    """
    announce(f"checking {len(manifest):,} images: each is decoded, and copies are looked for")
    *_, errors = decode_images(manifest, np.ones(len(manifest), np.bool_), usable_cores(), lambda items, *_: items)
    if not errors:
        return manifest
    said = f"{len(errors):,} of {len(manifest):,} images cannot be read"
    named = (f"{manifest.where(row)}: {errors[row][1]}" for row in sorted(errors))
    announce(for_terminal("\n".join([f"{said}{' and are left out' if skip else ''}:", *named])))
    require(skip, f"{said}, see above. Allowed: to repair or remove them, or --set run.skip_unreadable=true", DataError)
    kept = manifest.select(~np.isin(np.arange(len(manifest)), [*errors]))
    return dataclasses.replace(kept, dropped={**manifest.dropped, "unreadable": len(errors)})


def clean_split(manifest: Manifest, train: str, select: str | None) -> tuple[Manifest, np.ndarray, dict[str, Any]]:
    """Return the rows of the split `train` without blank images and those of other splits.

    Returns:
        The rows, the keys of their pictures (equal keys are copies), and a report of what was left out.

    Raises:
        DataError: naming a split that does not exist, or a missing image.
    """
    for name in filter(None, (train, select)):
        manifest.split(name)
    keys, blank = picture_keys(manifest)
    keep, cleaned = fit_for_training(manifest, train, keys, blank)
    return manifest.select(keep), keys[keep], dataclasses.asdict(cleaned)


def in_fold(manifest: Manifest, keys: np.ndarray, split: SplitConfig) -> np.ndarray:
    """Mark the rows of the fold that is left out, and the copies of its pictures in other folds: bool (rows,)."""
    own = fold_of(manifest.table["subject"].to_pylist(), keys.tolist(), split.folds) == split.fold
    return own | np.isin(keys, keys[own])


def hold_out(manifest: Manifest, keys: np.ndarray, split: SplitConfig) -> np.ndarray:
    """Mark the rows that select the best epoch: a share of each class, with people and copies kept together.

    People, or pictures of unknown people, are taken in random order as long as no class exceeds its share; then, for a
    class that has none yet, the smallest group that shows it.

    Args:
        manifest: rows of one split.
        keys: of each row's picture; equal keys are copies.
        split: with `hold_out` and `seed`.

    Returns:
        bool (rows,).

    Raises:
        DataError: naming a class whose rows are all of one person or picture.
    """
    targets, num_classes = manifest.targets, len(manifest.labels)
    group_B = _together(manifest.table["subject"].to_pylist(), keys.tolist())
    counts_GC = np.zeros((int(group_B.max(initial=-1)) + 1, num_classes), np.int64)
    np.add.at(counts_GC, (group_B, targets), 1)
    total_C = counts_GC.sum(0)
    wanted_C = np.maximum(1, np.rint(split.hold_out * total_C)).astype(np.int64)
    held_C, held_G = np.zeros(num_classes, np.int64), np.zeros(len(counts_GC), np.bool_)
    order = random_order(len(counts_GC), split.seed)
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
                f"split {split.train!r}: all rows of {name} are of one person or picture, which cannot be both trained "
                "on and held out. Allowed: another split as split.select"
            )
    return held_G[group_B]


def random_order(count: int, seed: int) -> np.ndarray:
    """Return a permutation that is the same with every version of numpy: by the raw stream of a bit generator."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def _together(*columns: list[Any]) -> np.ndarray:
    """Number rows so that rows with an equal value in any column have the same number; None equals nothing."""
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
