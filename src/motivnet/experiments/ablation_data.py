"""The rows that a cell of an ablation learns from: cleaned once, a share of the labels, epochs of equal length.

Shape suffixes: B rows.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from motivnet.data.clean import CleanReport, clean_training
from motivnet.data.manifest import Manifest
from motivnet.errors import ConfigError, DataError
from motivnet.experiments.grids import Cell
from motivnet.labels import EMOTIONS
from motivnet.training.data_module import Rows, choose_rows


@dataclasses.dataclass(frozen=True)
class AblationData:
    """What all runs of an ablation share.

    Args:
        train: cleaned training rows.
        others: rows of all other splits.
        report: of the cleaning.
        rarest: the label with the fewest training rows, whose recall is reported beside the means.
        share: the largest share of the labels that any cell learns from, which sets the length of an epoch.
    """

    train: Manifest
    others: Manifest
    report: CleanReport
    rarest: str
    share: float


def prepare(manifest: Manifest, cells: tuple[Cell, ...], report_split: str) -> AblationData:
    """Clean the training rows, once for all runs.

    Args:
        manifest: all splits; rows of other labels than the emotions are left out.
        cells: whose recipes name one training split.
        report_split: what is reported; no recipe must know it.

    Raises:
        ConfigError: if a recipe learns from, or selects on, what is reported, or they learn from several splits.
        DataError: if there are no such rows.
    """
    splits = {cell.recipe.split.train for cell in cells}
    if len(splits) > 1:
        raise ConfigError(f"the cells learn from several splits, {', '.join(sorted(splits))}. Allowed: one")
    used = splits | {cell.recipe.split.select for cell in cells}
    if report_split in used:
        raise ConfigError(f"{report_split!r} is reported, and must be neither learnt from nor selected on")
    (train_split,) = splits
    manifest = manifest.restrict(EMOTIONS)
    manifest.split(report_split)
    train, report = clean_training(manifest, train_split)
    other_B = np.array([split != train_split for split in manifest.table["split"].to_pylist()], dtype=np.bool_)
    counts = np.bincount(train.targets, minlength=len(train.labels))
    rarest = train.labels.names[int(counts.argmin())]
    if rarest not in manifest.split(report_split).table["label"].to_pylist():
        raise DataError(f"{report_split!r} has no rows of {rarest}, the rarest class of the training rows")
    return AblationData(train, manifest.select(other_B), report, rarest, share=max(cell.label_share for cell in cells))


def rows_of(cell: Cell, data: AblationData, seed: int) -> Rows:
    """Choose the rows of one run; its epochs are as long as those of the cell with the largest share of the labels.

    So all cells of a grid take equally many optimizer steps of the same learning rates, and are validated as often.

    Args:
        cell: says how much of the labels, and by which sampling.
        data: what there is.
        seed: of the run.

    Raises:
        DataError: if a class is too small.
    """
    part = data.train.select(share_of(data.train.targets, cell.label_share, seed=seed))
    # Rows of the reported split stay out: nothing of this run can reach them.
    known = {cell.recipe.split.train, cell.recipe.split.select}
    splits = data.others.table["split"].to_pylist()
    others = data.others.select(np.array([split in known for split in splits], dtype=np.bool_))
    rows = choose_rows(cell.recipe, dataclasses.replace(part, table=pa.concat_tables([part.table, others.table])))
    longest = len(share_of(data.train.targets, data.share, seed=seed))
    positions = repeat_to(len(rows.train), longest, seed=seed)
    chosen = {"label_share": cell.label_share, "distinct": len(rows.train), "epoch": len(positions)}
    return dataclasses.replace(rows, train=rows.train.select(positions), report=rows.report | chosen)


def share_of(target_B: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Choose a share of each class's rows, at least one; smaller shares of one seed are part of larger ones.

    Args:
        target_B: label indices.
        share: above 0, at most 1.
        seed: of the draw.

    Returns:
        Row positions in ascending order, int64.
    """
    order_B = np.random.default_rng(seed).permutation(len(target_B))
    chosen = []
    for label in np.unique(target_B):
        of_label = order_B[target_B[order_B] == label]
        chosen.append(of_label[: max(1, round(share * len(of_label)))])
    return np.sort(np.concatenate(chosen))


def repeat_to(num_rows: int, length: int, *, seed: int) -> np.ndarray:
    """Repeat rows until there are exactly so many: each equally often, but for one more of some that are drawn.

    Args:
        num_rows: rows that there are, at most `length`.
        length: positions wanted.
        seed: of the draw.

    Raises:
        DataError: if there are no rows, or too many.
    """
    if not 1 <= num_rows <= length:
        raise DataError(f"{num_rows} rows cannot fill an epoch of {length}")
    whole = np.repeat(np.arange(num_rows), length // num_rows)
    rest = np.random.default_rng(seed).permutation(num_rows)[: length % num_rows]
    return np.sort(np.concatenate([whole, rest]))
