import dataclasses
import io
import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image

from motivnet import images
from motivnet.checkpoints.bundle import Calibration
from motivnet.errors import CheckpointError, ConfigError, DetectorError
from motivnet.faces import Detection, load_detector
from motivnet.images import ImageLimits, NamedImage, decode_image
from motivnet.inference.backends import OnnxBackend, Outputs
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def flat(value: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def whole(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, detector="whole")


@pytest.fixture
def predictor(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path)


def test_bright_is_happy_and_dark_is_sad_in_the_tiny_model(whole):
    bright, middling, dark = whole.predict([flat(255), flat(127), flat(0)])
    assert [result.faces[0].emotion for result in (bright, middling, dark)] == ["happiness", "neutral", "sadness"]
    face = bright.faces[0]
    assert tuple(face.probs) == EMOTIONS.names
    assert sum(face.probs.values()) == pytest.approx(1, abs=1e-9)
    exp = [math.exp(logit) for logit in (1, 4, -4, -1, -2, -3, -4)]
    assert list(face.probs.values()) == pytest.approx([value / sum(exp) for value in exp], abs=1e-5)
    assert (bright.model, bright.preprocessing) == ("tiny", whole.config.preprocessing.fingerprint)
    assert (bright.width, bright.height) == (30, 20)


def test_probabilities_are_those_at_the_bundles_temperature(tiny_bundle, whole):
    cold = Predictor(
        dataclasses.replace(tiny_bundle.config, calibration=Calibration(temperature=0.5)),
        OnnxBackend(tiny_bundle),
        load_detector("whole"),
    )
    (plain,), (sharp,) = whole.predict(flat(200)), cold.predict(flat(200))
    squares = {label: prob**2 for label, prob in plain.faces[0].probs.items()}
    expected = [square / sum(squares.values()) for square in squares.values()]
    assert list(sharp.faces[0].probs.values()) == pytest.approx(expected, abs=1e-9)
    assert sharp.faces[0].emotion == plain.faces[0].emotion


class TestAbstention:
    def test_marks_what_is_below_and_keeps_the_emotion(self, tiny_bundle, whole):
        images = [flat(255), flat(127)]
        plain = whole.predict(images)
        certain, doubtful = (result.faces[0] for result in plain)
        assert not certain.abstained
        assert not doubtful.abstained
        threshold = max(doubtful.probs.values())
        # At the threshold itself there is an answer.
        for value, expected in ((threshold, [False, False]), (threshold + 1e-9, [False, True]), (0.0, [False] * 2)):
            predictor = Predictor.load(tiny_bundle.path, detector="whole", abstain_below=value)
            found = [result.faces[0] for result in predictor.predict(images)]
            assert [face.abstained for face in found] == expected
            assert [face.probs for face in found] == [certain.probs, doubtful.probs]
            assert [face.emotion for face in found] == [certain.emotion, doubtful.emotion]

    def test_the_bundles_own_threshold_is_used_only_where_it_is_asked_for(self, tiny_bundle):
        config = dataclasses.replace(tiny_bundle.config, abstain_below=1.0)
        parts = (config, OnnxBackend(tiny_bundle), load_detector("whole"))
        for wanted, expected in ((None, False), ("stored", True), (0.1, False)):
            (result,) = Predictor(*parts, PredictorConfig(abstain_below=wanted)).predict(flat(255))
            assert result.faces[0].abstained is expected

    @pytest.mark.parametrize("wanted", [-0.1, 1.1, math.nan, "half"])
    def test_thresholds_that_are_none(self, tiny_bundle, wanted):
        with pytest.raises(ConfigError, match="Allowed: a probability from 0 to 1, or 'stored'"):
            Predictor.load(tiny_bundle.path, detector="whole", abstain_below=wanted)

    def test_a_bundle_without_a_threshold_cannot_give_one(self, tiny_bundle):
        with pytest.raises(ConfigError, match="bundle 'tiny' has no threshold"):
            Predictor.load(tiny_bundle.path, detector="whole", abstain_below="stored")


def test_takes_every_kind_of_input_in_order(tmp_path, predictor, astronaut):
    path = tmp_path / "astronaut.png"
    path.write_bytes(png(astronaut))
    grey = np.asarray(Image.fromarray(astronaut).convert("L"))
    results = predictor.predict([path, str(path), png(astronaut), Image.fromarray(astronaut), astronaut, grey])
    assert [result.status for result in results] == ["ok"] * 6
    assert [result.source for result in results] == [
        *(str(path), str(path)),
        *("<bytes 2>", "<image 3>", "<array 4>", "<array 5>"),
    ]
    # Grey is the same face, found where it was.
    x, y, width, height = results[0].faces[0].box
    assert 150 < x < 200
    assert 40 < y < 80
    assert 75 < width < 110
    assert 90 < height < 130
    assert all(result.faces == results[0].faces for result in results[1:5])


@pytest.mark.parametrize("kind", ["path", "bytes", "pil", "array"])
def test_a_single_input_gives_a_list_of_one(tmp_path, whole, kind):
    path = tmp_path / "white.png"
    path.write_bytes(png(flat(255)))
    inputs = {"path": path, "bytes": path.read_bytes(), "pil": Image.fromarray(flat(255)), "array": flat(255)}
    (result,) = whole(inputs[kind])
    assert result.faces[0].emotion == "happiness"


def test_nothing_aborts_a_batch_and_nothing_is_lost(tmp_path, predictor, astronaut):
    text, empty, cut = tmp_path / "text.jpg", tmp_path / "empty.png", tmp_path / "cut.png"
    text.write_text("hello")
    empty.write_bytes(b"")
    cut.write_bytes(png(astronaut)[:2000])
    inputs = [text, astronaut, empty, flat(90, 200, 200), cut, tmp_path / "missing.jpg", tmp_path, 7, astronaut]
    results = predictor.predict(inputs)
    assert [result.status for result in results] == [
        *("unreadable", "ok", "unreadable", "no_face"),
        *("unreadable", "unreadable", "unreadable", "unreadable", "ok"),
    ]
    for result in results:
        assert (result.error is not None) == (result.status == "unreadable")
        assert (result.width is None) == (result.status == "unreadable")
    assert "empty" in results[2].error
    assert "int" in results[7].error


def test_an_image_beyond_the_limits_is_unreadable(tiny_bundle):
    predictor = Predictor.load(tiny_bundle.path, detector="whole", limits=ImageLimits(max_pixels=500))
    (result,) = predictor.predict(flat(255))
    assert (result.status, result.faces) == ("unreadable", ())
    assert "600" in result.error or "30 x 20" in result.error


def test_colour_order_is_that_of_arrays_only(whole):
    blue = np.zeros((8, 8, 3), np.uint8)
    blue[:, :, 2] = 255
    as_rgb, as_bgr, file = (
        *whole.predict(blue),
        *whole.predict(blue, color="bgr"),
        *whole.predict(png(blue), color="bgr"),
    )
    assert as_rgb.faces[0].probs != as_bgr.faces[0].probs
    assert file.faces == as_rgb.faces
    with pytest.raises(ConfigError, match="Allowed: rgb, bgr"):
        whole.predict(blue, color="gbr")


def test_whole_images_get_no_margin(tiny_bundle, whole):
    class Frame:
        name = "frame"

        def detect(self, image_hwc_u8):
            return [Detection(Box(8, 8, 16, 16), 1.0)]

    image = flat(0, 32, 32)
    image[8:24, 8:24] = 255
    framed = Predictor.load(tiny_bundle.path, detector=Frame())
    (cropped,) = whole.predict(image[8:24, 8:24].copy())
    (found,) = framed.predict(image)
    # The margin of the found face brings in some of the dark surroundings.
    assert found.faces[0].probs["happiness"] < cropped.faces[0].probs["happiness"]


class CountingBackend:
    """Remember the batch sizes."""

    def __init__(self, backend: OnnxBackend) -> None:
        self.backend = backend
        self.sizes: list[int] = []

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        self.sizes.append(len(pixels_BCHW))
        return self.backend.outputs(pixels_BCHW)


class Columns:
    """Find as many faces as the image's width in tens of pixels says."""

    name = "columns"

    def detect(self, image_hwc_u8):
        return [Detection(Box(10 * i, 0, 10, 10), 0.9) for i in range(image_hwc_u8.shape[1] // 10)]


def test_batches_faces_across_images_and_splits_crowds(tiny_bundle):
    backend = CountingBackend(OnnxBackend(tiny_bundle))
    predictor = Predictor(tiny_bundle.config, backend, Columns(), PredictorConfig(batch_size=4))
    counts = [1, 0, 2, 1, 9, 0, 2]
    results = predictor.predict([flat(200, 10, 10 * n + 1) for n in counts])
    assert [len(result.faces) for result in results] == counts
    assert [result.status for result in results] == ["ok" if n else "no_face" for n in counts]
    assert max(backend.sizes) == 4
    assert backend.sizes[0] == 4
    assert sum(backend.sizes) == sum(counts)


def test_results_do_not_depend_on_batching_or_workers(tiny_bundle):
    images = [flat(value, 10, 11 + 10 * (value % 3)) for value in range(0, 250, 10)]
    results = []
    for batch_size, workers in [(1, 1), (7, 3), (64, 2)]:
        backend = OnnxBackend(tiny_bundle)
        options = PredictorConfig(batch_size=batch_size, workers=workers)
        predictor = Predictor(tiny_bundle.config, backend, Columns(), options)
        results.append(predictor.predict(images))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert [face.box for face in one.faces] == [face.box for face in two.faces]
            for face, twin in zip(one.faces, two.faces, strict=True):
                assert list(face.probs.values()) == pytest.approx(list(twin.probs.values()), abs=1e-6)


def test_stream_is_lazy_and_holds_few_images(tiny_bundle):
    predictor = Predictor.load(tiny_bundle.path, detector="whole", batch_size=8, workers=2)
    taken = itertools.count()
    endless = (flat(next(taken) % 256) for _ in itertools.repeat(None))
    stream = predictor.stream(endless)
    assert next(taken) == 0
    firsts = [next(stream) for _ in range(20)]
    assert [result.source for result in firsts] == [f"<array {i}>" for i in range(20)]
    assert next(taken) < 20 + 8 + 8 + 4
    stream.close()
    before = set(threading.enumerate())
    for _ in range(3):
        predictor.predict([flat(0)] * 4)
    # A thread starts when none is idle, which may be late; those of other tests may end.
    own = predictor._pool._threads
    assert set(threading.enumerate()) - before <= own
    assert len(own) <= 2


class TestLargePhotographs:
    @pytest.fixture
    def photograph(self, astronaut) -> np.ndarray:
        """The face about (675, 342), 285 pixels wide."""
        return np.asarray(Image.fromarray(astronaut).resize((1536, 1536), Image.Resampling.BICUBIC))

    @pytest.fixture
    def jpeg(self, photograph) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue()

    @pytest.fixture
    def reductions(self, monkeypatch) -> list[int]:
        """The reductions at which JPEGs were decoded."""
        found, decode = [], images._decode_jpeg

        def spy(data, orientation, reduction):
            found.append(reduction)
            return decode(data, orientation, reduction)

        monkeypatch.setattr(images, "_decode_jpeg", spy)
        return found

    def test_are_decoded_at_half_the_size_with_the_same_results(self, predictor, jpeg, reductions):
        (half,), (full,) = predictor.predict(jpeg), predictor.predict(decode_image(jpeg))
        assert reductions == [2, 1]
        assert (half.width, half.height) == (full.width, full.height) == (1536, 1536)
        (small,), (large,) = half.faces, full.faces
        assert small.box == pytest.approx(large.box, abs=6)
        assert small.face_score == pytest.approx(large.face_score, abs=0.05)
        assert small.prob == pytest.approx(large.prob, abs=0.02)

    @pytest.mark.parametrize(("side", "expected"), [(64, [2]), (128, [2]), (200, [2, 1])])
    def test_are_decoded_again_where_a_face_needs_more_pixels(self, predictor, jpeg, reductions, side, expected):
        bundle = predictor.config
        preprocessing = dataclasses.replace(bundle.preprocessing, size=(side, side), margin=0.0)
        model = dataclasses.replace(bundle.model, image_size=(side, side))
        predictor.config = dataclasses.replace(bundle, preprocessing=preprocessing, model=model)
        _, (found,), (crop,) = predictor.submit(NamedImage("x", jpeg)).result()
        assert reductions == expected
        # Of the same face, in the photograph at full size.
        whole = preprocessing.face(decode_image(jpeg), found.box)
        assert np.abs(crop.astype(int) - whole).mean() < 2
        assert len(found.landmarks) == 5
        assert all(x > found.box.x and y > found.box.y for x, y in found.landmarks)

    def test_are_decoded_in_full_with_a_known_box_or_a_smallest_face(self, tiny_bundle, predictor, jpeg, reductions):
        list(predictor.stream([jpeg], boxes=[Box(500, 200, 300, 300)]))
        Predictor.load(tiny_bundle.path, min_face=20).predict(jpeg)
        Predictor.load(tiny_bundle.path, detector="whole").predict(jpeg)
        Predictor.load(tiny_bundle.path, long_side=1280).predict(jpeg)
        assert reductions == [1] * 4


def test_one_worker_is_the_callers_thread(tiny_bundle):
    class Watcher(Columns):
        threads: ClassVar[set[str]] = set()

        def detect(self, image_hwc_u8):
            self.threads.add(threading.current_thread().name)
            return super().detect(image_hwc_u8)

    predictor = Predictor.load(tiny_bundle.path, detector=Watcher(), workers=1)
    assert len(predictor.predict([flat(9)] * 5)) == 5
    assert Watcher.threads == {threading.current_thread().name}
    with pytest.raises(ValueError, match="zip"):
        list(predictor.stream([flat(9)] * 2, boxes=[None]))


def test_an_error_of_the_iterable_reaches_the_caller(whole):
    def broken():
        yield flat(0)
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        whole.predict(broken())


def test_gives_the_same_from_many_threads(predictor, astronaut):
    inputs = [astronaut, flat(90, 64, 64), astronaut[:, ::-1].copy()]
    expected = predictor.predict(inputs)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(predictor.predict, [inputs] * 6)) == [expected] * 6


def test_no_inputs_give_no_results(whole):
    assert whole.predict([]) == []


def test_wrong_names_and_numbers_are_refused(tiny_bundle, tmp_path):
    with pytest.raises(CheckpointError, match="unknown model 'nanno'"):
        Predictor.load("nanno")
    with pytest.raises(CheckpointError, match="no bundle"):
        Predictor.load(tmp_path)
    with pytest.raises(ConfigError, match="unknown option 'batchsize'; did you mean 'batch_size'"):
        Predictor.load(tiny_bundle.path, batchsize=1)
    with pytest.raises(DetectorError, match="did you mean 'whole'"):
        Predictor.load(tiny_bundle.path, detector="hole")
    with pytest.raises(ConfigError, match="at least 1"):
        Predictor.load(tiny_bundle.path, batch_size=0)
    with pytest.raises(ConfigError, match="at least 1"):
        Predictor.load(tiny_bundle.path, workers=0)


def test_options_come_from_a_config_or_by_name_which_takes_precedence(tiny_bundle):
    config = PredictorConfig(detector="whole", batch_size=3, workers=1, limits=ImageLimits(max_pixels=500))
    loaded = Predictor.from_pretrained(tiny_bundle.path, config)
    assert loaded.options == config
    assert (loaded.detector.name, loaded.batch_size, loaded.limits) == ("whole", 3, config.limits)
    changed = Predictor.load(tiny_bundle.path, config, batch_size=2, detector="yunet", min_face=20)
    assert (changed.detector.name, changed.batch_size, changed.workers) == ("yunet", 2, 1)
    assert changed.detector.config.min_face == 20
    assert Predictor.load(tiny_bundle.path, config, detector=Columns()).detector.name == "columns"


def of_opencv(code: int, err: str) -> cv2.error:
    error = cv2.error(err)
    error.code, error.err = code, err
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory for this image"),
        (of_opencv(-4, "Insufficient memory"), "not enough memory for this image"),
        (of_opencv(-215, "!ssize.empty()"), "OpenCV fails at it: !ssize.empty()"),
        (DetectorError("detector 'yunet': no memory"), "detector 'yunet': no memory"),
    ],
)
def test_what_one_image_is_too_much_for_is_one_row(whole, monkeypatch, error, message):
    def detect(image_hwc_u8: np.ndarray) -> list[Detection]:
        if image_hwc_u8[0, 0, 0] == 9:
            raise error
        return [Detection(Box(0, 0, 20, 20), 1.0)]

    monkeypatch.setattr(whole.detector, "detect", detect)
    results = whole.predict([flat(200), flat(9), flat(100)])
    fine = ("ok", None)
    assert [(result.status, result.error) for result in results] == [fine, ("unreadable", message), fine]
