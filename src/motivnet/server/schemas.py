"""JSON of requests and answers, for OpenAPI. Answers are made by `ImageResult.to_dict`; tests compare the two."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Of a name or a URL, in characters.
MAX_TEXT = 4000


# What OpenAPI says besides the schemas: the meaning of each refusal, the body of a form, and examples by schema.
OPENAPI: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_text("utf-8"))


def _add_examples(schema: dict[str, Any], cls: type[BaseModel]) -> None:
    if cls.__name__ in OPENAPI["examples"]:
        schema["examples"] = OPENAPI["examples"][cls.__name__]


class _Strict(BaseModel):
    """An object without other keys."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_add_examples)


class Base64Image(_Strict):
    """An image as text.

    Args:
        data: the file in base64, optionally after `data:image/...;base64,`.
        name: `source` of the result.
    """

    data: str
    name: str | None = Field(None, max_length=MAX_TEXT)


class Base64Request(_Strict):
    """Images as text."""

    images: list[Base64Image]


class UrlsRequest(_Strict):
    """URLs of images, http or https, on hosts of the public internet."""

    urls: list[Annotated[str, Field(max_length=MAX_TEXT)]]


class Face(_Strict):
    """One face; its keys are columns of a table of results, its box is in pixels of the upright image.

    Valence and arousal are there only if the model predicts them, landmarks and pose only if the server was started
    with --landmarks.
    """

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


class Attention(_Strict):
    """Attention of the model for the emotion: a map over the rectangle `seen`, [x, y, width, height] in pixels.

    Args:
        emotion: of the face, which the map explains.
        seen: the rectangle of the photograph that the model saw; may reach beyond the photograph.
        rows: of the map.
        columns: of the map.
        values: rows of values from 0 to 1, scaled for each map.
    """

    emotion: str
    seen: tuple[float, float, float, float]
    rows: int
    columns: int
    values: list[list[float]]


class ExplainedFace(Face):
    """One face, with its attention map."""

    attention: Attention


class Result(_Strict):
    """The result of one image."""

    source: str
    status: Literal["ok", "no_face", "unreadable"]
    error: str | None = None
    model: str
    preprocessing: str
    faces: list[Face]


class ExplainedResult(Result):
    """The result of one image, with an attention map per face."""

    faces: list[ExplainedFace]  # pyright: ignore[reportIncompatibleVariableOverride]


class Answer(_Strict):
    """One result per image, in the order of the request."""

    results: list[Result]


class Explanations(_Strict):
    """One result, of the one image of the request."""

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
