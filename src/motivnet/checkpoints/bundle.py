"""A checkpoint is a folder, a *bundle*: weights and everything needed to use them; its fingerprint. Torch-free.

```
nano/
├── config.json         the BundleConfig
├── model.onnx          for onnxruntime; beside it model-fp16.onnx and model-int8.onnx of `motivnet quantize`
├── model.safetensors   for torch
└── README.md           the model card
```

Shape suffixes: B images, C classes.
"""

import dataclasses
import fnmatch
import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from motivnet import config
from motivnet.checkpoints.card import make_card
from motivnet.checkpoints.hub import is_hub_name, locate, push, sha256_of
from motivnet.checkpoints.released import RELEASED
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError, require, reraised, unknown_name
from motivnet.labels import EMOTIONS, LabelSet
from motivnet.models.config import PRECISIONS, ModelConfig
from motivnet.preprocess import Preprocessing
from motivnet.storage import ASSETS, read_json, write_json

CONFIG_NAME = "config.json"
ONNX_NAME = "model.onnx"
ONNX_NAMES = {name: ONNX_NAME if name == "fp32" else f"model-{name}.onnx" for name in PRECISIONS}
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
# Prefixes of the names of a bundle's files.
BUNDLE_NAMES = (CONFIG_NAME, *ONNX_NAMES.values(), WEIGHTS_NAME, CARD_NAME)
FORMAT = 1
# Settings that change no probability: a fingerprint leaves them out, so that recording scores makes no other model.
DESCRIPTIVE = ("name", "summary", "licence", "part", "scores", "abstain_below", "provenance", "format")
# Settings that were added later: a fingerprint leaves them out where they are off, so that those of older models stay.
ADDED = ("affect", "num_frames", "transformers", "rope_bfloat16", "learnable_queries", "align")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How logits become probabilities: softmax of -margin ** exponent / temperature.

    The margin of a logit is its distance to the highest logit of the image. With exponent 1 this is temperature scaling
    (Guo et al., arXiv 1706.04599), which makes all predictions more or all less confident. Label smoothing and mixup
    leave a model overconfident at low confidence and underconfident at high confidence, which takes an exponent above
    1. Either way the order of the classes stays.

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
            require(0 < value < math.inf, f"calibration: {name} {value} must be positive and finite", CheckpointError)

    def probs(self, logits_BC: np.ndarray) -> np.ndarray:
        """Map logits, or logarithms of uncalibrated probabilities, (B, C), to probabilities, float64 (B, C)."""
        margins_BC = logits_BC.max(axis=1, keepdims=True) - logits_BC.astype(np.float64)
        exp_BC = np.exp(-(margins_BC**self.exponent) / self.temperature)
        return exp_BC / exp_BC.sum(axis=1, keepdims=True)

    def inverse(self) -> "Calibration":
        """Return the calibration that maps calibrated probabilities back to uncalibrated ones."""
        return Calibration(temperature=self.temperature ** (-1 / self.exponent), exponent=1 / self.exponent)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleConfig:
    """The description of a bundle, its config.json.

    Args:
        name: of the model.
        summary: one line.
        licence: of the weights, in one line.
        part: `model`, or the pre-trained `encoder` alone, for which labels have no meaning.
        model: dimensions.
        preprocessing: of its input.
        labels: names of the logits, in order.
        scores: data set and split -> metric -> value, as measured; empty before any measurement.
        calibration: how logits become probabilities.
        abstain_below: probability of the best label below which the model should abstain, as fitted by
            `motivnet calibrate --accuracy`; None if not fitted. Only used on request.
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
        """Check that model, labels and preprocessing fit together, and the range of the threshold.

        Raises:
            CheckpointError: if they do not, or it is out of range.
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

    @property
    def measurements(self) -> str:
        """Human-readable scores and calibration, one per line."""
        lines = [
            f"{data_set}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
            for data_set, metrics in self.scores.items()
        ]
        if self.calibration != Calibration():
            found = self.calibration
            lines.append(f"calibrated: temperature {found.temperature:.3f}, exponent {found.exponent:.3f}")
        return "\n".join(lines) or "not measured"


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that exists on disk.

    Args:
        path: its folder.
        config: its description.
    """

    path: Path
    config: BundleConfig

    @property
    def onnx(self) -> Path:
        """Path of its ONNX file, which need not exist."""
        return self.path / ONNX_NAME

    def onnx_file(self, precision: str) -> Path:
        """Return the path of its ONNX file in one of PRECISIONS; that in fp32 need not exist.

        Raises:
            CheckpointError: if the bundle has no file in this precision.
        """
        file = self.path / ONNX_NAMES[precision]
        if precision != "fp32" and not file.is_file():
            raise CheckpointError(f"{self.path}: has no {file.name}. Allowed: fp32; make it with motivnet quantize")
        return file

    @property
    def weights(self) -> Path:
        """Path of its safetensors file, which need not exist."""
        return self.path / WEIGHTS_NAME

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Upload its files and its card to a repository of the Hugging Face hub, which is made if there is none.

        `Predictor.from_pretrained(repo)` loads it from there. `HF_TOKEN` or `hf auth login` gives access.

        Args:
            repo: `OWNER/NAME`.
            private: make the repository, if it is new, visible to its owner only.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: if it cannot be uploaded.
            MissingExtraError: if huggingface_hub is not installed.
        """
        files = {file.name: file for file in sorted(self.path.iterdir()) if file.name.startswith(BUNDLE_NAMES)}
        card = make_card(self.config, files[CARD_NAME].read_text("utf-8") if CARD_NAME in files else None)
        return push(repo, {**files, CARD_NAME: card.encode()}, private=private)


