"""Videos over time: tables of rows with names of people, and stretches with a code, from ELAN, BORIS or CSV.

A stretch is what a human coder saw, a stimulus, or a time of rest: its video (`source`, empty: not said), `coder`,
`person` (a track's number or name, empty: not said), `start_s` and `end_s` (NaN: not said) in seconds, `code`, and
`intensity` (NaN: not said).

ELAN's and BORIS' files are read with the standard library rather than pympi-ling and BORIS itself: the one raises bare
Exceptions, the other is a program with windows.
"""

# pandas declares what its methods return too widely for pyright.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from motivnet.config import parse_json
from motivnet.errors import DataError, reraised
from motivnet.inference.rows import Row
from motivnet.inference.tables import open_table

COLUMNS = ("source", "coder", "person", "start_s", "end_s", "code", "intensity")
# Names of columns in CSV files -> ours; the first that a file has counts. BORIS' exports have those with capitals.
CSV_COLUMNS = {
    "source": ("source", "Media file name", "Media file", "Observation id"),
    "coder": ("coder",),
    "person": ("person", "track", "Subject"),
    "start_s": ("start_s", "time_s", "Start (s)", "Time"),
    "end_s": ("end_s", "Stop (s)"),
    "code": ("code", "emotion", "label", "event", "Behavior"),
    "intensity": ("intensity",),
}
NEEDED = ("source", "frame", "time_s", "face", "track", "emotion", "status")
# Where another program says that a behaviour is of nobody in particular.
NOBODY = ("", "No focal subject")
Rows = str | os.PathLike[str] | pd.DataFrame | Iterable[Row]


def read_rows(rows: Rows, names: Path | None = None) -> pd.DataFrame:
    """Return the rows of videos as a data frame, with a column `person`; the emotion of abstained rows is missing.

    Args:
        rows: a table that `label_video` wrote, its rows, or a data frame of them.
        names: a CSV file with the columns track, name and, of several videos, source; tracks of one name are one
            person. None: each track is a person, named by its number.

    Raises:
        DataError: if a column is missing, a track has two names or is not in the rows, or two tracks of one person
            are visible at once.
    """
    if isinstance(rows, (str, os.PathLike)):
        frame = _read_table(Path(rows))
    else:
        frame = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame.from_records(list(rows))
    missing = [name for name in NEEDED if name not in frame]
    if missing or frame.empty:
        raise DataError(f"rows without {', '.join(missing) or 'any content'}. Allowed: those of `motivnet video`")
    frame["emotion"] = frame["emotion"].astype(object).where(frame["emotion"].notna(), None)
    if "abstained" in frame:
        frame.loc[frame["abstained"].isin([True]), "emotion"] = None
    track = frame["track"].astype("Int64")
    frame["person"] = track.astype(str).astype(object).where(track.notna(), None)
    return frame if names is None else _name_people(frame, names)


def labels_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """Return the labels that have a column of probabilities, in order."""
    return tuple(name.removeprefix("prob_") for name in rows if str(name).startswith("prob_"))


def read_stretches(path: Path) -> pd.DataFrame:
    """Read stretches with a code.

    Args:
        path: an `.eaf` file of ELAN: a tier's annotator is the coder, its participant the person; a `.boris` project;
            or a CSV file: one that BORIS exported, or one with columns named as above.

    Returns:
        The columns above, sorted by source, coder, person and start.

    Raises:
        DataError: if it cannot be read, or a time or an intensity is not a number.
    """
    readers = {".eaf": _read_elan, ".boris": _read_boris, ".csv": _read_csv, ".tsv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown format {path.suffix!r}. Allowed: {', '.join(readers)}")
    damaged = (OSError, ValueError, TypeError, KeyError, AttributeError, ElementTree.ParseError)
    with reraised(DataError, f"{path}: cannot be read", *damaged):
        found = pd.DataFrame(readers[path.suffix.lower()](path), columns=list(COLUMNS))
        for name in ("start_s", "end_s", "intensity"):
            found[name] = pd.to_numeric(found[name]).astype(float)
    texts = found[["source", "coder", "person", "code"]].astype(object)
    found[list(texts)] = texts.where(texts.notna() & ~texts.isin(NOBODY), None)
    bad = found["start_s"].isna() | (found["end_s"] < found["start_s"]) | found["code"].isna()
    if bad.any() or found.empty:
        where = f"stretch {int(bad.to_numpy().argmax())}: no code, no start, or an end before it" if len(found) else ""
        raise DataError(f"{path}: {where or 'no stretches'}. Allowed: a code from start to end, in seconds")
    return found.sort_values(["source", "coder", "person", "start_s"], ignore_index=True)


