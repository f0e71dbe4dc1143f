"""What psychologists count in the rows of videos, as data frames: by person, by window of time, after each event.

A person is a track, or all tracks of one name (`read_rows`). What was not seen is missing, never 0. Frames last until
the next processed frame of their file. Changes are differences of log-odds to the person's own baseline.
"""

# pandas declares what its methods return too widely for pyright.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from motivnet.errors import ConfigError
from motivnet.evaluation.timeline import Rows, check_people, labels_of, match_sources, read_rows, read_stretches
from motivnet.inference.results import PANDAS_TYPES
from motivnet.inference.rows import Row, described
from motivnet.video.summary import FRAME_S

# Length of the stretch that is taken as a person's neutral one, in seconds.
BASELINE_S = 5.0
ESTIMATED = "estimated"
# Before the start of an event, and after it where the event has no end, in seconds.
BEFORE_S, AFTER_S = 1.0, 2.0
# Probabilities are kept this far from 0 and 1, where log-odds are infinite.
MARGIN = 1e-6
PERSON = ["source", "person"]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: PANDAS_TYPES[described(name)["type"]] for name in frame})


@dataclasses.dataclass(frozen=True, slots=True)
class Faces:
    """The faces of videos over time.

    Args:
        frame: one row per face, sorted by source, person and time: the columns of the rows, `person`, `duration_s`,
            and `step`, the frame's place among the processed ones; with a baseline `change_LABEL`, missing for people
            whose baseline was not seen.
        files: source -> status, start_s, end_s, length_s (for how long its frames are shown), and fps.
        labels: of the model, in order.
        values: columns of `frame` with numbers of each label: prob_LABEL, change_LABEL.
    """

    frame: pd.DataFrame
    files: dict[str, Row]
    labels: tuple[str, ...]
    values: list[str]


def read_faces(rows: Rows, names: Path | None = None, baseline: str | Path | None = None) -> Faces:
    """Return the faces of videos over time.

    Args:
        rows: as of `read_rows`.
        names: as of `read_rows`.
        baseline: `estimated`, each person's five seconds of the highest probability of neutral, or all if there are
            fewer; or a file with stretches (`read_stretches`), which apply to all people where they name none.

    Raises:
        DataError: if a file cannot be used.
        ConfigError: if neutral is to be found, and is not a label of the model.
    """
    frame = read_rows(rows, names)
    times = frame.loc[frame["frame"].notna(), ["source", "frame", "time_s"]].drop_duplicates(["source", "frame"])
    times = times.sort_values(["source", "frame"])
    lengths = times.groupby("source")["time_s"].diff().shift(-1)
    times["duration_s"] = lengths.fillna(lengths.groupby(times["source"]).transform("mean")).fillna(FRAME_S)
    times["step"] = times.groupby("source").cumcount()
    faces = frame[frame["status"] == "ok"].merge(times.drop(columns="time_s"), on=["source", "frame"])
    faces = faces.sort_values([*PERSON, "step"], ignore_index=True)
    files = frame.groupby("source", sort=False).agg(
        status=("status", "first"), start_s=("time_s", "min"), end_s=("time_s", "max"), frames=("frame", "max")
    )
    files["fps"] = (files.pop("frames") / files["end_s"]).where(files["end_s"] > 0, 1 / FRAME_S)
    files["length_s"] = times.groupby("source")["duration_s"].sum().reindex(files.index)
    labels = labels_of(faces)
    values = [f"prob_{label}" for label in labels]
    found = Faces(faces, files.to_dict("index"), labels, values)
    return found if baseline is None else _add_changes(found, baseline)


def _add_changes(found: Faces, baseline: str | Path) -> Faces:
    faces, changes = found.frame, [f"change_{label}" for label in found.labels]
    odds = _log_odds(faces[found.values]).set_axis(changes, axis=1)
    resting = pd.Series(data=False, index=faces.index)
    if str(baseline) == ESTIMATED:
        if "neutral" not in found.labels:
            raise ConfigError(f"baseline {ESTIMATED}: the model has no label neutral. Allowed: a file with stretches")
        for _, of in faces.groupby(PERSON):
            resting[of.index] = _most_neutral(of)
    else:
        for start_s, end_s, source, person, _ in _stretches_in(found, Path(baseline)):
            inside = (faces["source"] == source) & faces["time_s"].between(start_s, end_s, inclusive="left")
            resting |= inside if person is None else inside & (faces["person"] == person)
    rest = odds.where(resting).groupby([faces[name] for name in PERSON]).transform("mean")
    return dataclasses.replace(found, frame=faces.join(odds - rest), values=[*found.values, *changes])


