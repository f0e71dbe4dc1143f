"""What crosses a border is checked where it crosses: weights, outputs, boxes, JSON."""

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest

from motivnet import Predictor
from motivnet.checkpoints.bundle import open_bundle
from motivnet.config import parse_json, to_json
from motivnet.data.manifest import make_manifest
from motivnet.errors import CheckpointError, DataError, ImageError, OutputError
from motivnet.evaluation.predictions import predict_manifest
from motivnet.inference.backends import Outputs
from motivnet.onnx_session import MAX_PARTS, check_weights, open_session
from motivnet.preprocess import Box

ROW = np.arange(7, dtype=np.float32)


class Given:
    """A backend that gives outputs, whatever it is asked."""

    max_batch = None

    def __init__(self, logits, affect=None):
        self.given = Outputs(logits, affect)

    def outputs(self, pixels_BCHW):
        return self.given


@pytest.fixture
def predictor(tiny_bundle):
    return Predictor.load(tiny_bundle.path, detector="whole")


def picture(width=100, height=80):
    return np.full((height, width, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        (np.where(ROW == 3, np.nan, ROW)[None], "logits are NaN or infinite: its weights are damaged"),
        (np.where(ROW == 3, -np.inf, ROW)[None], "logits are NaN or infinite"),
        (np.tile(ROW, (2, 1)), r"logits of shape \(2, 7\), expected \(1, 7\)"),
        (ROW[None, :6], r"logits of shape \(1, 6\), expected \(1, 7\)"),
        (ROW, r"logits of shape \(7,\), expected \(1, 7\)"),
        (np.zeros((0, 7), np.float32), r"logits of shape \(0, 7\), expected \(1, 7\)"),
        (None, r"logits of shape None, expected \(1, 7\)"),
    ],
)
def test_outputs_that_are_no_answer(predictor, logits, said):
    predictor.backend = Given(logits)
    with pytest.raises(CheckpointError, match=f"model 'tiny': {said}"):
        predictor.predict(picture())


@pytest.mark.parametrize("affect", [None, np.full((1, 2), np.nan), np.zeros((1, 3)), np.zeros((2, 2))])
def test_valence_and_arousal_that_are_none(predictor, affect):
    model = dataclasses.replace(predictor.config.model, affect=True)
    predictor.config = dataclasses.replace(predictor.config, model=model)
    predictor.backend = Given(ROW[None], affect)
    with pytest.raises(CheckpointError, match="affect"):
        predictor.predict(picture())


