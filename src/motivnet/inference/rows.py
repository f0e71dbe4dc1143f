"""The row schema of all result files: one row per face, or per image or frame without a face.

`docs/codebook.md` describes the columns. Imports nothing heavy, because the command line needs the columns before it
loads a model.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from motivnet.labels import AFFECT
from motivnet.storage import ASSETS, read_csv

if TYPE_CHECKING:
    from collections import Counter

    from motivnet.inference.results import FaceResult, ImageResult

Row = dict[str, Any]

# Every column of a table of results: its Parquet type, whether rows have it, and its meaning. `*` stands for what
# there are several of, such as labels.
CODEBOOK = ASSETS / "codebook.csv"
_COLUMNS = {line["column"]: line for line in read_csv(CODEBOOK)}
# On request: the landmarks of a `Detection`, and the head's pose.
_LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
LANDMARK_COLUMNS = (*(f"{name}_{axis}" for name in _LANDMARKS for axis in "xy"), "yaw", "pitch", "roll")


def all_columns(labels: Iterable[str], *, landmarks: bool = False, affect: bool = False) -> dict[str, str]:
    """Return all columns in order, with their Parquet types.

    Args:
        labels: labels of the model, with one probability column each.
        landmarks: whether `LANDMARK_COLUMNS` are among them.
        affect: whether valence and arousal are: the model predicts them.
    """
    found = [name for name, line in _COLUMNS.items() if line["rows"] and (affect or name not in AFFECT)]
    place = found.index("prob_*")
    found[place : place + 1] = [f"prob_{label}" for label in labels]
    return {name: described(name)["type"] for name in (*found, *LANDMARK_COLUMNS * landmarks)}


def described(column: str) -> dict[str, str]:
    """Return the line of the codebook about a column."""
    return _COLUMNS.get(column) or _COLUMNS[f"{column.partition('_')[0]}_*"]


def to_rows(result: "ImageResult") -> Iterator[Row]:
    """Yield the rows of one image; a column without a value is left out."""
    image = {
        "source": printable(result.source),
        "status": result.status,
        "error": None if result.error is None else printable(result.error),
        "model": result.model,
        "preprocessing": result.preprocessing,
        "image_width": result.width,
        "image_height": result.height,
    }
    return face_rows(image, result.faces)


def face_rows(image: Row, faces: "Sequence[FaceResult]", tracks: Sequence[int] | None = None) -> Iterator[Row]:
    """Yield a row per face, numbered from 0, or `image` alone if there is no face.

    Args:
        image: the columns common to all rows.
        faces: largest first.
        tracks: the track of each face, in a video.
    """
    if not faces:
        yield image
    for number, face in enumerate(faces):
        probs = {f"prob_{label}": prob for label, prob in face.probs.items()}
        track = {} if tracks is None else {"track": tracks[number]}
        yield image | {"face": number} | track | face_columns(face) | probs


def face_columns(face: "FaceResult") -> Row:
    """Return the columns of one face, without number, track and probabilities."""
    return {
        **face.box._asdict(),
        **{name: getattr(face, name) for name in ("face_score", "emotion", "prob", "tiny", "abstained")},
        **({} if face.valence is None else dict(zip(AFFECT, (face.valence, face.arousal), strict=True))),
        **_landmark_columns(face),
    }


def _landmark_columns(face: "FaceResult") -> Row:
    if face.landmarks is None:
        return {}
    known = itertools.chain(*face.landmarks, face.pose or ())
    return dict(itertools.zip_longest(LANDMARK_COLUMNS, known))


def landmarks_of(row: Row) -> tuple[tuple[float, float], ...] | None:
    """Return the landmarks of a row, as `FaceResult` has them."""
    if LANDMARK_COLUMNS[0] not in row:
        return None
    xs, ys = ([row[f"{name}_{axis}"] for name in _LANDMARKS] for axis in "xy")
    return () if None in xs else tuple(zip(xs, ys, strict=True))


def marked(face: "FaceResult") -> str:
    """Return the emotion for display, followed by a question mark if the model abstained."""
    return f"{face.emotion}{'?' if face.abstained else ''}"


def printable(text: str) -> str:
    """Escape bytes of a file name that are not UTF-8, so that it can be written anywhere."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def counts_of(result: "ImageResult") -> dict[str, int]:
    """Return what one image adds to the counts of `summarise`."""
    abstained = sum(face.abstained for face in result.faces)
    return {"images": 1, "faces": len(result.faces), "abstained": abstained, result.status: 1}


def summarise(counts: "Counter[str]") -> str:
    """Describe the numbers of images, faces, and of each status."""
    parts = [
        f"{plural(counts['faces'], 'face')} in {plural(counts['images'], 'image')}",
        f"abstained from {counts['abstained']}, marked '?'" if counts["abstained"] else "",
        f"{counts['no_face']} without a face" if counts["no_face"] else "",
        f"{counts['unreadable']} unreadable" if counts["unreadable"] else "",
    ]
    return "; ".join(part for part in parts if part)
