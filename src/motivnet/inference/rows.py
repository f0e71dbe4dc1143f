"""The table of results: one row per face, or one for an image without; what every file of results is made of.

Imports nothing heavy: the command line knows the columns before it loads a model.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from motivnet.labels import AFFECT

if TYPE_CHECKING:
    from motivnet.inference.results import ImageResult

Row = dict[str, Any]

# Columns before the probabilities, with the type that Parquet gives them.
COLUMNS = {
    "source": "string",
    "status": "string",
    "error": "string",
    "model": "string",
    "preprocessing": "string",
    "image_width": "int32",
    "image_height": "int32",
    "face": "int32",
    "x": "float64",
    "y": "float64",
    "width": "float64",
    "height": "float64",
    "tiny": "bool",
    "score": "float64",
    "emotion": "string",
    "abstained": "bool",
}


def all_columns(labels: Iterable[str], *, affect: bool) -> dict[str, str]:
    """Give all columns of a model's results, with their types.

    Args:
        labels: of the model, which give the probability columns.
        affect: whether the model gives valence and arousal, which are the last columns then.
    """
    probs = {f"prob_{label}": "float64" for label in labels}
    return COLUMNS | probs | (dict.fromkeys(AFFECT, "float64") if affect else {})


def to_rows(result: "ImageResult") -> Iterator[Row]:
    """Give the rows of one image: one per face, numbered from 0, or a single one with empty face columns."""
    image: Row = dict.fromkeys(COLUMNS)
    image |= {
        "source": printable(result.source),
        "status": result.status,
        "error": None if result.error is None else printable(result.error),
        "model": result.model,
        "preprocessing": result.preprocessing,
        "image_width": result.width,
        "image_height": result.height,
    }
    if not result.faces:
        yield image
    for number, face in enumerate(result.faces):
        x, y, width, height = face.box
        yield image | {
            "face": number,
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "tiny": face.tiny,
            "score": face.score,
            "emotion": face.emotion,
            "abstained": face.abstained,
            **{f"prob_{label}": prob for label, prob in face.probs.items()},
            **({} if face.valence is None else {"valence": face.valence, "arousal": face.arousal}),
        }


def printable(text: str) -> str:
    """Spell out the bytes of a file name that are no text in its encoding, so that it can be written anywhere."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
