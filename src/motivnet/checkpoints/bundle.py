"""A checkpoint is a folder, a *bundle*: weights and everything needed to use them. Torch-free.

```
nano/
├── config.json         what BundleConfig holds
├── model.onnx          for onnxruntime
├── model.safetensors   for torch
└── README.md           the model card
```

Shape suffixes: B images, C classes.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from motivnet import config
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError, unknown_name
from motivnet.labels import EMOTIONS, LabelSet
from motivnet.models.config import ModelConfig
from motivnet.preprocess import Preprocessing

ASSETS = Path(__file__).parent.parent / "assets"
CONFIG_NAME = "config.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
# What the names of a bundle's files begin with.
BUNDLE_NAMES = (CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME, CARD_NAME)
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How logits become probabilities: softmax of -margin ** exponent / temperature.

    A logit's margin is what it lies below the highest of its image. With exponent 1 this is temperature scaling (Guo et
    al., arXiv 1706.04599), which makes all answers surer or all less sure. Label smoothing and mixup leave a model too
    sure where it is unsure, and not sure enough where it is sure; that takes an exponent above 1. Either way the order
    of the classes stays.

    Args:
        temperature: above 0; 1 if not calibrated.
        exponent: above 0; 1 for temperature scaling alone.
    """

    temperature: float = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            CheckpointError: at a number that is not positive and finite.
        """
        for name, value in (("temperature", self.temperature), ("exponent", self.exponent)):
            if not 0 < value < math.inf:
                raise CheckpointError(f"calibration: {name} {value} must be positive and finite")

    def probs(self, logits_BC: np.ndarray) -> np.ndarray:
        """Turn logits, or logarithms of uncalibrated probabilities, (B, C), into probabilities, float64 (B, C)."""
        margins_BC = logits_BC.max(axis=1, keepdims=True) - logits_BC.astype(np.float64)
        exp_BC = np.exp(-(margins_BC**self.exponent) / self.temperature)
        return exp_BC / exp_BC.sum(axis=1, keepdims=True)

    def inverse(self) -> "Calibration":
        """Give what takes calibrated probabilities back to uncalibrated ones."""
        return Calibration(temperature=self.temperature ** (-1 / self.exponent), exponent=1 / self.exponent)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleConfig:
    """What a bundle says of itself.

    Args:
        name: of the model.
        summary: one line for people.
        licence: of the weights, in one line.
        part: `model`, or the `encoder` alone, as pre-training leaves it, whose labels then mean nothing.
        model: dimensions.
        preprocessing: what its input must have been through.
        labels: names of the logits, in order.
        scores: data set and split -> metric -> value, as measured; empty before any measurement.
        calibration: how logits become probabilities.
        abstain_below: probability of the best label below which the model had better not answer, as fitted by
            `motivnet calibrate --accuracy`; None if none was fitted. Used where it is asked for, never by itself.
        provenance: how it was made: recipe, data, versions, calibration.
        format: version of the bundle's layout.
    """

    name: str
    summary: str
    licence: str
    part: Literal["model", "encoder"] = "model"
    model: ModelConfig
    preprocessing: Preprocessing
    labels: LabelSet = EMOTIONS
    scores: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    calibration: Calibration = dataclasses.field(default_factory=Calibration)
    abstain_below: float | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Check that model, labels and preprocessing fit together, and that the threshold is one.

        Raises:
            CheckpointError: if they do not, or it is not.
        """
        pairs = {
            "format": (self.format, FORMAT),
            "input size of preprocessing and model": (self.preprocessing.size, self.model.image_size),
            "input channels of preprocessing and model": (self.preprocessing.num_channels, self.model.in_chans),
        }
        if self.part == "model":
            pairs["number of labels and of classes"] = (len(self.labels), self.model.num_classes)
        for what, (found, expected) in pairs.items():
            if found != expected:
                raise CheckpointError(f"bundle {self.name!r}: {what}: found {found}, expected {expected}")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise CheckpointError(f"bundle {self.name!r}: abstain_below {self.abstain_below} must be from 0 to 1")


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that exists on disk.

    Args:
        path: its folder.
        config: what it says of itself.
    """

    path: Path
    config: BundleConfig

    @property
    def onnx(self) -> Path:
        """Its ONNX file, which need not exist."""
        return self.path / ONNX_NAME

    @property
    def weights(self) -> Path:
        """Its safetensors file, which need not exist."""
        return self.path / WEIGHTS_NAME


def embedded_models() -> list[str]:
    """Name the models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{CONFIG_NAME}"))


def is_bundle(model: str | Path) -> bool:
    """Say whether this names an embedded model, or a folder."""
    return str(model) in embedded_models() or Path(model).is_dir()


def open_bundle(model: str | Path) -> Bundle:
    """Find a bundle by the name of an embedded model, or by its folder, and read what it says of itself.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    path = Path(model)
    if str(model) in embedded_models():
        path = ASSETS / str(model)
    elif not path.exists():
        raise CheckpointError(f"{unknown_name('model', str(model), embedded_models())}, or the folder of a bundle")
    file = path / CONFIG_NAME
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no bundle, which is a folder with a {CONFIG_NAME}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    if isinstance(data, dict) and data.get("format", FORMAT) != FORMAT:
        # Said before anything else: the settings of another format are unknown here.
        raise CheckpointError(f"{file}: bundle format {data['format']!r}. Allowed: {FORMAT}")
    try:
        return Bundle(path, config.from_plain(BundleConfig, data))
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{file}: {error}") from None


def require_head(bundle: Bundle) -> Bundle:
    """Pass the bundle of a whole model through.

    Raises:
        CheckpointError: if it is an encoder alone.
    """
    if bundle.config.part != "model":
        raise CheckpointError(
            f"{bundle.path}: an encoder: without a trained head there is nothing to predict with. Train one on it: "
            f"motivnet train RECIPE --set backbone.weights={bundle.path}"
        )
    return bundle


def check_place(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder to write a bundle to that exists, or, if it may be replaced, that is not just a bundle.

    Raises:
        OutputError: if nothing must be written there.
    """
    if not out.exists():
        return
    if not overwrite:
        raise OutputError(f"{out}: exists already. Allowed: another folder, or overwrite")
    if not (out / CONFIG_NAME).is_file():
        raise OutputError(f"{out}: no bundle, so it is not replaced. Allowed: another folder")
    others = sorted(file.name for file in out.iterdir() if not file.name.startswith(BUNDLE_NAMES))
    if others:
        raise OutputError(f"{out}: holds more than a bundle, {others[0]!r}; not replaced. Allowed: another folder")


def write_config(path: Path, bundle_config: BundleConfig) -> Bundle:
    """Write what a bundle says of itself, completely or not at all, making its folder."""
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_plain(bundle_config), indent=2, ensure_ascii=False)
    unfinished = path / f".{CONFIG_NAME}.{os.getpid()}.tmp"
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path / CONFIG_NAME)
    return Bundle(path, bundle_config)
