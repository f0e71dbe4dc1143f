"""The options of a predictor, from which verbs and server derive theirs. Imports nothing heavy: `--help` reads it."""

import dataclasses
import re
from typing import Literal

from motivnet.config import check_bounds, setting
from motivnet.errors import ConfigError, require
from motivnet.input_limits import FetchLimits, ImageLimits
from motivnet.models.config import PRECISIONS

# A probability, `stored` for the threshold of the bundle, or None to answer for every face.
Threshold = float | Literal["stored"] | None
BACKENDS = ("auto", "onnx", "torch")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps", "coreml", "openvino")
DEVICE_HELP = "auto, cpu, cuda, cuda:N; only for torch: mps; only for ONNX, also of the detector: coreml, openvino."


def parse_size(text: str) -> tuple[int, int]:
    """Parse an input size: `1024x768` is 1024 pixels high and 768 wide.

    Returns:
        (height, width)

    Raises:
        ConfigError: if it has another form, or a side is 0.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})\s*[xX\N{MULTIPLICATION SIGN}]\s*([1-9]\d{0,4})", text.strip(), re.ASCII)
    if not match:
        raise ConfigError(f"size {text!r}: Allowed: HEIGHTxWIDTH in pixels, such as 1024x768")
    return int(match[1]), int(match[2])


def parse_threshold(text: str) -> float | Literal["stored"]:
    """Parse a threshold: a probability, or `stored` for the one in the model's bundle.

    Raises:
        ConfigError: if it is neither. `PredictorConfig` checks the range.
    """
    if text == "stored":
        return "stored"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"threshold {text!r}. Allowed: a probability such as 0.6, or stored") from None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictorConfig:
    """The options of `Predictor.load`, which the command line offers.

    Args:
        detector: yunet, yunet:MODEL.onnx, or whole: each image is the crop of one face.
        min_score: Leave out faces whose score, from 0 to 1, is lower.
        min_face: Leave out faces whose box is narrower or lower, in pixels.
        long_side: Faces are looked for in the image reduced to this longer side, in pixels; 1280 finds smaller ones.
        landmarks: Add eyes, nose, mouth and the head's pose to rows, and draw them.
        batch_size: Maximum number of faces per forward pass; a large model or little memory lowers it.
        workers: Threads that decode images and detect faces.
        limits: Sizes beyond which an image is unreadable; None: defaults.
        fetch_limits: Limits of fetching a URL; None: defaults.
        abstain_below: Mark faces whose highest probability is below this as abstained; stored: the model's own
            threshold.
        backend: onnx, torch, or auto: ONNX where the model has it and no option needs torch.
        precision: ONNX file to run: fp32, or fp16 or int8, which motivnet quantize makes.
        dtype: Torch precision: fp32, bf16, fp16; auto: bf16 for Sapiens on hardware that has it.
        compile: Compile the model with torch.compile; the first batch is slow.
        image_size: Input size of torch models, height x width, such as 512x384.
        geometry: How a released file's input is cropped: motivnet-pad (the default) or motivnet-stretch.
        num_heads: Attention heads of a released file, where neither its width nor its metadata determines them.
        threads: CPU threads of the model; torch's are those of the whole process.
    """

    detector: str = setting("yunet")
    min_score: float = setting(0.6, min=0, max=1)
    min_face: float = setting(0.0, min=0)
    long_side: int = setting(640, min=1)
    landmarks: bool = setting(False)
    batch_size: int = setting(64, min=1)
    workers: int | None = setting(None, min=1, show_default="one per core, at least 2")
    limits: ImageLimits | None = setting(None, flag=None)
    fetch_limits: FetchLimits | None = setting(None, flag=None)
    abstain_below: Threshold = setting(None, metavar="P|stored", parse=parse_threshold)
    backend: str = setting("auto")
    precision: str = setting("fp32", metavar="|".join(PRECISIONS))
    device: str = setting("auto", DEVICE_HELP)
    dtype: str = setting("auto")
    compile: bool = setting(False, flag=None)
    image_size: tuple[int, int] | None = setting(None, metavar="HxW", flag="size", parse=parse_size)
    geometry: str | None = setting(None)
    num_heads: int | None = setting(None, min=1)
    threads: int | None = setting(None, min=1, show_default="one per core")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if a number is out of range, the backend, precision or threshold is unknown, or an option for
                torch is combined with ONNX.
        """
        check_bounds(self)
        threshold = self.abstain_below
        if threshold not in (None, "stored") and (isinstance(threshold, str) or not 0 <= threshold <= 1):
            raise ConfigError(f"abstain_below {threshold!r}. Allowed: a probability from 0 to 1, or 'stored'")
        require(self.backend in BACKENDS, f"unknown backend {self.backend!r}. Allowed: {', '.join(BACKENDS)}")
        if re.sub(r"^cuda:\d+$", "cuda:N", self.device, flags=re.ASCII) not in DEVICES:
            raise ConfigError(f"unknown device {self.device!r}. Allowed: {', '.join(DEVICES)}")
        if self.backend == "onnx" and self.needs_torch:
            raise ConfigError("backend 'onnx' runs at the size and precision of its file, not on mps. Allowed: torch")
        require(self.precision in PRECISIONS, f"unknown precision {self.precision!r}. Allowed: {', '.join(PRECISIONS)}")
        if self.precision != "fp32" and (self.backend == "torch" or self.needs_torch):
            raise ConfigError(
                f"precision {self.precision!r} is that of an ONNX file. Allowed with torch: fp32, and dtype"
            )

    @property
    def needs_torch(self) -> bool:
        """Whether an option is set that ONNX does not support."""
        wanted = (self.device == "mps", self.dtype != "auto", self.compile, self.image_size is not None)
        return any(wanted)
