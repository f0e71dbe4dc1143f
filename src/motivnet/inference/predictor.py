"""The predictor: decodes images and detects faces in threads, and classifies faces in batches across images.

Shape suffixes: B faces of a batch, H height, W width, C channels (pixels) or classes (probs, logits).
"""

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.checkpoints.released import HUB_PREFIX
from motivnet.config import replace
from motivnet.errors import ConfigError, DetectorError, ImageError, require
from motivnet.faces import Detection, DetectorConfig, FaceDetector, load_detector
from motivnet.frames.ahead import map_ahead
from motivnet.frames.clips import Clip
from motivnet.images import ColorOrder, Decoded, NamedImage, decode_reduced, is_blank, is_data_url, is_tensor
from motivnet.inference.backends import Backend, answers, load_backend
from motivnet.inference.predictor_config import PredictorConfig, Threshold
from motivnet.inference.results import FaceResult, ImageResult, Results
from motivnet.inference.rows import all_columns
from motivnet.machine import usable_cores
from motivnet.onnx_session import offers
from motivnet.preprocess import Box
from motivnet.remote import fetch, is_url, without_password

if TYPE_CHECKING:
    from motivnet.images import Input
    from motivnet.inference.results import Kept

# Valence and arousal of a face; and its probabilities with them.
Affect = list[float] | list[None]
Answer = tuple[list[float], Affect]
# The result of an image before its faces are classified, its detections, and their crops, uint8 (H, W, C).
Detected = tuple[ImageResult, tuple[Detection, ...], tuple[np.ndarray, ...]]
Faces = tuple[tuple[Detection, ...], tuple[np.ndarray, ...]]
# Frames of a clip that a model of images sees; their probabilities are averaged.
CLIP_FRAMES = 8
# Maximum size of the inputs that the results of one `predict` keep for notebooks; paths do not count.
KEPT_BYTES = 256_000_000


