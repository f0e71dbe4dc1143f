import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from motivnet.errors import ConfigError, DetectorError
from motivnet.faces import DETECTORS, Detection, DetectorConfig, load_detector, yunet
from motivnet.faces.detector import largest_first
from motivnet.preprocess import Box

FACE_CENTRE = (225, 114)


def assert_astronaut(detection: Detection, scale_x: float = 1.0, scale_y: float = 1.0) -> None:
    x, y, width, height = detection.box
    assert x + width / 2 == pytest.approx(FACE_CENTRE[0] * scale_x, abs=12 * scale_x)
    assert y + height / 2 == pytest.approx(FACE_CENTRE[1] * scale_y, abs=12 * scale_y)
    assert 75 * scale_x < width < 110 * scale_x
    assert 90 * scale_y < height < 130 * scale_y


class TestYuNet:
    def test_finds_the_one_face(self, astronaut):
        (found,) = load_detector().detect(astronaut)
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

    @pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 5000), (10, 20_000)])
    def test_survives_any_shape(self, shape):
        assert load_detector().detect(np.full((*shape, 3), 128, np.uint8)) == []

    def test_gives_the_same_from_many_threads(self, astronaut):
        detector = load_detector()
        images = [astronaut, astronaut[:, ::-1].copy()] * 4
        expected = [detector.detect(image) for image in images[:2]] * 4
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(detector.detect, images)) == expected

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
    def test_keeps_nothing_of_the_images(self):
        def resident_bytes() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        detector, image = load_detector(), np.zeros((180, 320, 3), np.uint8)

        def grown_bytes(number: int) -> int:
            before = resident_bytes()
            for _ in range(number):
                detector.detect(image)
            return resident_bytes() - before

        grown_bytes(20)
        # One copy a call would be 17 MB, each time; what else the process does is not there each time.
        assert min(grown_bytes(100) for _ in range(3)) < 4e6

    def test_min_face_is_the_shorter_side_in_the_original(self, astronaut):
        large = cv2.resize(astronaut, (2048, 2048))
        (found,) = load_detector(config=DetectorConfig(min_face=300)).detect(large)
        shorter = min(found.box.width, found.box.height)
        assert load_detector(config=DetectorConfig(min_face=shorter)).detect(large) == [found]
        assert load_detector(config=DetectorConfig(min_face=shorter + 1)).detect(large) == []

    def test_landmarks_are_in_their_places_of_the_original(self, astronaut):
        (found,) = load_detector().detect(cv2.resize(astronaut, (1536, 1280)))
        assert found.landmarks is not None
        # Right eye, left eye, nose, right and left corner of the mouth.
        places = [(200, 102), (247, 103), (220, 125), (199, 143), (240, 144)]
        assert np.allclose(found.landmarks, np.multiply(places, (3, 2.5)), atol=20)

    def test_finds_a_face_at_the_border(self, astronaut):
        (found,) = load_detector().detect(astronaut[:, 200:])
        assert found.box.x < 5

    def test_stops_at_256_faces(self, astronaut):
        face = cv2.resize(astronaut[40:190, 150:300], (64, 64), interpolation=cv2.INTER_AREA)
        many = load_detector(config=DetectorConfig(long_side=1280)).detect(np.tile(face, (15, 20, 1)))
        assert len(many) == 256
        assert len(load_detector(config=DetectorConfig(long_side=1280)).detect(np.tile(face, (10, 20, 1)))) == 200

    def test_finds_faces_of_ten_pixels(self, astronaut):
        small = cv2.resize(astronaut, None, fx=10 / 89, fy=10 / 89, interpolation=cv2.INTER_AREA)
        image = np.full((853, 1280, 3), 120, np.uint8)
        places = [(x, y) for x in range(5, 1200, 113) for y in range(5, 780, 97)]
        for x, y in places:
            image[y : y + len(small), x : x + len(small)] = small
        assert len(load_detector(config=DetectorConfig(long_side=1280)).detect(image)) == len(places)

    def test_a_batch_answers_as_single_images(self, astronaut):
        detector = load_detector()
        images = [astronaut, astronaut[:, ::-1], np.zeros((100, 50, 3), np.uint8)]
        assert detector.detect_batch(images) == [detector.detect(image) for image in images]
        assert detector.detect_batch([]) == []

    def test_images_of_one_size_go_through_a_gpu_together(self, astronaut, monkeypatch):
        sizes = []
        session = load_detector()._session
        real = session.run

        class Session:
            run = staticmethod(lambda names, feeds: sizes.append(len(feeds["pixels"])) or real(names, feeds))
            get_inputs, get_outputs = session.get_inputs, session.get_outputs

        monkeypatch.setattr(yunet, "open_session", lambda path, device, threads: Session)
        detector = load_detector(config=DetectorConfig(device="cuda"))
        found = detector.detect_batch([astronaut, astronaut[:, ::-1]])
        assert sizes == [2]
        detector.detect_batch([astronaut, astronaut[:100]])
        assert sizes == [2, 1, 1]
        for ours, image in zip(found, (astronaut, astronaut[:, ::-1]), strict=True):
            (expected,) = load_detector().detect(image)
            assert tuple(ours[0].box) == pytest.approx(tuple(expected.box), abs=0.01)


