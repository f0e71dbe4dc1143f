"""Predictions read from a file, ours or another tool's: its columns, checked, and its rows matched to the images.

Shape suffixes: B images, C classes.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from motivnet.checkpoints.hub import sha256_of
from motivnet.config import from_plain, parse_json
from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import check_columns, label_of_name
from motivnet.errors import ConfigError, DataError, reraised
from motivnet.evaluation.predictions import PROTOCOL_KEY, UNANSWERED, Predictions, Protocol, measured
from motivnet.evaluation.probabilities import SUM_TOLERANCE, invalid_rows
from motivnet.inference.results import Status
from motivnet.labels import AFFECT, EMOTIONS, WITH_CONTEMPT, LabelSet
from motivnet.preprocess import Box

TYPES = {name: pa.string() for name in ("path", "pred", "status", "error")}
TYPES |= {"row": pa.int64(), "box": pa.list_(pa.float64())}


def read_predictions(
    path: Path, manifest: Manifest, *, data: str = "", split: str | None = None, unanswered: str = UNANSWERED["error"]
) -> Predictions:
    """Read predictions for a manifest: what `Predictions.write` wrote, or the file of another tool.

    A row is matched by the column `row` (the manifest's), else by `path`: as it stands in the manifest, below the
    folder of the data set or that which all images have in common, or by the file's name alone where that is enough.
    There is a column of probabilities per label, or only `pred`, a label. Labels may be synonyms such as `happy`, and
    columns of probabilities may start with `prob_`. Without a column `status`, a row without an answer means that no
    face was detected. Columns `valence` and `arousal`, if both exist, are predicted ones.

    Args:
        path: a Parquet or CSV file.
        manifest: the images; its rows of other labels than the file's are left out, and counted.
        data: the source as it was named, for the protocol.
        split: the publisher's split, for the protocol.
        unanswered: one of the values of UNANSWERED.

    Raises:
        DataError: naming file and row, at an unknown label, an image without a row or with two, invalid
            probabilities, or a valence or arousal out of range.
    """
    table = _read_table(path)
    known = LabelSet(tuple(dict.fromkeys((*WITH_CONTEMPT, *manifest.labels))))
    columns, preds = _prob_columns(path, table.column_names, known), _read_preds(path, table, known)
    if not columns and "pred" not in table.column_names:
        found = ", ".join(table.column_names)
        raise DataError(f"{path}: neither a column of probabilities per label nor `pred`; found {found}")
    # A label that was never predicted does not occur: at least the seven emotions are assumed known.
    labels = LabelSet(tuple(columns)) if columns else EMOTIONS if set(preds) <= {*EMOTIONS, None} else known
    manifest = manifest.restrict(labels)
    places, num_others = _match_rows(path, table, manifest)
    probs_BC = _read_numbers(path, table, columns.values(), "probabilities") if columns else _one_hot(preds, labels)
    _check_probs(path, probs_BC, preds, labels)
    status, affect_B2 = _read_status(path, table, ~np.isnan(probs_BC[:, 0])), _read_affect(path, table)
    found = measured(manifest, data=data, split=split, unanswered=unanswered)
    if num_others:
        found["dropped"]["predictions of other rows"] = num_others
    fingerprint, detection = "m" + sha256_of(path)[:12], "unknown: answers of another tool"
    unknown = Protocol(model=path.name, model_fingerprint=fingerprint, detection=detection, **found)
    own = _own_protocol(path, table)
    protocol = dataclasses.replace(own, **found | {"data": data or own.data}) if own else unknown
    return Predictions(
        manifest=manifest,
        probs_BC=probs_BC[places],
        status=tuple(status[place] for place in places),
        has_probs=bool(columns),
        errors=_values_at(table, "error", places),
        faces={row: _box(path, box) for row, box in _values_at(table, "box", places).items()},
        affect_B2=None if affect_B2 is None else affect_B2[places],
        protocol=protocol,
    )


def _own_protocol(path: Path, table: pa.Table) -> Protocol | None:
    text = (table.schema.metadata or {}).get(PROTOCOL_KEY)
    if text is None:
        return None
    with reraised(DataError, f"{path}: its protocol cannot be read", ValueError, ConfigError):
        return from_plain(Protocol, parse_json(text.decode()))


def _read_table(path: Path) -> pa.Table:
    """Read Parquet or CSV."""
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise DataError(f"{path}: unknown format {path.suffix!r}. Allowed: .parquet, .csv")
    # Also names of columns that are not UTF-8.
    with reraised(DataError, f"{path}: cannot be read", OSError, ValueError, pa.ArrowException):
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            table.validate(full=True)  # of text, that it is UTF-8
        else:
            in_csv = {name: kind for name, kind in TYPES.items() if name != "box"}
            options = pa_csv.ConvertOptions(column_types=in_csv, strings_can_be_null=True)
            table = pa_csv.read_csv(path, convert_options=options)
            table = table.rename_columns([name.strip() for name in table.column_names])
        check_columns(path, table.column_names)
    for place, name in enumerate(table.column_names):
        if name in TYPES:
            try:
                table = table.set_column(place, name, table[name].cast(TYPES[name]))
            except pa.ArrowException:
                found = table.schema.field(name).type
                raise DataError(f"{path}: column {name!r} is of type {found}. Allowed: {TYPES[name]}") from None
    return table


def _box(path: Path, numbers: list[float | None]) -> Box:
    if len(numbers) != 4 or None in numbers:
        raise DataError(f"{path}: column 'box' holds {numbers}. Allowed: x, y, width, height, or none")
    return Box(*numbers)  # type: ignore[arg-type]


def _prob_columns(path: Path, names: list[str], known: LabelSet) -> dict[str, str]:
    """Map each label that has probabilities to their column, in the order of the labels."""
    found: dict[str, str] = {}
    prefixed = {name: name.removeprefix("prob_") for name in names if name.startswith("prob_")}
    for name in prefixed or names:
        label = label_of_name(prefixed[name], f"{path}: column {name!r}", known) if prefixed else known.find(name)
        if label in found:
            raise DataError(f"{path}: columns {found[label]!r} and {name!r} are both of label {label!r}")
        if label:
            found[label] = name
    if len(found) == 1:
        raise DataError(f"{path}: probabilities of one label alone, {next(iter(found))!r}. Allowed: at least two")
    return {label: found[label] for label in known if label in found}


def _read_preds(path: Path, table: pa.Table, known: LabelSet) -> list[str | None]:
    """Read the column `pred` as labels; None in a row without an answer, and everywhere without the column."""
    if "pred" not in table.column_names:
        return [None] * table.num_rows
    return [
        label_of_name(text, f"{path}, row {row}: pred", known) if text else None
        for row, text in enumerate(table["pred"].to_pylist())
    ]


def _read_numbers(path: Path, table: pa.Table, columns: Iterable[str], what: str) -> np.ndarray:
    """Read columns of numbers, float64 (B, C); NaN where there is none."""
    values = []
    for name in columns:
        reasons = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
        with reraised(DataError, f"{path}: column {name!r} is not of {what}", *reasons):
            values.append(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
    return np.stack(values, axis=1)


def _read_affect(path: Path, table: pa.Table) -> np.ndarray | None:
    """Read valence and arousal, float64 (B, 2), NaN where there is none; None unless the file has columns of both."""
    if not set(AFFECT) <= set(table.column_names):
        return None
    affect_B2 = _read_numbers(path, table, AFFECT, "numbers")
    rows, columns = np.nonzero(~np.isnan(affect_B2) & ~(np.abs(affect_B2) <= 1))
    if len(rows):
        name, value = AFFECT[columns[0]], affect_B2[rows[0], columns[0]]
        raise DataError(f"{path}, row {rows[0]}: {name} is {value:.4g}. Allowed: numbers from -1 to 1, or none")
    return affect_B2


def _one_hot(preds: list[str | None], labels: LabelSet) -> np.ndarray:
    """Return probability 1 for each predicted class, (B, C); NaN rows where there is none."""
    hot_BC = [[float(pred == label) if pred else np.nan for label in labels] for pred in preds]
    return np.array(hot_BC).reshape(-1, len(labels))


def _check_probs(path: Path, probs_BC: np.ndarray, preds: list[str | None], labels: LabelSet) -> None:
    """Refuse invalid probabilities, and such as contradict the class predicted beside them."""
    nan_BC = np.isnan(probs_BC)
    wrong_B = invalid_rows(probs_BC) & ~nan_BC.all(axis=1)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        values = ", ".join(f"{label} {value:.4g}" for label, value in zip(labels, probs_BC[row], strict=True))
        raise DataError(
            f"{path}, row {row}: probabilities {values} ({wrong_B.sum()} such rows). "
            f"Allowed: values from 0 to 1 that sum to 1 within {SUM_TOLERANCE}, or none at all"
        )
    for row, pred in enumerate(preds):
        named = dict(zip(labels, probs_BC[row].tolist(), strict=True))
        best = max(labels, key=named.__getitem__)
        if pred is not None and named.get(pred, -1.0) < named[best]:
            raise DataError(f"{path}, row {row}: pred is {pred}, but {best} is more probable: which one counts?")


def _read_status(path: Path, table: pa.Table, answered_B: np.ndarray) -> list[Status]:
    """Read the status of each image; without such a column, an image without an answer shows no face."""
    if "status" not in table.column_names:
        return ["ok" if answered else "no_face" for answered in answered_B]
    status = table["status"].to_pylist()
    for row, (text, answered) in enumerate(zip(status, answered_B, strict=True)):
        if text not in get_args(Status):
            raise DataError(f"{path}, row {row}: status {text!r}. Allowed: {', '.join(get_args(Status))}")
        if (text == "ok") != answered:
            raise DataError(f"{path}, row {row}: status {text!r} {'with' if answered else 'without'} an answer")
    return status


def _match_rows(path: Path, table: pa.Table, manifest: Manifest) -> tuple[np.ndarray, int]:
    """Return the file's row of each row of the manifest, and how many of the file's belong to none."""
    rows, paths = manifest.table["row"].to_pylist(), manifest.table["path"].to_pylist()
    theirs = table["path"].to_pylist() if "path" in table.column_names else None
    if "row" in table.column_names and len(set(rows)) == len(rows):
        places = _find(path, "row", table["row"].to_pylist(), rows)
        if theirs is not None:
            for place, own in zip(places, paths, strict=True):
                their = theirs[place]
                if own and their and _name(own) != _name(their):
                    raise DataError(f"{path}, row {place}: is of {their}, where the data have {own}")
    elif theirs is None:
        found = ", ".join(table.column_names)
        raise DataError(f"{path}: no column `path`, nor a `row` that is one image's alone in the data; found {found}")
    elif None in paths:
        raise DataError(f"{path}: the data have no paths. Allowed: a column `row`")
    else:
        places = _find_paths(path, theirs, manifest)
    return places, table.num_rows - len(places)


def _find(path: Path, what: str, keys: list, wanted: list) -> np.ndarray:
    places: dict[object, int] = {}
    needed = set(wanted)
    for place, key in enumerate(keys):
        if key in places and key in needed:
            raise DataError(f"{path}, row {place}: {what} {key!r} is already in row {places[key]}")
        places[key] = place
    missing = [key for key in wanted if key not in places]
    if missing:
        share = f"{len(missing)} of {len(wanted)} images"
        raise DataError(f"{path}: {share} have no prediction, the first is {what} {missing[0]!r}")
    return np.array([places[key] for key in wanted], dtype=np.int64)


def _find_paths(path: Path, theirs: list[str | None], manifest: Manifest) -> np.ndarray:
    paths = manifest.table["path"].to_pylist()
    root = os.path.commonpath([os.path.dirname(own) for own in paths])  # noqa: PTH120
    normal = [their and os.path.normpath(their) for their in theirs]
    for wanted, keys in (
        ([os.path.normpath(own) for own in paths], normal),
        ([os.path.normpath(manifest.relative(own) or "") for own in paths], normal),
        ([os.path.relpath(own, root or ".") for own in paths], normal),
        ([_name(own) for own in paths], [their and _name(their) for their in theirs]),
    ):
        if len(set(wanted)) == len(wanted) and set(wanted) <= set(keys):
            return _find(path, "path", keys, wanted)
    return _find(path, "path", theirs, paths)


def _name(path: str) -> str:
    # Of either system's paths: the file may come from another machine.
    return path.replace("\\", "/").rpartition("/")[2]


def _values_at(table: pa.Table, name: str, places: np.ndarray) -> dict[int, Any]:
    """Return the values of a column: position in `places` -> value, where there is one."""
    values = table[name].take(places).to_pylist() if name in table.column_names else ()
    return {row: value for row, value in enumerate(values) if value is not None}
