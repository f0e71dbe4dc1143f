"""Summaries of the rows of videos by person, window and event, on a few rows counted by hand."""

import math
from pathlib import Path

import pytest

from motivnet.errors import ConfigError, DataError

pd = pytest.importorskip("pandas")

from motivnet.video.measures import read_faces, responses, stretches, summarise_people, windows  # noqa: E402

LABELS = ("neutral", "happiness")
ODDS = math.log(0.8 / 0.2)


def face(number: int, track: int, emotion: str, source: str = "a.mp4", step_s: float = 0.5, **more) -> dict:
    probs = {f"prob_{label}": 0.8 if label == emotion else 0.2 for label in LABELS}
    place = {"source": source, "frame": number, "time_s": step_s * number, "face": 0, "track": track}
    return {**place, "emotion": emotion, "prob": 0.8, **probs, "status": "ok", "short_track": False, **more}


def empty(number: int, source: str = "a.mp4") -> dict:
    return {"source": source, "frame": number, "time_s": 0.5 * number, "status": "no_face"}


# Track 0 smiles and disappears, track 1 smiles for one frame; each frame lasts half a second.
ROWS = [
    *(face(number, 0, emotion) for number, emotion in enumerate(("neutral", "neutral", "happiness", "happiness"))),
    empty(4),
    *(face(5 + number, 1, emotion) for number, emotion in enumerate(("neutral", "happiness", "neutral", "neutral"))),
    face(9, 1, "happiness", abstained=True),
    empty(0, "b.mp4"),
    empty(1, "b.mp4"),
    {"source": "c.mp4", "status": "unreadable", "error": "no such file"},
]


def of(table, **key):
    """Return the only row with these values, as a dict without what is missing."""
    for name, value in key.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return {name: value for name, value in row.items() if not pd.isna(value)}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_summary_of_a_person_and_an_emotion():
    table = summarise_people(read_faces(ROWS))
    assert len(table) == 2 * 2 + 2
    assert of(table, source="a.mp4", person="0", emotion="happiness") == {
        **{"source": "a.mp4", "status": "ok", "person": "0", "tracks": "0", "short_track": False},
        **{"file_s": 5.0, "visible_s": 2.0, "absent_s": 3.0, "unanswered_s": 0.0, "emotion": "happiness"},
        **{"time_s": 1.0, "share": 0.5, "mean_prob": 0.5, "peak_prob": 0.8, "peak_s": 1.0},
        **{"onsets": 1, "mean_duration_s": 1.0, "to_neutral": 0},
    }
    neutral = of(table, source="a.mp4", person="1", emotion="neutral")
    # It begins when the face appears, and again after the smile; the abstained frame is no answer.
    assert (neutral["onsets"], neutral["mean_duration_s"], neutral["to_happiness"]) == (2, 0.75, 1)
    assert (neutral["visible_s"], neutral["time_s"], neutral["unanswered_s"]) == (2.5, 1.5, 0.5)


def test_what_is_not_seen_is_missing_and_not_0():
    table = summarise_people(read_faces(ROWS))
    assert of(table, source="b.mp4") == {"source": "b.mp4", "status": "no_face", "file_s": 1.0, "absent_s": 1.0}
    assert of(table, source="c.mp4") == {"source": "c.mp4", "status": "unreadable"}
    never = of(summarise_people(read_faces(ROWS[:2])), emotion="happiness")
    assert (never["onsets"], never["share"], "mean_duration_s" in never) == (0, 0.0, False)


def test_stretches():
    found = stretches(read_faces(ROWS))
    columns = found[["person", "emotion", "start_s", "end_s"]].to_numpy().tolist()
    assert columns == [
        *(["0", "neutral", 0.0, 1.0], ["0", "happiness", 1.0, 2.0]),
        *(["1", "neutral", 2.5, 3.0], ["1", "happiness", 3.0, 3.5], ["1", "neutral", 3.5, 4.5]),
    ]
    assert found["then"].fillna("").tolist() == ["happiness", "", "happiness", "neutral", ""]


def test_windows_are_complete():
    table = windows(read_faces(ROWS), 2.0)
    assert table[["person", "start_s", "end_s", "frames"]].to_numpy().tolist() == [
        *(["0", 0.0, 2.0, 4], ["0", 2.0, 4.0, 0], ["0", 4.0, 6.0, 0]),
        *(["1", 0.0, 2.0, 0], ["1", 2.0, 4.0, 3], ["1", 4.0, 6.0, 2]),
    ]
    assert of(table, person="1", start_s=0.0) == {**of(table, person="1", start_s=0.0), "frames": 0}
    assert "prob_neutral" not in of(table, person="1", start_s=0.0)
    assert of(table, person="1", start_s=2.0)["prob_neutral"] == pytest.approx(0.6)
    assert (of(table, person="1", start_s=2.0)["emotion"], of(table, person="0", start_s=0.0)["visible_s"]) == (
        *("neutral", 2.0),
    )