class Predictor:
    """Recognises the emotions of faces in images. Thread-safe."""

    def __init__(
        self, config: BundleConfig, backend: Backend, detector: FaceDetector, options: PredictorConfig | None = None
    ) -> None:
        """Combine loaded parts; `Predictor.load` loads them by name.

        Args:
            config: labels, preprocessing and calibration of the model.
            backend: runs the model.
            detector: detects the faces.
            options: batch size, workers, limits and threshold are used; None: the defaults.

        Raises:
            ConfigError: if the threshold is `stored` and the bundle has none.
        """
        self.config = config
        self.backend = backend
        self.detector = detector
        options = options or PredictorConfig()
        self.options = options
        self.batch_size = options.batch_size
        # At least two, as some wait for the network.
        self.workers = options.workers or max(2, usable_cores())
        self.limits = options.limits
        self.fetch_limits = options.fetch_limits
        self.abstain_below = _threshold(options.abstain_below, config)
        self._fingerprint = config.preprocessing.fingerprint
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="motivnet")
        self._long_side = None
        settings = getattr(detector, "config", None)
        # `min_face` counts pixels of the full size.
        if isinstance(settings, DetectorConfig) and not settings.min_face:
            self._long_side = settings.long_side

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a table of its results, with their Parquet types."""
        affect = self.config.model.affect
        return all_columns(self.config.labels.names, landmarks=self.options.landmarks, affect=affect)

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        config: PredictorConfig | None = None,
        *,
        detector: str | FaceDetector | None = None,
        **options: Any,
    ) -> "Predictor":
        """Load a model and a face detector.

        Args:
            model: name of an embedded model, folder of a bundle, file in a released format such as MotivNet.pth, or a
                name that `motivnet weights list` knows.
            config: the options; None: the defaults.
            detector: a name for `load_detector`, or a detector; `whole` for images that are crops of faces.
            options: other fields of `PredictorConfig`, such as `batch_size=8`; they take precedence over `config`.

        Raises:
            CheckpointError: if there is no such model, it is damaged, or too large for the free memory.
            DetectorError: if there is no such detector, or it cannot run here.
            ConfigError: if an option is unknown, out of range, or not supported by the model.
            MissingExtraError: if the model needs torch, which is not installed.
        """
        if isinstance(detector, str):
            options["detector"] = detector
        config = replace(config or PredictorConfig(), options)
        if detector is None or isinstance(detector, str):
            detector = detector_of(config)
        bundle, backend = load_backend(model, config)
        config = replace(config, {"batch_size": min(config.batch_size, backend.max_batch or config.batch_size)})
        return cls(bundle, backend, detector, config)

    @classmethod
    def from_pretrained(cls, model: str | Path = "nano", *args: Any, **options: Any) -> "Predictor":
        """Load as `load` does; and `OWNER/NAME`, a repository of the Hugging Face hub, unless such a folder exists."""
        on_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(model)) and not Path(model).exists()
        return cls.load(f"{HUB_PREFIX}{model}" if on_hub else model, *args, **options)

    def predict(self, inputs: "Input | Iterable[Input]", *, color: ColorOrder = "rgb") -> Results:
        """Predict one image or several.

        Args:
            inputs: an image, or an iterable of images. An image is a URL that begins with `http://` or `https://`, a
                path, the bytes of a file, a PIL image, a data URL, an array or a tensor as for `decode_image`, or a
                `NamedImage`. An array or a tensor is always one image.
            color: colour order of arrays and tensors; ignored for files and PIL images.

        Returns:
            One result per input, in order, also for inputs that are unreadable or have no face. Notebooks show them,
            for which they keep at most `KEPT_BYTES` of the inputs.
        """
        results = self._stream(_listed(inputs), color, None, KEPT_BYTES)
        return Results(results, labels=self.config.labels.names)

    __call__ = predict

    def stream(
        self,
        inputs: "Iterable[Input | Clip]",
        *,
        color: ColorOrder = "rgb",
        boxes: Iterable[Box | None] | None = None,
        keep_images: bool = False,
    ) -> Iterator[ImageResult]:
        """Predict images one by one, in order, with only a few in memory.

        Results are yielded in groups of up to `batch_size` faces or images, whichever is reached first.

        Args:
            inputs: any iterable of inputs as for `predict`, or all of them clips; it may be endless. The face of a clip
                is the largest in each frame, or its box in all of them.
            color: colour order of arrays and tensors.
            boxes: the known face of each input, in pixels of the upright image; the detector runs only on inputs whose
                box is None. As many as there are inputs; one that is not at least half in its image is an error.
            keep_images: whether results keep their input, so that notebooks can show it.
        """
        return self._stream(inputs, color, boxes, math.inf if keep_images else 0)

    def _stream(
        self, inputs: "Iterable[Input | Clip]", color: ColorOrder, boxes: Iterable[Box | None] | None, keep_bytes: float
    ) -> Iterator[ImageResult]:
        require(color in ("rgb", "bgr"), f"unknown color order {color!r}. Allowed: rgb, bgr")
        pending: list[Detected] = []
        num_faces = 0
        for result, detections, crops in self._prefetch(inputs, color, boxes):
            size = _kept_bytes(result.image)
            if size > keep_bytes:
                result = dataclasses.replace(result, image=None)
            else:
                keep_bytes -= size
            pending.append((result, detections, crops))
            num_faces += len(crops)
            if num_faces >= self.batch_size or len(pending) >= self.batch_size:
                yield from self.finish(pending)
                pending, num_faces = [], 0
        yield from self.finish(pending)

    def _prefetch(
        self, inputs: "Iterable[Input | Clip]", color: ColorOrder, boxes: Iterable[Box | None] | None
    ) -> Iterator[Detected]:
        """Fetch and decode images and detect faces in threads, a few images ahead of the caller, in order.

        One worker is the caller's own thread: a process that is to use one core uses no more.
        """
        known = itertools.repeat(None) if boxes is None else boxes
        numbered = enumerate(zip(inputs, known, strict=boxes is not None))

        def detect(item: "tuple[int, tuple[Input | Clip, Box | None]]") -> Detected:
            position, (source, box) = item
            return self._detect(source, position, color, box)

        if self.workers == 1:
            return map(detect, numbered)
        # Enough to keep the threads busy during one batch, with bounded memory.
        return map_ahead(detect, numbered, self.workers, depth=4 * self.workers - 1, pool=self._pool)

    def _detect(self, given: "Input | Clip", position: int, color: ColorOrder, box: Box | None) -> Detected:
        name, source = (given.name, given.image) if isinstance(given, NamedImage) else (_name(given, position), given)
        import cv2

        result = functools.partial(ImageResult, source=name, model=self.config.name, preprocessing=self._fingerprint)
        try:
            if isinstance(source, ImageError):
                raise source
            if isinstance(source, str) and is_url(source):
                source = fetch(source, self.fetch_limits)
            if isinstance(source, Clip):
                frames = source.read(self.config.model.num_frames or CLIP_FRAMES, limits=self.limits)
                shown = [Decoded(frame_hwc_u8, frame_hwc_u8.shape[:2]) for frame_hwc_u8 in frames]
                detections, crops = _one_face([self._find(decoded, box) for decoded in shown])
                decoded = shown[0]
            else:
                decoded = decode_reduced(source, None if box else self._long_side, color=color, limits=self.limits)
                detections, crops = self._find(decoded, box)
        except (ImageError, DetectorError) as error:
            return result(status="unreadable", error=str(error)), (), ()
        except MemoryError:
            return result(status="unreadable", error="not enough memory for this image"), (), ()
        except cv2.error as error:
            is_memory = error.code == cv2.Error.StsNoMem
            reason = "not enough memory for this image" if is_memory else f"OpenCV fails at it: {error.err}"
            return result(status="unreadable", error=reason), (), ()
        is_file = isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview))
        (height, width), image = decoded.size, source if is_file else decoded.image_hwc_u8
        status, blank = "ok" if detections else "no_face", bool(crops) and all(map(is_blank, crops))
        return result(status=status, width=width, height=height, image=image, blank=blank), detections, crops

    def _find(self, decoded: Decoded, box: Box | None) -> Faces:
        """Detect the faces of an image, unless its box is known, and crop them."""
        known = [Detection(Box(*box).inside(decoded.size), 1.0)] if box else None
        return self._crop(decoded, self.detector.detect(decoded.image_hwc_u8) if known is None else known)

    def _crop(self, decoded: Decoded, detections: list[Detection]) -> Faces:
        """Crop the faces, from a larger image where the decoded one has fewer pixels of one than the model takes.

        Args:
            decoded: the image.
            detections: in its pixels.

        Returns:
            The detections in pixels of the full size, and the crops.
        """
        preprocessing, reduction = self.config.preprocessing, decoded.reduction
        found = detections
        while reduction > 1 and not all(preprocessing.fills(face.crop_box) for face in found if face.crop_box):
            reduction //= 2
            found = [face.scaled(2) for face in found]
        image_hwc_u8 = decoded.at(reduction)
        crops = tuple(preprocessing.face(image_hwc_u8, face.crop_box, face.landmarks) for face in found)
        return tuple(face.scaled(decoded.reduction) for face in detections), crops

    def submit(self, image: NamedImage) -> "Future[Detected]":
        """Begin to decode an image and detect its faces, in a thread; `finish` takes what comes of it."""
        return self._pool.submit(self._detect, image, 0, "rgb", None)

    def finish(self, images: list[Detected]) -> Iterator[ImageResult]:
        """Classify the faces of several images in batches, and yield the results of the images."""
        answers = self.classify_all(face for _, _, crops in images for face in crops)
        for result, detections, _ in images:
            classified = [self.face_result(found, *next(answers)) for found in detections]
            yield dataclasses.replace(result, faces=tuple(classified))

    def classify_all(self, faces_HWC_u8: Iterable[np.ndarray]) -> Iterator[Answer]:
        """Classify any number of faces as `classify` does, in batches of at most `batch_size`."""
        faces = iter(faces_HWC_u8)
        while batch := list(itertools.islice(faces, self.batch_size)):
            yield from self.classify(batch)

    def classify(self, faces_HWC_u8: list[np.ndarray]) -> Iterator[Answer]:
        """Classify the crops of `Preprocessing.face` in one batch of at least one, or clips of them, (T, H, W, C).

        A model of images averages over the frames of a clip; for a model of clips, an image is one that stands still.

        Returns:
            For each face, its probabilities in label order, and its valence and arousal, or (None, None).
        """
        faces, model = np.stack(faces_HWC_u8), self.config.model
        pixels_BCHW = self.config.preprocessing.normalise(faces)
        if faces.ndim == 4 and model.num_frames:
            pixels_BCHW = np.tile(pixels_BCHW, (1, model.num_frames, 1, 1))
        pixels_BCHW = pixels_BCHW.reshape(-1, model.input_chans, *pixels_BCHW.shape[2:])
        found = answers(self.config, self.backend.outputs(pixels_BCHW), len(pixels_BCHW))
        means: Any = (x if x is None else x.reshape(len(faces), -1, x.shape[1]).mean(1).tolist() for x in found)
        probs, affect = means
        return zip(probs, affect or [[None, None]] * len(faces), strict=True)

    def face_result(self, found: Detection, probs: list[float], affect: Affect) -> FaceResult:
        """Combine a detection with the outputs of `classify`."""
        labels, best = self.config.labels.names, max(probs)
        abstained = self.abstain_below is not None and best < self.abstain_below
        named = dict(zip(labels, probs, strict=True))
        landmarks = (found.landmarks or ()) if self.options.landmarks else None
        valence, arousal = affect
        answer = labels[probs.index(best)], named, abstained, valence, arousal
        return FaceResult(found.box, found.score, *answer, landmarks)


def _one_face(found: list[Faces]) -> Faces:
    """Return the largest face of each frame of a clip as one, (T, H, W, C); without one, that of the frame before."""
    first = next(((detections, crops) for detections, crops in found if crops), None)
    if first is None:
        return (), ()
    shown = [first[1][0]]
    for _, crops in found:
        shown.append(crops[0] if crops else shown[-1])
    return first[0][:1], (np.stack(shown[1:]),)


def detector_of(config: PredictorConfig) -> FaceDetector:
    """Load the detector that the options name, on their device.

    It runs on the CPU where only torch has the device: `mps`, and `cuda` if onnxruntime has no CUDA.

    Raises:
        DetectorError: if there is no such detector, or it cannot run here.
        ConfigError: if the device is not available.
    """
    only_torch = config.device == "mps" or (config.device.startswith("cuda") and not offers(config.device))
    settings = DetectorConfig(
        long_side=config.long_side,
        min_score=config.min_score,
        min_face=config.min_face,
        device="cpu" if only_torch else config.device,
    )
    return load_detector(config.detector, config=settings)


def _threshold(wanted: Threshold, config: BundleConfig) -> float | None:
    if wanted != "stored":
        return wanted
    if config.abstain_below is None:
        raise ConfigError(
            f"abstain_below 'stored': bundle {config.name!r} has no threshold. Allowed: a probability, or a bundle "
            "with a threshold from `motivnet calibrate --accuracy`"
        )
    return config.abstain_below


def _listed(inputs: Any) -> "Iterable[Input]":
    """Return inputs as an iterable. A value that is neither an image nor iterable becomes an unreadable input."""
    single = isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray)) or is_tensor(inputs)
    return [inputs] if single or not isinstance(inputs, Iterable) else cast("Iterable[Input]", inputs)


def _name(source: object, position: int) -> str:
    if is_data_url(source):
        return f"<data URL {position}>"
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        return without_password(name) if is_url(source) else name
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<bytes {position}>"
    kind = "array" if isinstance(source, np.ndarray) else "tensor" if is_tensor(source) else "image"
    return f"<{kind} {position}>"


def _kept_bytes(image: "Kept | None") -> int:
    """Return the memory that an image occupies, in bytes; 0 for a path."""
    if image is None or isinstance(image, os.PathLike):
        return 0
    if isinstance(image, str):
        return len(image) if is_data_url(image) else 0
    return image.nbytes if isinstance(image, (np.ndarray, memoryview)) else len(image)