@pytest.fixture
def onnx_file(tiny_bundle, tmp_path):
    """A copy of the tiny bundle's ONNX file, and a function that changes it."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    path = open_bundle(tmp_path / "copy").onnx

    def change(edit, **saving):
        model = onnx.load(path)
        edit(model)
        onnx.save(model, path, **saving)

    return path, change


def poison(value, *, raw=True, dtype="float32"):
    """Set a weight: raw, or as the numbers of a field of their type."""

    def edit(model):
        import onnx

        array = np.array([[0, 4, value, 0, 0, 0, 0]], dtype)
        tensor = onnx.numpy_helper.from_array(array, "weight")
        if not raw:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = onnx.helper.make_tensor("weight", kind, array.shape, array.ravel())
        model.graph.initializer[0].CopyFrom(tensor)

    return edit


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("raw", "dtype"), [(True, "float32"), (False, "float32"), (True, "float16"), (False, "float64")]
)
def test_weights_of_an_onnx_file_are_finite(onnx_file, value, raw, dtype):
    path, change = onnx_file
    change(poison(1, raw=raw, dtype=dtype))
    check_weights(path)
    change(poison(value, raw=raw, dtype=dtype))
    with pytest.raises(CheckpointError, match=r"model\.onnx: damaged: a weight is NaN or infinite"):
        open_session(path)


def test_weights_beside_an_onnx_file(onnx_file):
    path, change = onnx_file
    beside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    change(poison(1), **beside)
    assert open_session(path)
    (path.parent / "model.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"'model\.onnx\.data' is no file beside it"):
        open_session(path)
    shutil.copy(path, path.with_name("kept"))
    (path.parent / "model.onnx.data").write_bytes(np.array([np.nan] * 14, np.float32).tobytes())
    with pytest.raises(CheckpointError, match="a weight is NaN"):
        open_session(path)
    if sys.platform != "win32":
        (path.parent / "model.onnx.data").unlink()
        os.mkfifo(path.parent / "model.onnx.data")
        with pytest.raises(CheckpointError, match="is no file beside it"):
            open_session(path)


def test_an_onnx_file_of_too_many_parts(onnx_file):
    path, change = onnx_file
    change(lambda model: model.graph.node.extend([model.graph.node[0]] * MAX_PARTS))
    with pytest.raises(CheckpointError, match="more than 20000 parts"):
        open_session(path)


def test_onnx_text_that_is_no_utf8(onnx_file):
    path, _ = onnx_file
    whole = path.read_bytes()
    for text in (b"preprocessing", b"pixels", b"logits"):
        path.write_bytes(whole.replace(text, b"\xff" * len(text)))
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            Predictor.load(path.parent, detector="whole")


@pytest.mark.parametrize("kept", [0, 1, 10, 200, -30])
def test_half_an_onnx_file(onnx_file, kept):
    path, _ = onnx_file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        open_session(path)


# In an image of 100 x 80.
INSIDE = [Box(0, 0, 100, 80), Box(-50, 0, 100, 80), Box(90, 70, 20, 10), Box(0.5, 0.5, 0.5, 0.5)]
OUTSIDE = [
    Box(200, 0, 50, 50),
    Box(-51, 0, 100, 80),
    Box(-50, -1, 100, 80),
    Box(99, 79, 20, 20),
    Box(-500, -500, 5000, 5000),
    Box(10, 10, 0, 10),
    Box(10, 10, -5, -5),
    Box(float("nan"), 0, 10, 10),
    Box(0, 0, float("inf"), 10),
    Box(None, 0, 10, 10),  # pyright: ignore[reportArgumentType]
]


def test_boxes_are_at_least_half_in_their_image(predictor):
    boxes = [*INSIDE, *OUTSIDE]
    results = list(predictor.stream([picture() for _ in boxes], boxes=boxes))
    assert [result.status for result in results] == ["ok"] * len(INSIDE) + ["unreadable"] * len(OUTSIDE)
    assert results[len(INSIDE)].error == "a box of 200, 0, 50, 50 is not at least half in an image of 100 x 80 pixels"


@pytest.fixture
def boxed(tmp_path):
    """A manifest of one image with three boxes, of which the second is outside."""
    from PIL import Image

    path = tmp_path / "1.png"
    Image.fromarray(picture()).save(path)
    boxes = [INSIDE[1], OUTSIDE[0], None]
    labels = ["happiness", "fear", "anger"]
    return make_manifest({"path": [str(path)] * 3, "label": labels, "split": ["test"] * 3, "box": boxes})


def test_evaluation_gives_no_answer_to_a_box_outside(predictor, boxed):
    found = predict_manifest(predictor, boxed, detect=False, data="x", split=None)
    assert found.status == ("ok", "unreadable", "ok")
    assert "is not at least half in an image" in found.errors[1]


def test_training_refuses_a_box_outside(predictor, boxed):
    loader = pytest.importorskip("motivnet.data.loader")
    faces = loader.FaceDataset(boxed, predictor.config.preprocessing)
    assert faces[0].pixels.shape == (1, 1, 16, 16)
    with pytest.raises(DataError, match="is not at least half in an image of 100 x 80"):
        faces[1]


def test_a_box_of_a_detector_may_reach_farther_out():
    explaining = pytest.importorskip("motivnet.evaluation.explain")
    explainer = explaining.Explainer.load("nano")
    with pytest.raises(ImageError, match="is not at least half"):
        explainer.explain(picture(), OUTSIDE[1])
    assert explainer.explain(picture(), OUTSIDE[1], score=0.9).face.face_score == 0.9
    assert explainer.explain(picture(), INSIDE[1]).face.face_score == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_has_no_nan(value):
    with pytest.raises(OutputError, match="cannot be written as JSON"):
        to_json(value)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[-Infinity]", '{"a": 1e999}', "[" * 102 + "]" * 102, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000],
)
def test_json_of_others(text):
    with pytest.raises(ValueError, match=r"finite|deep"):
        parse_json(text)


def test_json_that_is_sound():
    nested = "[" * 99 + "1.5" + "]" * 99
    assert parse_json(nested) == json.loads(nested)
    assert parse_json('{"a": [1, null, "NaN"]}') == {"a": [1, None, "NaN"]}