def test_windows_of_a_tenth_of_a_second_have_a_frame_each():
    rows = [face(number, 0, "neutral", step_s=0.1) for number in range(20)]
    assert windows(read_faces(rows), 0.1)["frames"].tolist() == [1] * 20


def test_a_baseline_is_subtracted_in_log_odds(tmp_path: Path):
    rest = write(tmp_path / "rest.csv", "person,start_s,end_s,code\n0,0,1,rest\n")
    table = summarise_people(read_faces(ROWS, baseline=rest))
    smile = of(table, person="0", emotion="happiness")
    assert (smile["mean_change"], smile["peak_change"]) == (pytest.approx(ODDS), pytest.approx(2 * ODDS))
    assert "mean_change" not in of(table, person="1", emotion="happiness")


def test_an_estimated_baseline_is_the_most_neutral_stretch():
    emotions = ["happiness"] * 10 + ["neutral"] * 10 + ["happiness"] * 10
    faces = read_faces([face(number, 0, emotion) for number, emotion in enumerate(emotions)], baseline="estimated")
    assert faces.frame["change_happiness"].tolist() == pytest.approx(
        [2 * ODDS if emotion == "happiness" else 0 for emotion in emotions]
    )
    # Of a shorter track it is the mean of all.
    short = read_faces(ROWS[:4], baseline="estimated")
    assert short.frame["change_neutral"].tolist() == pytest.approx([ODDS, ODDS, -ODDS, -ODDS])


def test_an_estimated_baseline_needs_neutral():
    rows = [{name: value for name, value in row.items() if name != "prob_neutral"} for row in ROWS]
    with pytest.raises(ConfigError, match="no label neutral"):
        read_faces(rows, baseline="estimated")


def test_responses_compare_with_the_second_before(tmp_path: Path):
    events = write(tmp_path / "events.csv", "time_s,event,source\n1,joke,a\n4.5,end,a.mp4\n")
    table = responses(read_faces(ROWS), events)
    joke = of(table, event="joke", person="0", emotion="happiness")
    assert joke == {
        **{"source": "a.mp4", "event": "joke", "start_s": 1.0, "end_s": 3.0, "person": "0", "emotion": "happiness"},
        **{"frames": 2, "before_prob": pytest.approx(0.2), "mean_prob": pytest.approx(0.8), "peak_prob": 0.8},
        **{"peak_s": 1.0, "response": pytest.approx(2 * ODDS)},
    }
    # Track 1 was not there before the joke, and track 0 is not there any more at the end.
    assert "response" not in of(table, event="joke", person="1", emotion="neutral")
    assert {"frames", "mean_prob"} & set(of(table, event="end", person="0", emotion="neutral")) == {"frames"}


def test_tracks_of_one_name_are_one_person(tmp_path: Path):
    names = write(tmp_path / "tracks.csv", "source;track;name\na.mp4;0;Ann\na.mp4;1;Ann\n")
    table = summarise_people(read_faces(ROWS, names))
    ann = of(table, person="Ann", emotion="happiness")
    assert (ann["tracks"], ann["visible_s"], ann["absent_s"], ann["onsets"]) == ("0 1", 4.5, 0.5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("track,name\n0,Ann\n", "source None fits 3 videos"),
        ("source,track,name\nz.mp4,0,Ann\n", "source 'z.mp4' fits 0 videos. Allowed: a.mp4, b.mp4, c.mp4"),
        ("source,track,name\na.mp4,7,Ann\n", "row 0: track 7 of a.mp4 is not in the rows"),
        ("source,track,name\na.mp4,0,Ann\na.mp4,0,Bo\n", "row 1: track 0 of a.mp4 is not in the rows, or named before"),
        ("source,track\na.mp4,0\n", "columns source, track. Allowed: track, name and source"),
    ],
)
def test_names_that_cannot_be_used(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read_faces(ROWS, write(tmp_path / "tracks.csv", text))


def test_one_person_cannot_be_in_two_places(tmp_path: Path):
    names = write(tmp_path / "tracks.csv", "source,track,name\na.mp4,0,Ann\na.mp4,1,Ann\n")
    with pytest.raises(DataError, match=r"two tracks of Ann are visible in frame 5 of a\.mp4"):
        read_faces([*ROWS, face(5, 0, "neutral")], names)


def test_rows_without_faces_give_empty_tables():
    faces = read_faces(
        [
            empty(0)
            | {f"prob_{label}": None for label in LABELS}
            | {"face": None, "track": None}
            | {"emotion": None, "prob": None}
        ]
    )
    assert len(windows(faces)) == len(stretches(faces)) == 0
    assert summarise_people(faces)["absent_s"].tolist() == [0.04]


def test_rows_must_be_of_videos():
    with pytest.raises(DataError, match="rows without frame, time_s"):
        read_faces([{"source": "a", "face": 0, "track": 0, "emotion": "x", "status": "ok"}])
