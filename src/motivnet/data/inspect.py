"""What is in a data set, and what is wrong with it, row by row.

Shape suffixes: B rows, S splits, T side of a thumbnail.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from motivnet.data.clean import pixel_hash
from motivnet.data.duplicates import THUMB_PX, first_of, near_duplicates, thumbnail
from motivnet.data.manifest import Manifest
from motivnet.errors import DataError, ImageError
from motivnet.images import decode_image
from motivnet.preprocess import Box, crop
from motivnet.storage import atomic_folder, write_json

T = TypeVar("T")
# Its functions are made when it is loaded, unknown to type checkers.
pc: Any = pyarrow.compute
# Hands the items on, one by one, and may show how far it got: items, their number, what they are.
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]

# Kinds of problem, in the order in which they are listed.
PROBLEMS = {
    "missing": "the file is not there",
    "unreadable": "the image cannot be decoded",
    "bad_box": "the face's box has no area inside the image",
    "blank": "the image is of one value throughout",
    "listed_twice": "the same file, and the same face in it, as an earlier row",
    "duplicate": "the same pixels as an earlier row",
    "near_duplicate": "a copy of an earlier row, encoded, resized or lit anew",
    "two_labels": "the same pixels or file as an earlier row, under another label",
    "shared_subject": "the person is in an earlier row of another split",
}
PROBLEM_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("row", pa.int64()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("path", pa.string()),
        ("other_row", pa.int64()),
        ("other_split", pa.string()),
        ("other_label", pa.string()),
        ("other_path", pa.string()),
        ("detail", pa.string()),
    ]
)
PROBLEM_FILES = ("problems.parquet", "problems.csv", "summary.json")
ROWS_PER_TASK = 256


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        manifest: what was looked at.
        pixels: whether the images were decoded.
        problems: rows of PROBLEM_SCHEMA, by kind and row; `row` and `other_row` are the source's row numbers.
        copies: `exact` and `near`: split -> split -> how many rows of the first occur in the second as well; `near`
            counts those of which the second has no exact copy.
        usable: which rows have an image, as far as was looked, bool (B,).
    """

    manifest: Manifest
    pixels: bool
    problems: pa.Table
    copies: dict[str, dict[str, dict[str, int]]]
    usable: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Give counts of everything, as JSON can say it."""
        return {
            "rows": len(self.manifest),
            "labels": list(self.manifest.labels),
            "pixels": self.pixels,
            "dropped": dict(self.manifest.dropped),
            "counts": self.manifest.counts(),
            "groups": count_groups(self.manifest),
            "subjects": len(pc.unique(self.manifest.table["subject"].drop_null())),
            "problems": self.count_problems(),
            "copies": self.copies,
        }

    def count_problems(self) -> dict[str, dict[str, int]]:
        """Count problems by kind: rows in all, those whose other row is of another split, and of another label."""
        differs = {
            name: pc.fill_null(pc.not_equal(self.problems[name], self.problems[f"other_{name}"]), False)
            for name in ("split", "label")
        }
        counted = (
            pa.table({"kind": self.problems["kind"], **differs})
            .group_by("kind")
            .aggregate([([], "count_all"), ("split", "sum"), ("label", "sum")])
            .to_pylist()
        )
        counts = {
            row["kind"]: {"rows": row["count_all"], "across_splits": row["split_sum"], "other_label": row["label_sum"]}
            for row in counted
        }
        return {kind: counts[kind] for kind in PROBLEMS if kind in counts}

    def write(self, folder: Path, *, track: "Track | None" = None) -> None:
        """Write every problem as a row, a summary, and, if images were decoded, a contact sheet per class.

        Files of an earlier inspection are replaced, others stay.

        Raises:
            OutputError: if they cannot be written.
        """
        from motivnet.data.sheet import contact_sheet

        track = track or (lambda items, total, what: items)
        old = written_files(folder)
        with atomic_folder(folder, merge=True, last=PROBLEM_FILES[-1]) as temporary:
            pyarrow.parquet.write_table(self.problems, temporary / PROBLEM_FILES[0])
            pyarrow.csv.write_csv(self.problems, temporary / PROBLEM_FILES[1])
            labels = self.manifest.labels.names if self.pixels else ()
            for label in track(labels, len(labels), "contact sheets"):
                # A label may contain characters that no file name can.
                name = re.sub(r"[^\w-]", "_", label)
                contact_sheet(self.manifest, label, self.usable).save(temporary / f"sheet_{name}.png")
            write_json(temporary / PROBLEM_FILES[-1], self.to_dict())
            for file in old:
                file.unlink()


def written_files(folder: Path) -> list[Path]:
    """List the files of an earlier inspection in a folder."""
    return [*filter(Path.is_file, (folder / name for name in PROBLEM_FILES)), *folder.glob("sheet_*.png")]


def inspect_manifest(
    manifest: Manifest, *, pixels: bool = True, workers: int = 2, track: Track | None = None
) -> Inspection:
    """Look for everything that PROBLEMS names.

    Args:
        manifest: all the splits that are to be compared.
        pixels: decode the images; else only files are looked for, and paths and subjects compared.
        workers: threads that read and decode.
        track: shows progress.
    """
    track = track or (lambda items, total, what: items)
    found = _Findings(manifest)
    table = manifest.table
    missing_B = _missing(table["path"], workers, track)
    found.add("missing", np.flatnonzero(missing_B))
    same_file_B = _first_of_files(table)
    repeated = np.flatnonzero(same_file_B != np.arange(len(manifest)))
    found.add("listed_twice", repeated, same_file_B[repeated])
    usable_B, same_B, near = ~missing_B, same_file_B, _NO_PAIRS
    if pixels:
        looks = _look_at_all(manifest, ~missing_B, workers, track)
        for row, (kind, detail) in looks.errors.items():
            found.add(kind, [row], details=[detail])
            usable_B[row] = False
        same_B = _first_of_pixels(looks.hashes, same_file_B)
        found.add("blank", np.flatnonzero(looks.blank))
        repeated = np.flatnonzero((same_B != np.arange(len(manifest))) & (same_file_B == np.arange(len(manifest))))
        found.add("duplicate", repeated, same_B[repeated])
        distinct = np.flatnonzero(usable_B & ~looks.blank & (same_B == np.arange(len(manifest))))
        near, difference = near_duplicates(looks.thumbs[distinct])
        near = distinct[near]
        found.add_near(near, difference)
    labels = np.asarray(manifest.targets)
    under_another = np.flatnonzero(labels != labels[same_B])
    found.add("two_labels", under_another, same_B[under_another])
    found.add_shared_subjects()
    return Inspection(manifest, pixels, found.to_table(), _copies(found, same_B, near, pixels=pixels), usable_B)


_NO_PAIRS = np.empty((0, 2), np.int64)


class _Findings:
    """Problems as they are found, by the positions of their rows."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        splits, self.split_B = encode(manifest.table["split"])
        self.splits: list[str] = splits.to_pylist()
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray, list[str | None]]]] = {kind: [] for kind in PROBLEMS}

    def add(
        self, kind: str, rows: Iterable[int], others: Iterable[int] | None = None, details: list[str] | None = None
    ) -> None:
        """Note rows, each with the earlier row it belongs to (-1: none) and words about it."""
        rows = np.asarray(rows, np.int64)
        others = np.full(len(rows), -1) if others is None else np.asarray(others, np.int64)
        self._parts[kind].append((rows, others, [*details] if details else [None] * len(rows)))

    def add_near(self, pairs: np.ndarray, difference: np.ndarray) -> None:
        """Note each row once for every split that has an earlier copy, with the likest one."""
        earlier, later = pairs.T
        order = np.lexsort((difference, self.split_B[earlier], later))
        earlier, later, difference = earlier[order], later[order], difference[order]
        key = np.stack([later, self.split_B[earlier]])
        first = np.append(True, (key[:, 1:] != key[:, :-1]).any(0))[: len(later)]
        details = [f"differs by at most {value:.3f} standard deviations" for value in difference[first]]
        self.add("near_duplicate", later[first], earlier[first], details)

    def add_shared_subjects(self) -> None:
        """Note, for every subject of several splits, the first row in each split but the first."""
        table = self.manifest.table
        subjects = pa.table(
            {"subject": table["subject"], "split": table["split"], "position": np.arange(len(self.manifest))}
        ).filter(pc.is_valid(table["subject"]))
        grouped = subjects.group_by(["subject", "split"]).aggregate([("position", "min"), ("position", "count")])
        parts = grouped.sort_by([("subject", "ascending"), ("position_min", "ascending")]).to_pydict()
        first: dict[str, tuple[int, int]] = {}
        rows, others, details = [], [], []
        for name, row, count in zip(parts["subject"], parts["position_min"], parts["position_count"], strict=True):
            other, other_count = first.setdefault(name, (row, count))
            if other != row:
                rows.append(row)
                others.append(other)
                details.append(f"subject {name}: {count} rows here, {other_count} there")
        self.add("shared_subject", rows, others, details)

    def to_table(self) -> pa.Table:
        """Lay out all of them as PROBLEM_SCHEMA."""
        tables = [self._lay_out(kind, *part) for kind, parts in self._parts.items() for part in _merged(parts)]
        return pa.concat_tables([PROBLEM_SCHEMA.empty_table(), *tables])

    def _lay_out(self, kind: str, rows: np.ndarray, others: np.ndarray, details: list[str | None]) -> pa.Table:
        names = ["row", "split", "label", "path"]
        own = self.manifest.table.select(names).take(pa.array(rows))
        other = self.manifest.table.select(names).take(pa.array(others, mask=others < 0))
        columns = [pa.array([kind] * len(rows), pa.string()), *own.columns, *other.columns]
        return pa.table([*columns, pa.array(details, pa.string())], schema=PROBLEM_SCHEMA)


