"""Inspection of a data set: its counts, and its problems row by row.

Shape suffixes: B rows, S splits, T side of a thumbnail.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from motivnet.data.clean import pixel_hash
from motivnet.data.duplicates import THUMB_PX, first_of, near_duplicates, thumbnail
from motivnet.data.manifest import Manifest
from motivnet.data.sheet import contact_sheet, read_face
from motivnet.errors import DataError, ImageError
from motivnet.frames.ahead import map_ahead
from motivnet.images import is_blank
from motivnet.storage import atomic_folder, not_formula, write_json

T = TypeVar("T")
# Its functions are defined at import, unknown to type checkers.
pc: Any = pyarrow.compute
# Yields the items and may show progress. Arguments: items, their number, what they are.
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


# Kinds of problem, in the order in which they are listed.
PROBLEMS = {
    "missing": "the file does not exist",
    "unreadable": "the image cannot be decoded",
    "bad_box": "the face's box is not at least half in the image",
    "blank": "all pixels have the same value",
    "listed_twice": "the same file and box as an earlier row",
    "duplicate": "the same pixels as an earlier row",
    "near_duplicate": "a copy of an earlier row: re-encoded, resized, or with other brightness or contrast",
    "neighbours": "near duplicates among the frames of one sequence or film, in one split",
    "two_labels": "the same pixels or file as an earlier row, with another label",
    "shared_subject": "the subject is in an earlier row of another split",
}
ROW_SCHEMA = {"row": pa.int64(), "split": pa.string(), "label": pa.string(), "path": pa.string()}
OTHER_SCHEMA = {f"other_{name}": kind for name, kind in ROW_SCHEMA.items()}
PROBLEM_SCHEMA = pa.schema({"kind": pa.string(), **ROW_SCHEMA, **OTHER_SCHEMA, "detail": pa.string()})
PROBLEM_FILES = ("problems.parquet", "problems.csv", "summary.json")
ROWS_PER_TASK = 256


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The results of an inspection.

    Args:
        manifest: the inspected rows.
        pixels: whether the images were decoded.
        problems: rows of PROBLEM_SCHEMA, sorted by kind and row; `row` and `other_row` are row numbers in the source.
        copies: `exact` and `near`: split -> other split -> number of rows of the first that also occur in the other;
            `near` counts those without an exact copy in the other.
        usable: which rows have an image, bool (B,); without `pixels`, which files exist.
    """

    manifest: Manifest
    pixels: bool
    problems: pa.Table
    copies: dict[str, dict[str, dict[str, int]]]
    usable: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return all counts as plain data for JSON."""
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
        """Return kind -> number of rows, of those whose other row is in another split, and has another label."""
        counts: dict[str, dict[str, int]] = {}
        for row in self.problems.to_pylist():
            count = counts.setdefault(row["kind"], {"rows": 0, "across_splits": 0, "other_label": 0})
            count["rows"] += 1
            count["across_splits"] += row["other_split"] not in (None, row["split"])
            count["other_label"] += row["other_label"] not in (None, row["label"])
        return counts

    def write(self, folder: Path, *, track: Track = lambda items, *_: items) -> None:
        """Write the problems, a summary, and, if images were decoded, a contact sheet per class.

        Files of an earlier inspection are replaced, others stay.

        Raises:
            OutputError: if they cannot be written.
        """
        old = written_files(folder)
        with atomic_folder(folder, merge=True, last=PROBLEM_FILES[-1]) as temporary:
            pyarrow.parquet.write_table(self.problems, temporary / PROBLEM_FILES[0])
            rows = [{name: not_formula(cell) for name, cell in row.items()} for row in self.problems.to_pylist()]
            as_csv = pyarrow.Table.from_pylist(rows, self.problems.schema)
            pyarrow.csv.write_csv(as_csv, temporary / PROBLEM_FILES[1])
            labels = self.manifest.labels.names if self.pixels else ()
            for label in track(labels, len(labels), "contact sheets"):
                # A label may contain characters that are not allowed in file names.
                name = re.sub(r"[^\w-]", "_", label)
                contact_sheet(self.manifest, label, self.usable).save(temporary / f"sheet_{name}.png")
            write_json(temporary / PROBLEM_FILES[-1], self.to_dict())
            for file in old:
                file.unlink()


def written_files(folder: Path) -> list[Path]:
    """List the files of an earlier inspection in a folder."""
    return [*filter(Path.is_file, (folder / name for name in PROBLEM_FILES)), *folder.glob("sheet_*.png")]


def inspect_manifest(
    manifest: Manifest, *, pixels: bool = True, workers: int = 2, track: Track = lambda items, *_: items
) -> Inspection:
    """Find all kinds of problems in PROBLEMS.

    Args:
        manifest: all splits to compare.
        pixels: whether to decode the images; otherwise only files, paths and subjects are checked.
        workers: threads that read and decode images.
        track: shows progress.
    """
    found = _Findings(manifest)
    rows_B = np.arange(len(manifest))
    missing_B = _missing(manifest.table["path"], workers, track)
    found.add("missing", np.flatnonzero(missing_B))
    # Copies have the same path and box; pixels are compared only where there is an image.
    files = zip(*(manifest.table[name].to_pylist() for name in ("path", "box", "start_s", "end_s")), strict=True)
    same_file_B = first_of(path and (path, box and tuple(box), *stretch) for path, box, *stretch in files)
    repeated = np.flatnonzero(same_file_B != rows_B)
    found.add("listed_twice", repeated, same_file_B[repeated])
    usable_B, same_B, near = ~missing_B, same_file_B, np.empty((0, 2), np.int64)
    if pixels:
        hashes, blank_B, thumbs_BTT, errors = decode_images(manifest, ~missing_B, workers, track)
        for row, (kind, detail) in errors.items():
            found.add(kind, [row], details=[detail])
            usable_B[row] = False
        same_B = first_of(
            file if text is None else text for text, file in zip(hashes, same_file_B.tolist(), strict=True)
        )
        found.add("blank", np.flatnonzero(blank_B))
        repeated = np.flatnonzero((same_B != rows_B) & (same_file_B == rows_B))
        found.add("duplicate", repeated, same_B[repeated])
        distinct = np.flatnonzero(usable_B & ~blank_B & (same_B == rows_B))
        near, difference = near_duplicates(thumbs_BTT[distinct])
        near = distinct[near]
        found.add_near(near, difference)
    labels = np.asarray(manifest.targets)
    under_another = np.flatnonzero(labels != labels[same_B])
    found.add("two_labels", under_another, same_B[under_another])
    found.add_shared_subjects()
    return Inspection(manifest, pixels, found.to_table(), _copies(found, same_B, near, pixels=pixels), usable_B)


class _Findings:
    """Collects problems, by the positions of their rows."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        splits = manifest.table["split"].to_pylist()
        self.splits: list[str] = list(dict.fromkeys(splits))
        self.split_B = np.array([self.splits.index(split) for split in splits], np.int64)
        self._found: list[tuple[str, int, int | None, str | None]] = []

    def add(
        self, kind: str, rows: Iterable[int], others: Iterable[int] | None = None, details: list[str] | None = None
    ) -> None:
        """Add rows, each with the earlier row that it copies or contradicts, and a description."""
        nothing = itertools.repeat(None)
        columns = map(int, rows), nothing if others is None else map(int, others), details or nothing
        self._found += zip(itertools.repeat(kind), *columns)

    def add_near(self, pairs: np.ndarray, difference: np.ndarray) -> None:
        """Add each row once for every split that has an earlier copy, with the most similar one.

        Copies among the frames of one video and split are added once for all of them.
        """
        nearest: dict[tuple[int, int], tuple[float, int]] = {}
        groups = [dict(pairs or ()) for pairs in self.manifest.table["groups"].to_pylist()]
        videos, frames = [each.get("sequence") or each.get("film") for each in groups], {}
        for (earlier, later), value in zip(pairs.tolist(), difference.tolist(), strict=True):
            key = later, int(self.split_B[earlier])
            if videos[later] and (videos[later], key[1]) == (videos[earlier], self.split_B[later]):
                frames.setdefault((videos[later], key[1]), set()).update((earlier, later))
                continue
            nearest[key] = min(nearest.get(key, (value, earlier)), (value, earlier))
        for (later, _), (value, earlier) in nearest.items():
            self.add("near_duplicate", [later], [earlier], [f"differs by at most {value:.3f} standard deviations"])
        for first, *rest in map(sorted, frames.values()):
            self.add("neighbours", rest[:1], [first], [f"{1 + len(rest)} frames"])

    def add_shared_subjects(self) -> None:
        """Add, for every subject in several splits, the first row in each split but the first."""
        found: dict[str, dict[int, list[int]]] = {}
        for row, subject in enumerate(self.manifest.table["subject"].to_pylist()):
            if subject is not None:
                found.setdefault(subject, {}).setdefault(self.split_B[row], []).append(row)
        for subject, by_split in found.items():
            first, *later = by_split.values()
            for rows in later:
                detail = f"subject {subject}: {len(rows)} rows here, {len(first)} there"
                self.add("shared_subject", rows[:1], first[:1], [detail])

    def to_table(self) -> pa.Table:
        """Return the problems as a table with PROBLEM_SCHEMA."""
        order = list(PROBLEMS)
        found = sorted(self._found, key=lambda problem: (order.index(problem[0]), problem[1]))
        kinds, rows, others, details = zip(*found, strict=True) if found else ((), (), (), ())
        named = self.manifest.table.select(list(ROW_SCHEMA))
        columns = [
            pa.array(kinds, pa.string()),
            *named.take(pa.array(rows, pa.int64())).columns,
            *named.take(pa.array(others, pa.int64())).columns,
            pa.array(details, pa.string()),
        ]
        # In one chunk: older versions of pyarrow write a CSV header for each.
        return pa.table(columns, schema=PROBLEM_SCHEMA).combine_chunks()