def match_sources(path: Path, named: pd.Series, sources: Sequence[str], *, everywhere: bool = False) -> list[list[str]]:
    """Find the videos that a file's rows are about: by their path, or the name of their file with or without suffix.

    Args:
        path: the file, for messages.
        named: one name per row, or None.
        sources: of the table of rows.
        everywhere: a row without a name is about all of them, not only about the only one.

    Returns:
        The sources of each row.

    Raises:
        DataError: if a name fits none or several, or a row names none of several.
    """
    known: dict[object, set[str]] = {}
    for source in sources:
        base = source.replace("\\", "/").rpartition("/")[2]
        for name in (source, base, base.rpartition(".")[0]):
            known.setdefault(name, set()).add(source)
    found = []
    for name in named:
        base = str(name).replace("\\", "/").rpartition("/")[2]
        fits = set(sources) if name is None or name != name else known.get(name) or known.get(base) or set()
        if not fits or (len(fits) > 1 and not (everywhere and len(fits) == len(sources))):
            raise DataError(f"{path}: source {name!r} fits {len(fits)} videos. Allowed: {', '.join(sorted(sources))}")
        found.append(sorted(fits))
    return found


def write_frame(path: Path, frame: pd.DataFrame, columns: dict[str, str], **how: bool) -> None:
    """Write a data frame as `open_table` does; what is missing is empty."""
    with open_table(path, columns, **how) as write:
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
            write(row)


def check_people(path: Path, named: pd.Series, known: pd.Series) -> None:
    """Refuse the name of a person whom the rows do not have; DataError."""
    unknown = named[named.notna() & ~named.isin(known)]
    if len(unknown):
        allowed = ", ".join(sorted(known.dropna().unique()))
        raise DataError(f"{path}: unknown person {unknown.iloc[0]!r}. Allowed: {allowed}")