def _merged(
    parts: list[tuple[np.ndarray, np.ndarray, list[str | None]]],
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str | None]]]:
    if parts:
        rows, others = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        details = [detail for part in parts for detail in part[2]]
        order = np.argsort(rows, kind="stable")
        yield rows[order], others[order], [details[place] for place in order]


def encode(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Give the distinct values of a column and the place of each row's among them, int64; a null's is -1."""
    values = pc.unique(column).drop_null()
    return values, pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int64)


def count_groups(manifest: Manifest) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Count rows: group -> its value -> split -> label -> number, of those there are."""
    table = manifest.table
    pairs = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
    lists = pa.chunked_array([chunk.cast(pairs) for chunk in table["groups"].chunks], pairs).combine_chunks()
    rows, items = pc.list_parent_indices(lists), pc.list_flatten(lists)
    counted = (
        pa.table(
            {
                "key": pc.struct_field(items, "key"),
                "value": pc.struct_field(items, "value"),
                "split": table["split"].take(rows),
                "label": table["label"].take(rows),
            }
        )
        .group_by(["key", "value", "split", "label"])
        .aggregate([([], "count_all")])
        .sort_by([(name, "ascending") for name in ("key", "value", "split", "label")])
        .to_pydict()
    )
    groups: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    names = ("key", "value", "split", "label", "count_all")
    for key, value, split, label, count in zip(*(counted[name] for name in names), strict=True):
        groups.setdefault(key, {}).setdefault(str(value), {}).setdefault(split, {})[label] = count
    return groups


def _missing(paths: pa.ChunkedArray, workers: int, track: Track) -> np.ndarray:
    """Mark the rows whose file is not there: bool (B,)."""

    def look(rows: range) -> list[bool]:
        named = paths.slice(rows.start, len(rows)).to_pylist()
        return [path is not None and not Path(path).is_file() for path in named]

    if paths.null_count == len(paths):
        return np.zeros(len(paths), np.bool_)
    return np.array([found for part in _in_threads(look, len(paths), workers, track, "files") for found in part])


def _first_of_files(table: pa.Table) -> np.ndarray:
    """Give for each row the first one with the same path and box, int64 (B,); few rows are looked at one by one."""
    first_B = np.arange(len(table))
    _, path_B = encode(table["path"])
    if not (path_B >= 0).any():
        return first_B
    counts = np.bincount(path_B[path_B >= 0])
    repeated = np.flatnonzero((path_B >= 0) & (counts[path_B] > 1))
    boxes = table["box"].take(pa.array(repeated)).to_pylist()
    keys = [(path, box and tuple(box)) for path, box in zip(path_B[repeated].tolist(), boxes, strict=True)]
    first_B[repeated] = repeated[first_of(keys)]
    return first_B


def _first_of_pixels(hashes: list[str | None], same_file_B: np.ndarray) -> np.ndarray:
    """Give for each row the first one with the same pixels; of rows that were not decoded, with the same file."""
    return first_of(file if text is None else text for text, file in zip(hashes, same_file_B.tolist(), strict=True))


class _Looks(NamedTuple):
    """What the images say.

    Attributes:
        hashes: of the pixels; None where there is no image.
        blank: whether an image is of one value, bool (B,).
        thumbs: uint8 (B, T, T); zeros where there is no image.
        errors: row -> kind of problem and what is wrong.
    """

    hashes: list[str | None]
    blank: np.ndarray
    thumbs: np.ndarray
    errors: dict[int, tuple[str, str]]


def _look_at_all(manifest: Manifest, there_B: np.ndarray, workers: int, track: Track) -> _Looks:
    blank_B = np.zeros(len(manifest), np.bool_)
    thumbs_BTT = np.zeros((len(manifest), THUMB_PX, THUMB_PX), np.uint8)
    errors: dict[int, tuple[str, str]] = {}

    def look(rows: range) -> list[str | None]:
        return [look_at(row) if there_B[row] else None for row in rows]

    def look_at(row: int) -> str | None:
        try:
            image = read_face(manifest, row)
        except (ImageError, DataError) as error:
            errors[row] = ("bad_box" if isinstance(error, DataError) else "unreadable", str(error))
            return None
        blank_B[row] = image.min() == image.max()
        thumbs_BTT[row] = thumbnail(image)
        return pixel_hash(image)

    hashes = [text for part in _in_threads(look, len(manifest), workers, track, "images") for text in part]
    return _Looks(hashes, blank_B, thumbs_BTT, dict(sorted(errors.items())))


def read_face(manifest: Manifest, row: int) -> np.ndarray:
    """Decode a row's image and cut out its box, as far as that lies in the image: RGB uint8 (h, w, 3).

    Raises:
        ImageError: if there is no image that can be decoded.
        DataError: if the box has no area inside it.
    """
    image = decode_image(manifest.source(row))
    box = manifest.table["box"][row].as_py()
    if box is None:
        return image
    height, width = image.shape[:2]
    x, y, box_width, box_height = box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + box_width, width), min(y + box_height, height)
    # Written so that a box that is no number is refused as well.
    if not (right - left > 0 and bottom - top > 0):
        raise DataError(f"box of x, y, width, height {box} in an image of {width} x {height} pixels")
    return crop(image, Box(left, top, right - left, bottom - top), None)