def count_groups(manifest: Manifest) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Return the number of rows: group -> its value -> split -> label -> number."""
    columns = (manifest.table[name].to_pylist() for name in ("groups", "split", "label"))
    counted = Counter[tuple[str, ...]]()
    for pairs, split, label in zip(*columns, strict=True):
        counted.update((key, str(value), split, label) for key, value in pairs or ())
    groups: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for (key, value, split, label), count in sorted(counted.items()):
        groups.setdefault(key, {}).setdefault(value, {}).setdefault(split, {})[label] = count
    return groups


def _missing(paths: pa.ChunkedArray, workers: int, track: Track) -> np.ndarray:
    """Mark the rows whose file does not exist: bool (B,)."""

    def check(rows: range) -> list[bool]:
        named = paths.slice(rows.start, len(rows)).to_pylist()
        return [path is not None and not Path(path).exists() for path in named]

    if paths.null_count == len(paths):
        return np.zeros(len(paths), np.bool_)
    return np.array([found for part in _in_threads(check, len(paths), workers, track, "files") for found in part])


def decode_images(
    manifest: Manifest, exists_B: np.ndarray, workers: int, track: Track
) -> tuple[list[str | None], np.ndarray, np.ndarray, dict[int, tuple[str, str]]]:
    """Decode the images.

    Returns:
        The hashes of the pixels, None without an image; whether all pixels have the same value, bool (B,); thumbnails,
        uint8 (B, T, T), zeros without an image; and row -> kind of problem and error message.
    """
    blank_B = np.zeros(len(manifest), np.bool_)
    thumbs_BTT = np.zeros((len(manifest), THUMB_PX, THUMB_PX), np.uint8)
    errors: dict[int, tuple[str, str]] = {}

    def decode_rows(rows: range) -> list[str | None]:
        return [decode(row) if exists_B[row] else None for row in rows]

    def decode(row: int) -> str | None:
        try:
            image = read_face(manifest, row)
        except (ImageError, DataError) as error:
            errors[row] = ("bad_box" if isinstance(error, DataError) else "unreadable", str(error))
            return None
        blank_B[row] = is_blank(image)
        thumbs_BTT[row] = thumbnail(image)
        return pixel_hash(image)

    hashes = [text for part in _in_threads(decode_rows, len(manifest), workers, track, "images") for text in part]
    return hashes, blank_B, thumbs_BTT, errors


def _in_threads(work: Callable[[range], T], num_rows: int, workers: int, track: Track, what: str) -> Iterable[T]:
    """Process blocks of rows in threads; decoding releases the GIL."""
    blocks = [range(start, min(start + ROWS_PER_TASK, num_rows)) for start in range(0, num_rows, ROWS_PER_TASK)]
    return track(map_ahead(work, blocks, workers), len(blocks), what)


def _copies(
    found: _Findings, same_B: np.ndarray, near: np.ndarray, *, pixels: bool
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of rows of each split that also occur in each other split."""
    shape = (len(same_B), len(found.splits))
    exact_BS, near_BS = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    exact_BS[same_B, found.split_B] = True
    for one, other in (near.T, near.T[::-1]):
        np.logical_or.at(near_BS, one, exact_BS[other])
    exact_BS, near_BS = exact_BS[same_B], near_BS[same_B]
    counted = {"exact": exact_BS, "near": near_BS & ~exact_BS} if pixels else {"exact": exact_BS}
    copies = {kind: {split: dict[str, int]() for split in found.splits} for kind in counted}
    for kind, marks_BS in counted.items():
        for (place, split), (column, other) in itertools.permutations(enumerate(found.splits), 2):
            copies[kind][split][other] = int(marks_BS[found.split_B == place, column].sum())
    return copies
