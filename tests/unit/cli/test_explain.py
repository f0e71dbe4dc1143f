"""`motivnet explain`: the picture, and every kind of mistake."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.errors import CheckpointError, DataError, ImageError, OutputError
from motivnet.evaluation.explain import Explanation
from motivnet.inference.results import FaceResult
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box
from motivnet.report.heatmaps import draw_explanations, overlay


def run(*arguments: object):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture
def photograph(tmp_path, astronaut):
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


def test_draws_all_emotions_and_names_the_face(photograph, tmp_path):
    out = tmp_path / "heat.png"
    done = run(photograph, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("face at ")
    assert sum(emotion in done.stdout for emotion in EMOTIONS) == 3
    assert str(out) in done.stderr
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        # The face and seven maps.
        assert picture.width > 8 * 150
        assert picture.width > 3 * picture.height
    assert {path.name for path in tmp_path.iterdir()} == {"astronaut.png", "heat.png"}
    assert isinstance(run(photograph, "--out", out).exception, OutputError)
    assert run(photograph, "--out", out, "--emotion", "Angry", "--overwrite").exit_code == 0
    with Image.open(out) as picture:
        assert 700 < picture.width < 900


def test_json_holds_the_maps(photograph, tmp_path):
    done = run(photograph, "--out", tmp_path / "heat.png", "--json")
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert row["source"] == str(photograph)
    assert list(row["maps"]) == list(row["probs"]) == list(EMOTIONS)
    assert np.shape(row["maps"]["fear"]) == (12, 12)
    assert np.shape(row["attention"]["fear"]) == (3, 3)
    # A square, whose edges are rounded to whole pixels.
    assert abs(row["seen"][2] - row["seen"][3]) <= 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out": "heat.jpg"}, OutputError, "unknown format '.jpg'. Allowed: .png"),
        ({"out": "missing/heat.png"}, OutputError, "does not exist"),
        ({"out": "astronaut.png"}, OutputError, "is the photograph itself"),
        ({"out": "folder.png"}, OutputError, "is a folder"),
        ({"emotion": "hunger"}, DataError, "unknown label 'hunger'"),
        ({"model": "nanno"}, CheckpointError, "unknown model 'nanno'"),
        ({"photograph": "missing.png"}, ImageError, r"missing\.png: no such file"),
        ({"photograph": "grey.png"}, DataError, "no face found; --detector whole"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(photograph, tmp_path, changes, error, message):
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "grey.png")
    before = {path.name for path in tmp_path.iterdir()}
    settings = {"photograph": "astronaut.png", "out": "heat.png", "model": "nano"} | changes
    arguments = [tmp_path / settings.pop("photograph"), "--out", tmp_path / settings.pop("out"), "--overwrite"]
    for name, value in settings.items():
        arguments += [f"--{name}", value]
    done = run(*arguments)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=message):
        raise done.exception
    assert {path.name for path in tmp_path.iterdir()} == before


def explanation(hot: tuple[int, int], seen: Box) -> Explanation:
    map_ij = np.zeros((4, 4), np.float32)
    map_ij[hot] = 1
    flat = np.full((4, 4), 1 / 16, np.float32)
    return Explanation(
        face=FaceResult(seen, 1.0, "fear", {"anger": 0.25, "fear": 0.75}),
        maps={"anger": map_ij, "fear": flat},
        attention={"anger": map_ij[::-1], "fear": flat},
        seen=seen,
        filled=Box(0, 0, 32, 32),
        input_size=(32, 32),
    )


def test_the_brightest_place_of_a_panel_is_where_the_map_is_highest():
    image = np.full((300, 300, 3), 128, np.uint8)
    shown = explanation((0, 3), Box(40, 60, 200, 200))
    picture = np.asarray(draw_explanations(image, [shown], "anger", fill=None, note="")).astype(int)
    face, panel = picture[10:410, 10:410], picture[10:410, 420:820]
    np.testing.assert_array_equal(face, np.full((400, 400, 3), 128))
    # The top right corner is bright and warm, all else is darkened.
    assert panel[20, 380].sum() > 128 * 3 + 60
    assert panel[20, 380, 0] > panel[20, 380, 2]
    assert (panel[200:, :200].sum(axis=2) < 128 * 3).all()


def test_what_lies_outside_the_photograph_is_shown_as_the_model_sees_it():
    image = np.full((100, 100, 3), 200, np.uint8)
    image[:, 0] = 10
    shown = explanation((1, 1), Box(-50, 0, 100, 100))
    for fill, left in ((None, 10), (77, 77)):
        picture = np.asarray(draw_explanations(image, [shown], "anger", fill=fill, note=""))
        assert picture[210, 30].tolist() == [left] * 3
        assert picture[210, 390].tolist() == [200] * 3


def test_one_row_a_face_and_one_scale_for_all():
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    faces = [explanation((0, 0), Box(0, 0, 100, 100)), explanation((3, 3), Box(100, 100, 60, 120))]
    one = draw_explanations(image, faces[:1], None, fill=255, note="how")
    two = draw_explanations(image, faces, None, fill=255, note="how")
    assert one.width == two.width
    assert 1.5 * one.height < two.height < 2 * one.height
    np.testing.assert_array_equal(np.asarray(one)[10:180, 200:], np.asarray(two)[10:180, 200:])


def test_no_attention_leaves_more_of_the_photograph_than_all_of_it():
    photo = np.full((2, 2, 3), 255, np.uint8)
    none, much = overlay(photo, np.zeros((2, 2), np.float32)), overlay(photo, np.ones((2, 2), np.float32))
    assert (none == none[0, 0]).all()
    assert none[0, 0].tolist() == [191, 191, 192] or np.ptp(none[0, 0].astype(int)) <= 3
    assert np.ptp(much[0, 0].astype(int)) > 30