def _read_table(path: Path) -> pd.DataFrame:
    readers: dict[str, Any] = {
        ".parquet": pd.read_parquet,
        ".csv": functools.partial(pd.read_csv, dtype={"source": str, "error": str}, encoding="utf-8-sig"),
        ".jsonl": functools.partial(pd.read_json, lines=True),
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown format {path.suffix!r}. Allowed: {', '.join(readers)}")
    with reraised(DataError, f"{path}: cannot be read", OSError, ValueError):
        return readers[path.suffix.lower()](path)


def _read_text(path: Path) -> pd.DataFrame:
    """Read a CSV file as text; its separator is a comma, a semicolon or a tab."""
    with path.open(encoding="utf-8-sig") as file:
        separator = max(",;\t", key=file.readline().count)
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", dtype=str)


def _name_people(frame: pd.DataFrame, names: Path) -> pd.DataFrame:
    with reraised(DataError, f"{names}: cannot be read", OSError, ValueError):
        given = _read_text(names)
    if not {"track", "name"} <= set(given) or given[["track", "name"]].isna().any(axis=None):
        raise DataError(f"{names}: columns {', '.join(given)}. Allowed: track, name and source, no empty cell")
    sources = match_sources(names, given.get("source", pd.Series([None] * len(given))), [*frame["source"].unique()])
    keys = list(zip((each[0] for each in sources), given["track"], strict=True))
    seen = set(zip(frame["source"], frame["person"], strict=True))
    for number, key in enumerate(keys):
        if key not in seen or key in keys[:number]:
            raise DataError(f"{names}, row {number}: track {key[1]} of {key[0]} is not in the rows, or named before")
    people = dict(zip(keys, given["name"], strict=True))
    tracks = zip(frame["source"], frame["person"], strict=True)
    frame["person"] = pd.Series([people.get(key, key[1]) for key in tracks], frame.index, dtype=object)
    twice = frame[frame["person"].notna() & frame.duplicated(["source", "frame", "person"])]
    if len(twice):
        source, number, person = twice.iloc[0][["source", "frame", "person"]]
        raise DataError(f"{names}: two tracks of {person} are visible in frame {number:g} of {source}: not one person")
    return frame


def _read_elan(path: Path) -> Iterator[Row]:
    root = ElementTree.parse(path).getroot()
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    media = next((each.get("MEDIA_URL") for each in root.iter("MEDIA_DESCRIPTOR")), None)
    for tier in root.iter("TIER"):
        person = tier.get("PARTICIPANT") or None
        coder = tier.get("ANNOTATOR") or (path.stem if person else tier.get("TIER_ID"))
        for found in tier.iter("ALIGNABLE_ANNOTATION"):
            start_s, end_s = (int(slots[found.get(f"TIME_SLOT_REF{n}")] or "") / 1000 for n in (1, 2))
            code = (found.findtext("ANNOTATION_VALUE") or "").strip()
            yield dict(zip(COLUMNS, (media, coder, person, start_s, end_s, code, None), strict=True))


def _read_boris(path: Path) -> list[Row]:
    events = []
    project = parse_json(path.read_text(encoding="utf-8-sig"))
    points = {each["code"] for each in project["behaviors_conf"].values() if each["type"].startswith("Point")}
    for name, observation in project["observations"].items():
        files = observation.get("file") or {}
        source = next((file for group in files.values() for file in group), name)
        events += [(source, *event[:3], event[2] in points) for event in observation["events"]]
    return _pair(path, [(source, person, code, time_s, point) for source, time_s, person, code, point in events])


def _read_csv(path: Path) -> list[Row]:
    table = _read_text(path)
    found = {name: next((each for each in own if each in table), None) for name, own in CSV_COLUMNS.items()}
    if found["start_s"] is None or found["code"] is None:
        raise DataError(f"{path}: columns {', '.join(table)}. Allowed: start_s, code and {', '.join(COLUMNS)}")
    picked = pd.DataFrame({name: table[each] if each else None for name, each in found.items()}, dtype=object)
    if "Behavior type" in table and found["end_s"] is None:
        points, times = table["Behavior type"] == "POINT", pd.to_numeric(picked["start_s"])
        return _pair(path, list(zip(picked["source"], picked["person"], picked["code"], times, points, strict=True)))
    picked["coder"] = picked["coder"].fillna(path.stem)
    return picked.to_dict("records")


def _pair(path: Path, events: list[tuple[Any, ...]]) -> list[Row]:
    """Make stretches of BORIS' events, (source, person, code, time, point): every second one of a state ends it."""
    started: dict[tuple[Any, ...], float] = {}
    found = []
    for *key, time_s, point in sorted(events, key=lambda event: event[3]):
        start_s = time_s if point else started.pop(tuple(key), None)
        if start_s is None:
            started[tuple(key)] = time_s
        else:
            source, person, code = key
            found.append(dict(zip(COLUMNS, (source, path.stem, person, start_s, time_s, code, None), strict=True)))
    if started:
        (source, person, code), time_s = next(iter(started.items()))
        raise DataError(f"{path}: {code} of {person or 'nobody'} in {source} starts at {time_s} s and does not end")
    return found
