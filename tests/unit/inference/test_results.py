import json

import pytest

from motivnet.inference.results import FaceResult, ImageResult
from motivnet.preprocess import Box


def face(width: float = 60, height: float = 80) -> FaceResult:
    probs = {"neutral": 0.1, "happiness": 0.7000000001, "sadness": 0.2}
    return FaceResult(Box(1.23456, -2, width, height), 0.912345, "happiness", probs)


def test_json_is_the_contract():
    result = ImageResult(
        source="a.jpg", status="ok", model="tiny", preprocessing="abc", width=640, height=480, faces=(face(),)
    )
    assert json.loads(json.dumps(result.to_dict())) == {
        "source": "a.jpg",
        "status": "ok",
        "error": None,
        "model": "tiny",
        "preprocessing": "abc",
        "faces": [
            {
                "face": 0,
                "x": 1.23,
                "y": -2,
                "width": 60,
                "height": 80,
                "face_score": 0.912345,
                "emotion": "happiness",
                "prob": 0.7000000001,  # rounded once, where it is shown
                "tiny": False,
                "abstained": False,
                "probs": {"neutral": 0.1, "happiness": 0.7000000001, "sadness": 0.2},
            }
        ],
    }


def test_probs_keep_label_order_in_json():
    assert list(face().to_dict()["probs"]) == ["neutral", "happiness", "sadness"]


@pytest.mark.parametrize(("width", "height", "tiny"), [(24, 24, False), (23.9, 100, True), (100, 23.9, True)])
def test_a_face_is_tiny_by_its_shorter_side(width, height, tiny):
    assert face(width, height).tiny is tiny


def test_top_is_sorted_and_limited():
    assert [label for label, _ in face().top(2)] == ["happiness", "sadness"]
    assert len(face().top(9)) == 3
