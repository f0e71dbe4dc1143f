"""Folders of encoders: what timm and Hugging Face transformers save. Nothing in them is executed."""

import dataclasses
from pathlib import Path
from typing import Any

from motivnet.checkpoints.bundle import CONFIG_NAME
from motivnet.checkpoints.files import WeightsFile, open_weights
from motivnet.errors import CheckpointError, reraised
from motivnet.models.backbone import timm_name
from motivnet.models.transformers_encoder import read_settings
from motivnet.storage import read_json

# The first that a folder has; large models are in several files.
WEIGHTS = (
    *("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"),
    *("*.safetensors", "*.pth"),
)
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")


@dataclasses.dataclass(frozen=True)
class EncoderFolder:
    """An encoder of timm or transformers.

    Args:
        path: of the folder.
        backbone: `timm:NAME` or `transformers`, as in `ModelConfig`.
        transformers: settings, as in `ModelConfig`; None for timm.
        normalisation: mean and standard deviation of its images, from 0 to 255; None if it does not say.
    """

    path: Path
    backbone: str
    transformers: dict[str, Any] | None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None

    def weights(self) -> WeightsFile:
        """Open its weights; CheckpointError if there are none, or they are damaged."""
        files = next((files for pattern in WEIGHTS if (files := sorted(self.path.glob(pattern)))), None)
        if files is None:
            raise CheckpointError(f"{self.path}: no weights. Allowed: {', '.join(WEIGHTS)}")
        parts = [open_weights(file) for file in files]
        tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        return dataclasses.replace(parts[0], tensors=tensors)


def read_encoder_folder(path: Path) -> EncoderFolder | None:
    """Describe the encoder of a folder by its config.json; None if it is no folder of timm or transformers.

    Raises:
        CheckpointError: if a file is damaged, or the encoder is of another kind than those supported.
    """
    data = _read(path / CONFIG_NAME)
    with reraised(CheckpointError, path / CONFIG_NAME, KeyError, TypeError, ValueError):
        if "model_type" in data:
            found = [images for name in PREPROCESSORS if "image_mean" in (images := _read(path / name))]
            values = _normalisation(found[0], "image_mean", "image_std") if found else None
            return EncoderFolder(path, "transformers", read_settings(data), values)
        if "architecture" in data:
            own = data.get("pretrained_cfg") or {}
            values = _normalisation(own, "mean", "std") if "mean" in own else None
            return EncoderFolder(path, f"timm:{timm_name(data['architecture'], own.get('tag'))}", None, values)
    return None


def _read(file: Path) -> dict[str, Any]:
    with reraised(CheckpointError, f"{file}: cannot be read", OSError, ValueError):
        try:
            data = read_json(file)
        except (FileNotFoundError, NotADirectoryError):
            return {}
    return data if isinstance(data, dict) else {}


def _normalisation(data: dict[str, Any], *names: str) -> Any:
    return tuple(tuple(255 * float(value) for value in data[name]) for name in names)