class TestWholeImage:
    def test_is_one_face_without_margin(self):
        (found,) = load_detector("whole").detect(np.zeros((30, 40, 3), np.uint8))
        assert tuple(found.box) == (0, 0, 40, 30)
        assert found.score == 1
        assert found.crop_box is None


def write_as_zoo(path: Path, *size: int) -> Path:
    """Write the network as OpenCV Zoo does: blue first, probabilities, cells in rows, and a fixed size or none."""
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    model = onnx.load(yunet.MODEL_FILE)
    graph = model.graph
    (stem,) = [weight for weight in graph.initializer if weight.name == "stem_weight"]
    stem.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stem)[:, ::-1].copy(), stem.name))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 4, 10]), "parts"))
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array([0, -1, width]), f"shape{width}") for width in (1, 4, 10)
    )
    del graph.output[:]
    for stride in (8, 16, 32):
        names = [f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps")]
        graph.node.append(
            helper.make_node("Split", [f"stride{stride}", "parts"], [f"{name}_bchw" for name in names], axis=1)
        )
        for name, width in zip(names, (1, 1, 4, 10), strict=True):
            graph.node.append(helper.make_node("Transpose", [f"{name}_bchw"], [f"{name}_bhwc"], perm=[0, 2, 3, 1]))
            reshaped = f"{name}_rows" if width == 1 else name
            graph.node.append(helper.make_node("Reshape", [f"{name}_bhwc", f"shape{width}"], [reshaped]))
            if width == 1:
                graph.node.append(helper.make_node("Sigmoid", [reshaped], [name]))
            graph.output.append(helper.make_tensor_value_info(name, floats, [1, None, width]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", floats, [1, 3, *(size or ("H", "W"))]))
    onnx.save(model, path)
    return path


class TestYuNetFiles:
    @pytest.mark.parametrize("size", [(), (640, 640), (320, 352)])
    def test_a_file_of_opencv_zoo_answers_as_ours(self, size, astronaut, tmp_path):
        detector = load_detector(f"yunet:{write_as_zoo(tmp_path / 'zoo.onnx', *size)}")
        assert detector.name == "yunet"
        image = astronaut[:400]
        (expected,) = load_detector(config=DetectorConfig(long_side=min([640, *size]))).detect(image)
        (found,) = detector.detect(image)
        assert tuple(found.box) == pytest.approx(tuple(expected.box), abs=0.1)
        assert found.score == pytest.approx(expected.score, abs=1e-3)
        assert np.allclose(found.landmarks, expected.landmarks, atol=0.1)
        assert detector.detect_batch([image, image]) == [[found], [found]]

    def test_a_copy_of_our_file_answers_the_same(self, astronaut, tmp_path):
        copied = shutil.copyfile(yunet.MODEL_FILE, tmp_path / "copy.onnx")
        assert load_detector(f"yunet:{copied}").detect(astronaut) == load_detector().detect(astronaut)

    def test_needs_the_file(self, tmp_path):
        with pytest.raises(DetectorError, match="no such file"):
            load_detector(f"yunet:{tmp_path / 'missing.onnx'}")

    def test_refuses_what_is_no_model(self, tmp_path):
        file = tmp_path / "text.onnx"
        file.write_text("hello")
        with pytest.raises(DetectorError, match=r"detector 'yunet': .*text\.onnx: cannot be loaded"):
            load_detector(f"yunet:{file}")

    def test_refuses_another_model(self, tiny_bundle):
        with pytest.raises(DetectorError, match=r"model\.onnx: not YuNet"):
            load_detector(f"yunet:{tiny_bundle.onnx}")


@pytest.mark.parametrize(
    ("name", "meant"), [("libfacedetect", "libfacedetection"), ("yunett:x.onnx", "yunet"), ("wohle", "whole")]
)
def test_unknown_name_brings_a_suggestion(name, meant):
    with pytest.raises(DetectorError, match=f"did you mean '{meant}'"):
        load_detector(name)


def test_a_file_for_a_detector_that_takes_none_is_refused():
    with pytest.raises(DetectorError, match="takes no file"):
        load_detector("whole:x.onnx")


def test_the_old_name_means_the_same_detector(astronaut):
    assert [load_detector(name).name for name in DETECTORS] == ["yunet", "yunet", "whole"]
    assert load_detector("libfacedetection").detect(astronaut) == load_detector().detect(astronaut)


@pytest.mark.parametrize(
    "settings", [{"long_side": 0}, {"min_long_side": 0}, {"min_score": 1.1}, {"min_score": -0.1}, {"min_face": -1}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DetectorConfig(**settings)


def test_equal_faces_are_ordered_from_left_to_right():
    faces = [Detection(Box(x, 0, 10, 10), 0.9) for x in (50, 10, 30)]
    assert [found.box.x for found in largest_first(faces)] == [10, 30, 50]