def embedded_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{CONFIG_NAME}"))


def list_models(filter: str = "*", *, released: bool = False) -> list[str]:
    """Return the names of available models.

    Args:
        filter: pattern with wildcards, such as `sapiens2-*`.
        released: also list the released weights that `motivnet weights fetch` downloads, whole models and encoders.
    """
    names = embedded_models() + [entry.name for entry in RELEASED if released]
    return fnmatch.filter(names, filter)


def is_bundle(model: str | Path) -> bool:
    """Tell whether this is the name of an embedded model, or a folder."""
    return str(model) in embedded_models() or Path(model).is_dir()


def open_bundle(model: str | Path) -> Bundle:
    """Find a bundle by the name of an embedded model, or by its folder, and read its config.json.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    path = Path(model)
    if str(model) in embedded_models():
        path = ASSETS / str(model)
    elif not path.exists():
        raise CheckpointError(f"{unknown_name('model', str(model), embedded_models())}, or the folder of a bundle")
    file = path / CONFIG_NAME
    with reraised(CheckpointError, f"{file}: cannot be read", OSError, ValueError):
        try:
            data = read_json(file)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"{path}: no bundle, which is a folder with a {CONFIG_NAME}") from None
    if isinstance(data, dict) and data.get("format", FORMAT) != FORMAT:
        # Checked first, because another format has other settings.
        raise CheckpointError(f"{file}: bundle format {data['format']!r}. Allowed: {FORMAT}")
    with reraised(CheckpointError, file, ConfigError, DataError):
        return Bundle(path, config.from_plain(BundleConfig, data))


def find_weights(name: str | Path) -> Path:
    """Return a weight file or the folder of a bundle, given its path, an embedded model, a released or a hub name.

    Raises:
        CheckpointError: if there is none, or it cannot be fetched.
    """
    if str(name) in embedded_models():
        return ASSETS / str(name)
    if Path(name).exists():
        return Path(name)
    if is_hub_name(str(name)):
        return locate(str(name))
    raise CheckpointError(
        f"{unknown_name('model', str(name), embedded_models())}, the folder of a bundle, a weight file, or a name "
        f"that `motivnet weights list` knows"
    )


def require_head(bundle: Bundle) -> Bundle:
    """Return the bundle if it is a whole model.

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
    """Check that a bundle may be written to a folder: a new one, or with `overwrite` one that is just a bundle.

    Raises:
        OutputError: if not.
    """
    if not out.exists():
        return
    require(overwrite, f"{out}: exists already. Allowed: another folder, or overwrite", OutputError)
    if not (out / CONFIG_NAME).is_file():
        raise OutputError(f"{out}: no bundle, so it is not replaced. Allowed: another folder")
    others = sorted(file.name for file in out.iterdir() if not file.name.startswith(BUNDLE_NAMES))
    if others:
        raise OutputError(f"{out}: holds more than a bundle, {others[0]!r}; not replaced. Allowed: another folder")


def write_config(path: Path, bundle_config: BundleConfig) -> Bundle:
    """Write the config.json of a bundle atomically, making its folder."""
    write_json(path / CONFIG_NAME, config.to_plain(bundle_config), ensure_ascii=False, parents=True)
    return Bundle(path, bundle_config)


def model_fingerprint(model: str | Path, precision: str = "fp32") -> str:
    """Return the letter `m` and 12 hex digits that change with any weight or setting that affects the probabilities.

    Args:
        model: as `Predictor.load` takes it: embedded model, folder of a bundle, file, or released name.
        precision: of the ONNX file that predicts.

    Raises:
        CheckpointError: if there is no such model, it cannot be read, or has no file in this precision.
    """
    path = find_weights(model)
    try:
        return "m" + (sha256_of(path) if path.is_file() else _digest(open_bundle(path), precision))[:12]
    except OSError as error:
        raise CheckpointError(f"{model}: cannot be read: {error.strerror or error}") from None


def _digest(bundle: Bundle, precision: str) -> str:
    plain = config.to_plain(bundle.config)
    settings = {name: value for name, value in plain.items() if name not in DESCRIPTIVE}
    model = settings["model"]
    del model["head"]["reference_init"]  # only of the start
    for owner in (model, model["vit"] or {}, model["head"], settings["preprocessing"]):
        for name in ADDED:
            if not owner.get(name):
                owner.pop(name, None)
    digest = hashlib.sha256(config.to_json(settings, sort_keys=True).encode())
    # ONNX models over 2 GB keep their tensors in a file beside them.
    files = [bundle.onnx, bundle.path / f"{ONNX_NAME}.data", bundle.weights]
    for file in files if precision == "fp32" else [bundle.onnx_file(precision)]:
        if file.is_file():
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
