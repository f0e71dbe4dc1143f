"""The file of answers of any tool: its columns, checked, and its rows found for the images they are of.

Shape suffixes: B images, C classes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from motivnet.data.manifest import Manifest
from motivnet.errors import DataError
from motivnet.evaluation.probabilities import SUM_TOLERANCE
from motivnet.inference.results import Status
from motivnet.labels import AFFECT, LabelSet


def read_table(path: Path) -> pa.Table:
    """Read Parquet or CSV.

    Raises:
        DataError: if it is neither, or damaged.
    """
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise DataError(f"{path}: unknown format {path.suffix!r}. Allowed: .parquet, .csv")
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        text = {name: pa.string() for name in ("path", "pred", "status", "error")}
        options = pa_csv.ConvertOptions(column_types=text | {"row": pa.int64()}, strings_can_be_null=True)
        table = pa_csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return table.rename_columns([name.strip() for name in table.column_names])


def prob_columns(path: Path, names: list[str], known: LabelSet) -> dict[str, str]:
    """Map each label that has probabilities to their column, in the order of the labels.

    Raises:
        DataError: at a column `prob_...` of no label, two columns of one label, or a single one.
    """
    found: dict[str, str] = {}
    for name in [name for name in names if name.startswith("prob_")] or names:
        try:
            label = known.names[known.index(name.removeprefix("prob_"))]
        except DataError as error:
            if name.startswith("prob_"):
                raise DataError(f"{path}: column {name!r}: {error}") from None
            continue
        if label in found:
            raise DataError(f"{path}: columns {found[label]!r} and {name!r} are both of label {label!r}")
        found[label] = name
    if len(found) == 1:
        raise DataError(f"{path}: probabilities of one label alone, {next(iter(found))!r}. Allowed: at least two")
    return {label: found[label] for label in known if label in found}


def pred_classes(path: Path, table: pa.Table, known: LabelSet) -> list[int | None] | None:
    """Read the column `pred`, if there is one, as classes of `known`; None in a row without an answer.

    Raises:
        DataError: at a label that is not known.
    """
    if "pred" not in table.column_names:
        return None
    column = table["pred"].cast(pa.string()).to_pylist()
    classes: dict[str, int] = {}
    for row, text in enumerate(column):
        if text and text not in classes:
            try:
                classes[text] = known.index(text)
            except DataError as error:
                raise DataError(f"{path}, row {row}: pred: {error}") from None
    return [classes[text] if text else None for text in column]


def read_probs(path: Path, table: pa.Table, columns: dict[str, str], *, what: str = "probabilities") -> np.ndarray:
    """Read columns of probabilities, or of other numbers, float64 (B, C); NaN where there is none.

    Raises:
        DataError: if a column is not of numbers.
    """
    probs = []
    for name in columns.values():
        try:
            probs.append(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{path}: column {name!r} is not of {what}: {error}") from None
    return np.stack(probs, axis=1)


def read_affect(path: Path, table: pa.Table) -> np.ndarray | None:
    """Read valence and arousal, float64 (B, 2), NaN where there is none; None unless the file has columns of both.

    Raises:
        DataError: if one is not a number from -1 to 1.
    """
    if not set(AFFECT) <= set(table.column_names):
        return None
    affect_B2 = read_probs(path, table, {name: name for name in AFFECT}, what="numbers")
    rows, columns = np.nonzero(~np.isnan(affect_B2) & ~(np.abs(affect_B2) <= 1))
    if len(rows):
        name, value = AFFECT[columns[0]], affect_B2[rows[0], columns[0]]
        raise DataError(f"{path}, row {rows[0]}: {name} is {value:.4g}. Allowed: numbers from -1 to 1, or none")
    return affect_B2


def one_hot(preds: list[int | None], known: LabelSet, labels: LabelSet) -> np.ndarray:
    """Give probability 1 to each predicted class, (B, C); NaN rows where there is none."""
    rows = {pred: np.eye(len(labels))[labels.names.index(known.names[pred])] for pred in set(preds) if pred is not None}
    nothing = np.full(len(labels), np.nan)
    return np.array([nothing if pred is None else rows[pred] for pred in preds]).reshape(-1, len(labels))


def check_probs(path: Path, probs_BC: np.ndarray, preds: list[str | None], labels: LabelSet) -> None:
    """Refuse probabilities that are none, and such as contradict the class predicted beside them.

    Raises:
        DataError: naming the row.
    """
    nan_BC = np.isnan(probs_BC)
    with np.errstate(invalid="ignore"):  # infinities, which are refused below
        sum_B = probs_BC.sum(axis=1)
    wrong_B = (probs_BC < 0).any(axis=1) | ~(np.abs(sum_B - 1) <= SUM_TOLERANCE)
    wrong_B &= ~nan_BC.all(axis=1)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        values = ", ".join(f"{label} {value:.4g}" for label, value in zip(labels, probs_BC[row], strict=True))
        raise DataError(
            f"{path}, row {row}: probabilities {values} ({wrong_B.sum()} such rows). "
            f"Allowed: values from 0 to 1 that sum to 1 within {SUM_TOLERANCE}, or none at all"
        )
    for row, pred in enumerate(preds):
        if pred is None or nan_BC[row].all():
            continue
        own = probs_BC[row, labels.names.index(pred)] if pred in labels.names else -1.0
        if own < probs_BC[row].max():
            best = labels.names[int(probs_BC[row].argmax())]
            raise DataError(f"{path}, row {row}: pred is {pred}, but {best} is more probable: which one counts?")


def read_status(path: Path, table: pa.Table, answered_B: np.ndarray) -> list[Status]:
    """Read what became of each image; without such a column, what has no answer shows no face.

    Raises:
        DataError: at an unknown status, or one that does not agree with the answer.
    """
    if "status" not in table.column_names:
        return ["ok" if answered else "no_face" for answered in answered_B]
    status = table["status"].cast(pa.string()).to_pylist()
    for row, (text, answered) in enumerate(zip(status, answered_B, strict=True)):
        if text not in get_args(Status):
            raise DataError(f"{path}, row {row}: status {text!r}. Allowed: {', '.join(get_args(Status))}")
        if (text == "ok") != answered:
            raise DataError(f"{path}, row {row}: status {text!r} {'with' if answered else 'without'} an answer")
    return status


def match_rows(path: Path, table: pa.Table, manifest: Manifest) -> tuple[np.ndarray, int]:
    """Find the file's row of each row of the manifest; count those that belong to none.

    Raises:
        DataError: if there is nothing to find them by, one is missing or there twice, or it is of another image.
    """
    rows, paths = manifest.table["row"].to_pylist(), manifest.table["path"].to_pylist()
    theirs = table["path"].cast(pa.string()).to_pylist() if "path" in table.column_names else None
    if "row" in table.column_names and len(set(rows)) == len(rows):
        places = _find(path, "row", table["row"].to_pylist(), rows)
        if theirs is not None:
            _check_names(path, places, theirs, paths)
    elif theirs is None:
        found = ", ".join(table.column_names)
        raise DataError(f"{path}: no column `path`, nor a `row` that is one image's alone in the data; found {found}")
    elif None in paths:
        raise DataError(f"{path}: the data have no paths. Allowed: a column `row`")
    else:
        places = _find_paths(path, theirs, paths)
    return places, table.num_rows - len(places)


def _find(path: Path, what: str, keys: list, wanted: list) -> np.ndarray:
    places: dict[object, int] = {}
    needed = set(wanted)
    for place, key in enumerate(keys):
        if key in places and key in needed:
            raise DataError(f"{path}, row {place}: {what} {key!r} stands in row {places[key]} already")
        places[key] = place
    missing = [key for key in wanted if key not in places]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(wanted)} images have no prediction, the first is {what} {missing[0]!r}"
        )
    return np.array([places[key] for key in wanted], dtype=np.int64)


def _find_paths(path: Path, theirs: list[str | None], paths: list[str]) -> np.ndarray:
    root = os.path.commonpath([os.path.dirname(own) for own in paths])  # noqa: PTH120
    pairs: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
        (os.path.normpath, os.path.normpath),
        (lambda own: os.path.relpath(own, root or "."), os.path.normpath),
        (_name, _name),
    )
    for own_key, their_key in pairs:
        wanted = [own_key(own) for own in paths]
        keys = [None if their is None else their_key(their) for their in theirs]
        if len(set(wanted)) == len(wanted) and set(wanted) <= set(keys):
            return _find(path, "path", keys, wanted)
    return _find(path, "path", theirs, paths)


def _name(path: str) -> str:
    # Of either system's paths: the file may come from another machine.
    return path.replace("\\", "/").rpartition("/")[2]


def _check_names(path: Path, places: np.ndarray, theirs: list[str | None], paths: list[str | None]) -> None:
    """Refuse a file that was matched by row numbers, but is of other images."""
    for place, own in zip(places, paths, strict=True):
        their = theirs[place]
        if own is not None and their is not None and _name(own) != _name(their):
            raise DataError(f"{path}, row {place}: is of {their}, where the data have {own}: predictions of other data")


def values_at(table: pa.Table, name: str, places: np.ndarray) -> dict[int, Any]:
    """Give what a column holds at the places: position among them -> value, where there is one."""
    if name not in table.column_names:
        return {}
    values = table[name].to_pylist()
    return {row: values[place] for row, place in enumerate(places) if values[place] is not None}
