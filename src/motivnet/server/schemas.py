"""JSON of requests and answers, for OpenAPI. Answers are made by `ImageResult.to_dict`; tests compare the two."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Of a name or a URL, in characters.
MAX_TEXT = 4000


def _strict(*examples: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)} if examples else None)


class Base64Image(BaseModel):
    """An image as text.

    Args:
        data: the file in base64, optionally after `data:image/...;base64,`.
        name: `source` of the result.
    """

    model_config = _strict({"name": "me.jpg", "data": "/9j/4AA..."})

    data: str
    name: str | None = Field(None, max_length=MAX_TEXT)


class Base64Request(BaseModel):
    """Images as text."""

    model_config = _strict({"images": [{"name": "me.jpg", "data": "/9j/4AAQ"}]})

    images: list[Base64Image]


class UrlsRequest(BaseModel):
    """URLs of images, http or https, on hosts of the public internet."""

    model_config = _strict({"urls": ["https://example.org/me.jpg"]})

    urls: list[Annotated[str, Field(max_length=MAX_TEXT)]]


class Face(BaseModel):
    """One face; its keys are columns of a table of results, its box is in pixels of the upright image.

    Valence and arousal are there only if the model predicts them, landmarks and pose only if the server was started
    with --landmarks.
    """

    model_config = _strict()

    face: int
    x: float
    y: float
    width: float
    height: float
    face_score: float
    emotion: str
    prob: float
    tiny: bool
    abstained: bool
    valence: float | None = None
    arousal: float | None = None
    right_eye_x: float | None = None
    right_eye_y: float | None = None
    left_eye_x: float | None = None
    left_eye_y: float | None = None
    nose_x: float | None = None
    nose_y: float | None = None
    mouth_right_x: float | None = None
    mouth_right_y: float | None = None
    mouth_left_x: float | None = None
    mouth_left_y: float | None = None
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    probs: dict[str, float]


class Attention(BaseModel):
    """Attention of the model for the emotion: a map over the rectangle `seen`, [x, y, width, height] in pixels.

    Args:
        emotion: of the face, which the map explains.
        seen: the rectangle of the photograph that the model saw; may reach beyond the photograph.
        rows: of the map.
        columns: of the map.
        values: rows of values from 0 to 1, scaled for each map.
    """

    model_config = _strict()

    emotion: str
    seen: tuple[float, float, float, float]
    rows: int
    columns: int
    values: list[list[float]]


class ExplainedFace(Face):
    """One face, with its attention map."""

    attention: Attention


class Result(BaseModel):
    """The result of one image."""

    model_config = _strict()

    source: str
    status: Literal["ok", "no_face", "unreadable"]
    error: str | None = None
    model: str
    preprocessing: str
    faces: list[Face]


class ExplainedResult(Result):
    """The result of one image, with an attention map per face."""

    faces: list[ExplainedFace]  # pyright: ignore[reportIncompatibleVariableOverride]


_BOX = {"x": 173.2, "y": 62.4, "width": 92.1, "height": 114.8}
_EMOTION = {"emotion": "happiness", "prob": 0.95, "tiny": False, "abstained": False}
_PROBS = {"probs": {"neutral": 0.05, "happiness": 0.95}}
_FACE: dict[str, Any] = {"face": 0, **_BOX, "face_score": 0.93, **_EMOTION, **_PROBS}
_MAP = {"seen": [173, 62, 92, 115], "rows": 2, "columns": 2, "values": [[0.1, 0.0], [0.7, 1.0]]}
_MODEL = {"model": "nano", "preprocessing": "p5c1d0e"}
_PHOTOGRAPH: dict[str, Any] = {"source": "astronaut.png", "status": "ok", "error": None, **_MODEL}
_BROKEN = {"source": "notes.txt", "status": "unreadable", "error": "not an image", **_MODEL, "faces": []}


class Answer(BaseModel):
    """One result per image, in the order of the request."""

    model_config = _strict({"results": [_PHOTOGRAPH | {"faces": [_FACE]}, _BROKEN]})

    results: list[Result]


class Explanations(BaseModel):
    """One result, of the one image of the request."""

    model_config = _strict(
        {"results": [_PHOTOGRAPH | {"faces": [_FACE | {"attention": {"emotion": "happiness", **_MAP}}]}]}
    )

    results: list[ExplainedResult]


class VideoResult(BaseModel):
    """The result of one video.

    Args:
        source: its name.
        notes: what was special or wrong in the file, and what was done about it.
        rows: one per face and frame, with the columns of a table of results.
    """

    source: str
    notes: list[str]
    rows: list[dict[str, str | float | bool | None]]


class VideoAnswer(BaseModel):
    """One result, of the one video of the request."""

    results: list[VideoResult]


class Model(BaseModel):
    """The model that answers.

    Args:
        name: of the model.
        summary: one line about it.
        licence: of its weights.
        labels: its emotions, in the order of the probabilities.
        affect: whether it predicts valence and arousal.
        attention: whether /v1/explain answers.
        video: limits of /v1/video, as the server's settings name them.
        preprocessing: fingerprint of the preprocessing.
        scores: data set -> metric -> measured value.
    """

    name: str
    summary: str
    licence: str
    labels: list[str]
    affect: bool
    attention: bool
    video: dict[str, float]
    preprocessing: str
    scores: dict[str, dict[str, float]]


class Models(BaseModel):
    """The models that answer: one; and what the people in front of a page should be told, if anything."""

    models: list[Model]
    notice: str | None


class Status(BaseModel):
    """Status of the server."""

    status: str


class Refusal(BaseModel):
    """Why a request has no results."""

    detail: str