def _log_odds(probs: pd.DataFrame) -> pd.DataFrame:
    kept = probs.clip(MARGIN, 1 - MARGIN)
    return np.log(kept / (1 - kept))


def _most_neutral(of: pd.DataFrame) -> pd.Series:
    """Mark the stretch of a person's faces with the highest mean probability of neutral."""
    timed = of.set_index(pd.to_timedelta(of["time_s"], unit="s"))
    window = pd.Timedelta(seconds=BASELINE_S)
    means, seen_s = timed["prob_neutral"].rolling(window).mean(), timed["duration_s"].rolling(window).sum()
    # At least half of the stretch must have been seen, and none may begin before the first face.
    means = means[(seen_s >= BASELINE_S / 2) & (timed["time_s"] >= of["time_s"].iloc[0] + BASELINE_S)]
    if means.empty:
        return pd.Series(data=True, index=of.index)
    end_s = means.idxmax().total_seconds()
    return of["time_s"].between(end_s - BASELINE_S, end_s, inclusive="right")


def _stretches_in(faces: Faces, path: Path) -> list[tuple[float, float, str, str | None, str]]:
    """Return (start, end, source, person, code) of the stretches in a file; what has no end lasts for ever."""
    found = read_stretches(path)
    found["source"] = match_sources(path, found["source"], list(faces.files), everywhere=True)
    found = found.explode("source", ignore_index=True)
    check_people(path, found["person"], faces.frame["person"])
    ends = found["end_s"].fillna(np.inf)
    return list(zip(found["start_s"], ends, found["source"], found["person"], found["code"], strict=True))


def stretches(faces: Faces) -> pd.DataFrame:
    """Return the stretches in which a person's emotion stays the same, and the person is seen without a gap.

    Args:
        faces: of videos.

    Returns:
        Columns source, person, emotion, start_s, end_s, prob (its mean), and `then`, the emotion that follows at once.
    """
    frame = faces.frame
    key = frame[[*PERSON, "emotion"]].fillna("")
    begins = (key != key.shift()).any(axis=1) | (frame["step"] != frame["step"].shift() + 1)
    groups = frame.assign(end_s=frame["time_s"] + frame["duration_s"]).groupby(begins.cumsum())
    found = groups.agg(
        source=("source", "first"),
        person=("person", "first"),
        emotion=("emotion", "first"),
        start_s=("time_s", "first"),
        end_s=("end_s", "last"),
        prob=("prob", "mean"),
        first=("step", "first"),
        last=("step", "last"),
    )
    same = (found[PERSON].shift(-1) == found[PERSON]).all(axis=1) & (found["first"].shift(-1) == found["last"] + 1)
    found["then"] = found["emotion"].shift(-1).where(same, None)
    return _typed(found[found["emotion"].notna()].drop(columns=["first", "last"]).reset_index(drop=True))


def summarise_people(faces: Faces) -> pd.DataFrame:
    """Return one row per file, person and emotion; a file without a face has one row."""
    spells, found = stretches(faces).groupby([*PERSON, "emotion"]), []
    for (source, person), of in faces.frame.groupby(PERSON, sort=False):
        visible_s, file = of["duration_s"].sum(), faces.files[source]
        about = {
            "source": source,
            "status": "ok",
            "person": person,
            "tracks": " ".join(map(str, sorted(of["track"].astype(int).unique()))),
            "short_track": bool(of["short_track"].isin([True]).all()) if "short_track" in of else None,
            "file_s": file["length_s"],
            "visible_s": visible_s,
            "absent_s": max(0.0, file["length_s"] - visible_s),
            "unanswered_s": of.loc[of["emotion"].isna(), "duration_s"].sum(),
        }
        for label in faces.labels:
            key, time_s = (source, person, label), of.loc[of["emotion"] == label, "duration_s"].sum()
            onsets = len(spells.indices.get(key, ()))
            then = spells.get_group(key)["then"].dropna().tolist() if onsets else []
            times = {"time_s": time_s, "share": time_s / visible_s, **_describe(of, label)}
            spent = {"onsets": onsets, "mean_duration_s": time_s / onsets if onsets else None}
            follows = {f"to_{other}": then.count(other) if other != label else None for other in faces.labels}
            found.append(about | {"emotion": label} | times | spent | follows)
    seen = {row["source"] for row in found}
    for source, file in faces.files.items():
        if source not in seen:
            empty = {"file_s": file["length_s"], "absent_s": file["length_s"]}
            found.append({"source": source, "status": file["status"], **empty})
    columns = ["source", "status", "person", "tracks", "short_track", "file_s", "visible_s", "absent_s", "unanswered_s"]
    columns += ["emotion", "time_s", "share", *_described(faces), "onsets", "mean_duration_s"]
    return _typed(pd.DataFrame(found, columns=[*columns, *(f"to_{label}" for label in faces.labels)]))


