"""What goes in and out as JSON, for OpenAPI. Results are made by `ImageResult.to_dict`; tests hold the two together."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Base64Image(BaseModel):
    """An image as text.

    Args:
        data: the file in base64, with or without `data:image/...;base64,` before it.
        name: what the result is to call it.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "me.jpg", "data": "/9j/4AA..."}]}
    )

    data: str
    name: str | None = Field(None, max_length=1000)


class Base64Request(BaseModel):
    """Images as text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"images": [{"name": "me.jpg", "data": "/9j/4AAQ"}]}]}
    )

    images: list[Base64Image]


class UrlsRequest(BaseModel):
    """Addresses of images, http or https, on hosts of the public internet."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"urls": ["https://example.org/me.jpg"]}]}
    )

    urls: list[str]


class Face(BaseModel):
    """One face; its keys are columns of a table of results, its box is in pixels of the upright image."""

    model_config = ConfigDict(extra="forbid")

    face: int
    x: float
    y: float
    width: float
    height: float
    face_score: float
    emotion: str
    prob: float
    valence: float | None = None
    arousal: float | None = None
    tiny: bool
    abstained: bool
    probs: dict[str, float]


class Attention(BaseModel):
    """Where the model looked for the emotion: a map over the rectangle `seen`, [x, y, width, height] in pixels.

    Args:
        emotion: which the map is of: the face's.
        seen: what the model saw of the photograph; may reach beyond it.
        rows: of the map.
        columns: of the map.
        values: rows of values from 0 to 1, on a scale of the map's own.
    """

    model_config = ConfigDict(extra="forbid")

    emotion: str
    seen: tuple[float, float, float, float]
    rows: int
    columns: int
    values: list[list[float]]


class ExplainedFace(Face):
    """One face, and where the model looked in it."""

    attention: Attention


class Result(BaseModel):
    """What became of one image."""

    model_config = ConfigDict(extra="forbid")

    source: str
    status: Literal["ok", "no_face", "unreadable"]
    error: str | None = None
    model: str
    preprocessing: str
    faces: list[Face]


_FACE: dict[str, Any] = {
    "face": 0,
    "x": 173.2,
    "y": 62.4,
    "width": 92.1,
    "height": 114.8,
    "face_score": 0.93,
    "emotion": "happiness",
    "prob": 0.95,
    "valence": None,
    "arousal": None,
    "tiny": False,
    "abstained": False,
    "probs": {"neutral": 0.05, "happiness": 0.95},
}
_IMAGE: dict[str, Any] = {"error": None, "model": "nano", "preprocessing": "p5c1d0e"}
_EXAMPLE: dict[str, Any] = {
    "results": [
        _IMAGE | {"source": "astronaut.png", "status": "ok", "faces": [_FACE]},
        _IMAGE | {"source": "notes.txt", "status": "unreadable", "error": "not an image", "faces": []},
    ]
}


class Answer(BaseModel):
    """One result per image, in the order of the request."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    results: list[Result]


class ExplainedResult(Result):
    """What became of one image, with a map a face."""

    faces: list[ExplainedFace]  # pyright: ignore[reportIncompatibleVariableOverride]


_ATTENTION = {
    "emotion": "happiness",
    "seen": [173, 62, 92, 115],
    "rows": 2,
    "columns": 2,
    "values": [[0.1, 0.0], [0.7, 1.0]],
}


class Explanations(BaseModel):
    """One result: of the one image of the request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        _IMAGE | {"source": "me.jpg", "status": "ok", "faces": [_FACE | {"attention": _ATTENTION}]},
                    ]
                }
            ]
        },
    )

    results: list[ExplainedResult]


class Model(BaseModel):
    """A model that answers.

    Args:
        name: of the model.
        summary: what it is, one line.
        licence: of its weights.
        labels: emotions that it tells apart, in the order of the probabilities.
        affect: whether it tells valence and arousal, too.
        attention: whether /v1/explain shows where it looks.
        preprocessing: fingerprint of the preprocessing.
        scores: data set -> score -> value, as measured.
    """

    name: str
    summary: str
    licence: str
    labels: list[str]
    affect: bool
    attention: bool
    preprocessing: str
    scores: dict[str, dict[str, float]]


class Models(BaseModel):
    """The models that answer: one."""

    models: list[Model]


class Status(BaseModel):
    """Whether the server is there, or takes work."""

    status: str


class Refusal(BaseModel):
    """Why a request has no results."""

    detail: str
