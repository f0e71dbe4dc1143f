"""Columns that divide the images of a manifest into groups: its own, derived ones, and the user's."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from motivnet.data.clean import repeated_rows
from motivnet.data.manifest import Manifest, set_columns
from motivnet.data.sources.named import read_source
from motivnet.data.sources.records import read_records
from motivnet.errors import DataError, require, unknown_name

# Group of each image; None: not known, so neither in a group nor in the rest.
Column = list[str | None]

# Minimum share of votes for high agreement, and minimum distance from neutral in valence and arousal of a strong
# expression.
AGREED = 0.8
STRONG = 0.5
KEYS = ("row", "path")
# A column of more values identifies images rather than groups them.
MAX_GROUPS = 1000


def read_together(data: Sequence[str]) -> Manifest:
    """Read data sets as one with the labels of the first, whose column `data` names them as they are given.

    Rows are numbered anew, and nobody is shown in two of them.
    """
    parts, tables = [read_source(name) for name in data], []
    if len(parts) == 1:
        return parts[0]
    for name, part in zip(data, parts, strict=True):
        table = part.restrict(parts[0].labels).table
        subject = [who and f"{name} {who}" for who in table["subject"].to_pylist()]
        groups = [[*(pairs or ()), ("data", name)] for pairs in table["groups"].to_pylist()]
        tables.append(set_columns(table, subject=subject, groups=groups))
    table = pa.concat_tables(tables)
    return Manifest(set_columns(table, row=range(len(table))), parts[0].labels)


def group_columns(
    manifest: Manifest, names: Sequence[str], *, whole: Manifest | None = None, table: Path | None = None
) -> dict[str, Column]:
    """Return columns by name.

    A name is a key of the manifest's `groups`, a column of `table`, or, if it is neither, one of these:

    | name | groups |
    |---|---|
    | subject, split | as in the manifest |
    | agreement | high: one label has at least 0.8 of the annotators' votes; else low |
    | duplicate | whether exactly these pixels are also in the training split |
    | intensity | strong: valence and arousal are at least 0.5 from neutral; else weak |

    Args:
        manifest: the images.
        names: of the wanted columns.
        whole: all splits of the data set, which `duplicate` needs.
        table: a CSV file keyed by `row`, as in the manifest, or by `path`, as in the manifest or below the folder that
            all its images share; images that it does not list are in no group.

    Returns:
        Name -> group of each row of the manifest, in the order of `names`.

    Raises:
        DataError: if there is no such column, it is empty or has more than MAX_GROUPS values, it is both in the
            manifest and in the table, or the table is invalid.
    """
    maps = [dict(pairs or ()) for pairs in manifest.table["groups"].to_pylist()]
    own = {str(key) for pairs in maps for key in pairs}
    listed = _read_table(table, manifest) if table else {}
    columns = {}
    for name in dict.fromkeys(names):
        if name in own and name in listed:
            raise DataError(f"group column {name!r} is both in the data and in {table}: rename one")
        if name in own:
            column = [pairs.get(name) for pairs in maps]
        elif name in listed:
            column = listed[name]
        elif name in _DERIVE:
            column = _DERIVE[name](manifest, whole)
        else:
            raise DataError(unknown_name("group column", name, {*own, *listed, *_DERIVE}))
        num_groups = len(set(column) - {None})
        if not 1 <= num_groups <= MAX_GROUPS:
            raise DataError(f"group column {name!r} has {num_groups} values. Allowed: from 1 to {MAX_GROUPS}")
        columns[name] = column
    return columns


def _agreement(manifest: Manifest, whole: Manifest | None) -> Column:
    votes = manifest.votes
    total, most = votes.sum(axis=1), votes.max(axis=1)
    return [
        None if every <= 0 else "high" if best >= AGREED * every else "low"
        for best, every in zip(most.tolist(), total.tolist(), strict=True)
    ]


def _intensity(manifest: Manifest, whole: Manifest | None) -> Column:
    strengths = [math.hypot(*pair) for pair in manifest.affect.tolist()]
    return [None if math.isnan(strength) else "strong" if strength >= STRONG else "weak" for strength in strengths]


def _duplicate(manifest: Manifest, whole: Manifest | None) -> Column:
    splits = sorted(set((whole or manifest).table["split"].to_pylist()))
    training = [split for split in splits if split.lower().startswith("train")]
    if whole is None or len(training) != 1 or training[0] in manifest.table["split"].to_pylist():
        found = ", ".join(splits)
        raise DataError(f"group column 'duplicate' compares a split with the one training split; found {found}")
    seen_B = repeated_rows(manifest, whole.split(training[0]))
    return ["also in training" if seen else "only here" for seen in seen_B]


_DERIVE: Mapping[str, Callable[[Manifest, Manifest | None], Column]] = {
    "agreement": _agreement,
    "duplicate": _duplicate,
    "intensity": _intensity,
    "split": lambda manifest, whole: manifest.table["split"].to_pylist(),
    "subject": lambda manifest, whole: manifest.table["subject"].to_pylist(),
}


def _read_table(path: Path, manifest: Manifest) -> dict[str, Column]:
    rows = list(read_records(path))
    header = list(rows[0][1]) if rows else []
    key = next((name for name in KEYS if name in header), None)
    names = [name for name in header if name not in KEYS]
    if key is None or not names:
        raise DataError(f"{path}: columns {header}. Allowed: one of row and path, and a column for each grouping")
    places = _places(manifest, key)
    columns: dict[str, Column] = {name: [None] * len(manifest) for name in names}
    found: set[int] = set()
    for number, row in rows:
        place = places.get(row[key].strip())
        if place is None:
            # A table of the whole data set serves each of its splits.
            continue
        require(place not in found, f"{path}, row {number}: {key} {row[key]!r} occurs twice", DataError)
        found.add(place)
        for name in names:
            columns[name][place] = row[name].strip() or None
    require(found, f"{path}: no {key} of its {len(rows)} rows is one of the {len(manifest)} images", DataError)
    return columns


def _places(manifest: Manifest, key: str) -> dict[str, int]:
    """Return the position of each image by the names that a table may use."""
    names = manifest.table[key].to_pylist()
    if key == "path":
        paths = {name: position for position, name in enumerate(names) if name is not None}
        require(paths, "images without a path cannot be found by it. Allowed: a table keyed by row", DataError)
        folder = os.path.commonpath([os.path.dirname(name) for name in paths])  # noqa: PTH120
        return {os.path.relpath(name, folder): position for name, position in paths.items() if folder} | paths
    places: dict[str, int] = {}
    for position, name in enumerate(map(str, names)):
        if name in places:
            raise DataError(f"row {name} is that of two images. Allowed: a table keyed by path, or one split")
        places[name] = position
    return places