def _described(faces: Faces) -> list[str]:
    changes = len(faces.values) > len(faces.labels)
    return ["mean_prob", "peak_prob", "peak_s", *["mean_change", "peak_change"] * changes]


def _describe(of: pd.DataFrame, label: str) -> Row:
    """Return the mean and the peak of a label in some faces of one person; missing where there are none."""
    probs, change = of[f"prob_{label}"], of.get(f"change_{label}")
    found = {"mean_prob": probs.mean(), "peak_prob": probs.max()}
    found["peak_s"] = of["time_s"][probs.idxmax()] if len(of) else None
    return found if change is None else found | {"mean_change": change.mean(), "peak_change": change.max()}


def windows(faces: Faces, window_s: float = 1.0) -> pd.DataFrame:
    """Return one row per file, person and window of time, from the file's first processed frame to its last.

    Args:
        faces: of videos.
        window_s: length, in seconds; windows begin at multiples of it.

    Returns:
        `emotion` is that of the highest mean probability; of a window in which the person is not seen, `frames` is 0
        and the rest is missing.
    """
    found, probs = [], faces.values[: len(faces.labels)]
    # A time such as 0.3 lies a rounding error below three windows of 0.1.
    numbers = np.floor(faces.frame["time_s"] / window_s + 1e-9).astype(int)
    for (source, person), of in faces.frame.groupby(PERSON, sort=False):
        first, last = (int(faces.files[source][end] / window_s + 1e-9) for end in ("start_s", "end_s"))
        inside = of.groupby(numbers[of.index])
        table = inside[faces.values].mean().reindex(range(first, last + 1))
        starts_s = table.index.to_numpy() * window_s
        head = {
            "source": source,
            "person": person,
            "start_s": starts_s,
            "end_s": starts_s + window_s,
            "frames": inside.size().reindex(table.index, fill_value=0),
            "visible_s": inside["duration_s"].sum().reindex(table.index),
            "emotion": table[probs].dropna().idxmax(axis=1).str.removeprefix("prob_").reindex(table.index),
        }
        found.append(pd.DataFrame(head, index=table.index).join(table))
    columns = ["source", "person", "start_s", "end_s", "frames", "visible_s", "emotion", *faces.values]
    return _typed(pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns))


def responses(faces: Faces, events: Path, before_s: float = BEFORE_S, after_s: float = AFTER_S) -> pd.DataFrame:
    """Return one row per event, person and emotion: what the face showed before, and in response.

    Args:
        faces: of videos.
        events: a file with stretches (`read_stretches`), such as stimuli; without a source they are in every file,
            without a person everyone sees them.
        before_s: how long before its start counts as before, in seconds.
        after_s: how long after its start counts as response, in seconds, of an event without an end.

    Returns:
        `response` is the mean of the log-odds in response minus that before; missing unless the face was seen in both.
    """
    found: list[Row] = []
    by_file = dict(list(faces.frame.groupby("source")))
    for start_s, end_s, source, named, code in _stretches_in(faces, events):
        end_s = end_s if start_s < end_s < np.inf else start_s + after_s
        for person, of in by_file[source].groupby("person", sort=False) if source in by_file else ():
            if named not in (None, person):
                continue
            earlier, later = (
                of[of["time_s"].between(*ends, inclusive="left")]
                for ends in ((start_s - before_s, start_s), (start_s, end_s))
            )
            change = _log_odds(later[faces.values]).mean() - _log_odds(earlier[faces.values]).mean()
            about = {"source": source, "event": code, "start_s": start_s, "end_s": end_s, "person": person}
            for label in faces.labels:
                name = f"prob_{label}"
                before = {"emotion": label, "frames": len(later), "before_prob": earlier[name].mean()}
                found.append(about | before | _describe(later, label) | {"response": change[name]})
    columns = ["source", "event", "start_s", "end_s", "person", "emotion", "frames", "before_prob"]
    return _typed(pd.DataFrame(found, columns=[*columns, *_described(faces), "response"]))
