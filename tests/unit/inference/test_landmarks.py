"""Landmarks and head pose on request: in Python, rows, JSON, files and drawings."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from motivnet.faces import load_detector
from motivnet.inference.backends import OnnxBackend
from motivnet.inference.draw import draw_faces
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import Results
from motivnet.inference.rows import LANDMARK_COLUMNS, all_columns, landmarks_of, to_rows
from motivnet.labels import EMOTIONS


@pytest.fixture
def predictor(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, landmarks=True)


def test_they_are_the_detectors(predictor, astronaut):
    (result,) = predictor.predict(astronaut)
    (face,), (found,) = result.faces, load_detector().detect(astronaut)
    assert face.landmarks == found.landmarks
    assert face.pose is not None
    (row,) = to_rows(result)
    assert [row[name] for name in LANDMARK_COLUMNS] == [*sum(face.landmarks, ()), *face.pose]
    # From the person's point of view.
    assert row["right_eye_x"] < row["nose_x"] < row["left_eye_x"]
    assert row["right_eye_y"] < row["nose_y"] < row["mouth_left_y"]
    assert landmarks_of(row) == face.landmarks
    assert face.to_dict()["yaw"] == round(face.pose.yaw, 2)


def test_without_the_option_there_are_none(tiny_bundle, astronaut):
    results = Predictor.load(tiny_bundle.path).predict(astronaut)
    face = results[0].faces[0]
    assert (face.landmarks, face.pose) == (None, None)
    assert not face.to_dict().keys() & set(LANDMARK_COLUMNS)
    assert landmarks_of(next(to_rows(results[0]))) is None
    assert list(results.columns()) == list(all_columns(EMOTIONS))


def test_a_detector_without_landmarks_leaves_them_empty(tiny_bundle, astronaut, tmp_path):
    results = Predictor.load(tiny_bundle.path, detector="whole", landmarks=True).predict(astronaut)
    (face,) = results[0].faces
    assert (face.landmarks, face.pose) == ((), None)
    (row,) = to_rows(results[0])
    assert {name: row[name] for name in LANDMARK_COLUMNS} == dict.fromkeys(LANDMARK_COLUMNS)
    assert landmarks_of(row) == ()
    results.write(tmp_path / "rows.csv")
    header, line = (tmp_path / "rows.csv").read_text().splitlines()
    assert header.split(",")[-len(LANDMARK_COLUMNS) :] == list(LANDMARK_COLUMNS)
    assert line.endswith("," * len(LANDMARK_COLUMNS))


def test_every_format_has_the_columns(predictor, astronaut, tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    results = predictor.predict([astronaut, b"nothing"])
    assert isinstance(results, Results)
    assert list(results.columns())[-len(LANDMARK_COLUMNS) :] == list(LANDMARK_COLUMNS)
    for suffix in (".csv", ".jsonl", ".parquet"):
        results.write(tmp_path / f"rows{suffix}")
    first, second = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert (first["nose_x"], first["nose_y"]) in (results[0].faces[0].landmarks or ())
    assert second["nose_x"] is None


def test_they_are_drawn_where_they_are_and_scale_with_the_picture(predictor, astronaut):
    (face,) = predictor.predict(astronaut)[0].faces
    for factor in (1.0, 0.5):
        grey = Image.new("RGB", (round(512 * factor), round(512 * factor)), "#808080")
        drawn = np.asarray(draw_faces(grey, [face.scaled(factor)]))
        zoom = len(drawn) / len(astronaut)
        for x, y in face.landmarks or ():
            row, column = int(y * zoom), int(x * zoom)
            assert (drawn[row - 2 : row + 3, column - 2 : column + 3] != 128).any()
    bare = np.asarray(draw_faces(Image.new("RGB", (512, 512), "#808080"), []))
    assert (bare == 128).all()


def test_a_model_with_alignment_sees_aligned_faces_where_there_are_landmarks(tiny_bundle, astronaut):
    seen = []

    class Recorder(OnnxBackend):
        def outputs(self, pixels_BCHW):
            seen.append(pixels_BCHW)
            return super().outputs(pixels_BCHW)

    preprocessing = dataclasses.replace(tiny_bundle.config.preprocessing, align=True)
    config = dataclasses.replace(tiny_bundle.config, preprocessing=preprocessing)
    predictor = Predictor(config, Recorder(tiny_bundle), load_detector())
    (found,) = load_detector().detect(astronaut)
    buffer = io.BytesIO()
    Image.fromarray(astronaut).save(buffer, "PNG")
    result, known, _ = predictor.stream([buffer.getvalue()] * 3, boxes=[None, found.box, None])
    assert result.preprocessing == preprocessing.fingerprint != tiny_bundle.config.preprocessing.fingerprint
    plain, again = preprocessing(astronaut, found.box), seen[0][2]
    aligned = preprocessing.normalise(preprocessing.face(astronaut, found.box, found.landmarks)[None])[0]
    np.testing.assert_array_equal(seen[0][0], aligned)
    np.testing.assert_array_equal(again, aligned)
    # A known box has no landmarks.
    np.testing.assert_array_equal(seen[0][1], plain)
    assert known.faces[0].box == found.box
    assert not np.array_equal(aligned, plain)
