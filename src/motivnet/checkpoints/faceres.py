"""faceres, a MobileNet-v1 trained on the identities of VGGFace2, as a start for a timm model.

The npm package `@vladmandic/human` (MIT) has it as `models/faceres.json` and `faceres.bin`, a graph of TensorFlow.js;
its origin is HSE_FaceRec_tf (Apache-2.0). VGGFace2 is for research. The format, a list of names and shapes beside their
numbers, is read here and not with the package `tensorflowjs`, which needs TensorFlow.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motivnet.checkpoints.keymaps import FACERES
from motivnet.checkpoints.timm_weights import renormalised
from motivnet.errors import CheckpointError, reraised
from motivnet.models.config import ModelConfig
from motivnet.preprocess import Preprocessing
from motivnet.storage import read_json

MODEL = ModelConfig(backbone="timm:mobilenetv1_100", image_size=(224, 224))
# It was trained on BGR less these means.
MEAN_BGR = (103.939, 116.779, 123.68)
STEM, STEM_BIAS = "conv_stem.weight", "bn1.bias"


def read_faceres(path: Path, preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Read faceres for images that are normalised otherwise than in its training.

    The function is the same but for padding: at stride 2, TensorFlow's "same" adds a row and a column to even sides at
    their ends, torch at their beginnings; and it pads with zeros, which here are other colours. Batch norms, which are
    folded in the file, have mean 0 and variance 1; see `rebase_batch_norms`.

    Args:
        path: `faceres.json`, with the file of numbers that it names beside it.
        preprocessing: of the images that the model will see.

    Returns:
        Tensors under the names of timm's mobilenetv1_100, with a stem of three channels (red, green, blue).

    Raises:
        CheckpointError: if a file is missing or damaged, or is another model.
    """
    found, tensors = _read_tensors(path), {}
    with reraised(CheckpointError, path, CheckpointError):
        named, _ = FACERES.apply(found)
    for name, values in named.items():
        if values.ndim == 4:  # height, width, in, out; of depthwise kernels height, width, channels, 1
            values = values.permute(2, 3, 0, 1) if "conv_dw" in name else values.permute(3, 2, 0, 1)
        tensors[name] = values.contiguous()
    for name in [name for name in tensors if name.endswith(".bias")]:
        norm = name.removesuffix("bias")
        ones = torch.ones_like(tensors[name])
        tensors.setdefault(f"{norm}weight", ones)
        tensors |= {f"{norm}running_mean": 0 * ones, f"{norm}running_var": ones.clone()}
        tensors[f"{norm}num_batches_tracked"] = torch.tensor(0)
    missing = {ours for ours in FACERES.rules.values() if ours} - tensors.keys()
    if missing:
        raise CheckpointError(f"{path}: not faceres: nothing for {min(missing)}")
    tensors[STEM], shift_O = renormalised(tensors[STEM].flip(1), MEAN_BGR[::-1], (1.0,), preprocessing)
    tensors[STEM_BIAS] = tensors[STEM_BIAS] + shift_O
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        (group,) = read_json(path)["weightsManifest"]
        numbers = b"".join((path.parent / Path(name).name).read_bytes() for name in group["paths"])
        tensors, start = {}, 0
        for entry in group["weights"]:
            dtype = np.dtype(_dtype(entry))
            count = math.prod(entry["shape"])
            values = np.frombuffer(numbers, dtype, count, start).reshape(entry["shape"])
            tensors[str(entry["name"])] = torch.from_numpy(values.astype(np.float32))
            start += count * dtype.itemsize
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a graph of TensorFlow.js: {error}. Allowed: faceres.json beside faceres.bin"
        ) from None
    return tensors


def _dtype(entry: dict[str, Any]) -> str:
    kind = entry.get("quantization", entry)["dtype"]
    if kind not in ("float16", "float32", "int32"):
        raise ValueError(f"{entry['name']} is stored as {kind}")
    return kind