def _in_threads(work: Callable[[range], T], num_rows: int, workers: int, track: Track, what: str) -> Iterator[T]:
    """Work on blocks of rows in threads; what is slow about images happens outside the interpreter's lock."""
    blocks = [range(start, min(start + ROWS_PER_TASK, num_rows)) for start in range(0, num_rows, ROWS_PER_TASK)]
    pool = ThreadPoolExecutor(workers)
    try:
        yield from track(pool.map(work, blocks), len(blocks), what)
    finally:
        pool.shutdown(cancel_futures=True)


def _copies(
    found: _Findings, same_B: np.ndarray, near: np.ndarray, *, pixels: bool
) -> dict[str, dict[str, dict[str, int]]]:
    """Count the rows of each split that occur in each other split as well."""
    shape = (len(same_B), len(found.splits))
    exact_BS, near_BS = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    exact_BS[same_B, found.split_B] = True
    for one, other in (near.T, near.T[::-1]):
        np.logical_or.at(near_BS, one, exact_BS[other])
    exact_BS, near_BS = exact_BS[same_B], near_BS[same_B]
    counted = {"exact": exact_BS, "near": near_BS & ~exact_BS} if pixels else {"exact": exact_BS}
    return {
        kind: {
            split: {
                other: int(marks_BS[found.split_B == place, column].sum())
                for column, other in enumerate(found.splits)
                if column != place
            }
            for place, split in enumerate(found.splits)
        }
        for kind, marks_BS in counted.items()
    }
