"""Files of timm's and torchvision's models, and faceres, as a start for an encoder that timm builds.

Names are timm's, or are brought to timm's: by timm's own filter of the architecture, by a key map, or by their order:
timm and torchvision register the layers of most convolutional models in the same order.

faceres is a MobileNet-v1 trained on the identities of VGGFace2. The npm package `@vladmandic/human` (MIT) has it as
`models/faceres.json` and `faceres.bin`, a graph of TensorFlow.js; its origin is HSE_FaceRec_tf (Apache-2.0). VGGFace2
is for research. The format, a list of names and shapes beside their numbers, is read here and not with the package
`tensorflowjs`, which needs TensorFlow.

Shape suffixes: O output channels, C channels, H height, W width of a kernel.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motivnet.checkpoints.files import WeightsFile, unwrapped
from motivnet.checkpoints.keymaps import FACERES, TORCHVISION_VIT
from motivnet.checkpoints.load import check_names
from motivnet.errors import CheckpointError, reraised
from motivnet.models.backbone import filter_weights, shift_of
from motivnet.models.config import ModelConfig
from motivnet.preprocess import Preprocessing
from motivnet.storage import read_json

# A name that only torchvision's vision transformers have; its convolutional models are paired by order.
VIT_MARK = "encoder.layers.encoder_layer_0.ln_1.weight"
# The mean and standard deviation of torchvision's images, from 0 to 255.
TORCHVISION_MEAN_STD = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# A name that files of efficientnet-lite-pytorch have, and those of their images.
LITE_MARK, LITE_MEAN_STD = "_conv_stem.weight", ((127.0,) * 3, (128.0,) * 3)
# A counter of batch norms, which older files do not have.
COUNTER = "num_batches_tracked"
# Tensors whose last name is the same in all models.
NAMED_ALIKE = ("weight", "bias", "running_mean", "running_var")
FACERES_MODEL = ModelConfig(backbone="timm:mobilenetv1_100", image_size=(224, 224))
# It was trained on BGR less these means.
MEAN_BGR = (103.939, 116.779, 123.68)
STEM, STEM_BIAS = "conv_stem.weight", "bn1.bias"


def read_timm(
    file: WeightsFile,
    net: Any,
    name: str,
    preprocessing: Preprocessing,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> dict[str, Tensor]:
    """Read weights of timm or torchvision for images that are normalised otherwise than in their training.

    torchvision and efficientnet-lite-pytorch state their normalisation; for timm's names it is that of timm's weights
    of this name. The difference is folded into the first convolution, if a bias or a batch norm follows it: exactly,
    but for its zero padding. Where it cannot be folded, it stays. Neither padding nor the epsilon of batch norms is in
    a file: they are the architecture's.

    Args:
        file: of which the classifier is dropped.
        net: timm's model without classifier, for three channels; a transformer's positions are resized for it.
        name: of the model in timm.
        preprocessing: of the images that the model will see.
        normalisation: mean and standard deviation of its training, from 0 to 255; None takes those above.

    Returns:
        Tensors under the names of `net`.

    Raises:
        CheckpointError: if the file has other weights.
    """
    own = {*net.state_dict(), VIT_MARK, LITE_MARK}
    file = unwrapped(file, lambda found: not own.isdisjoint(found.tensors))
    config, tensors = net.pretrained_cfg, _timm_names(file, net, name)
    stems = _names(config, "first_conv")
    mean, std = LITE_MEAN_STD if LITE_MARK in file.tensors else TORCHVISION_MEAN_STD
    if all(f"{stem}.weight" in file.tensors for stem in stems):
        mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    mean, std = normalisation or (mean, std)
    for stem in stems:
        place = shift_of(net, stem)
        if place is not None:
            kernel = f"{stem}.weight"
            tensors[kernel], shift_O = renormalised(tensors[kernel], mean, std, preprocessing)
            tensors[place] = tensors[place] + (-shift_O if place.endswith("running_mean") else shift_O)
    return tensors


def renormalised(
    kernel_OCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...], preprocessing: Preprocessing
) -> tuple[Tensor, Tensor]:
    """Return a stem's kernel for images that are normalised otherwise.

    Args:
        kernel_OCHW: for red, green, blue.
        mean: of the normalisation that it was trained with, from 0 to 255.
        std: likewise.
        preprocessing: the other normalisation.

    Returns:
        The kernel (O, C, H, W), and what is to be added to its outputs (O).
    """
    values = (mean, std, preprocessing.mean, preprocessing.std)
    mean_C, std_C, own_mean_C, own_std_C = (torch.tensor(value).expand(3) for value in values)
    kernel_OCHW = kernel_OCHW.float() / std_C[:, None, None]
    return kernel_OCHW * own_std_C[:, None, None], (kernel_OCHW.sum((2, 3)) * (own_mean_C - mean_C)).sum(1)


def _names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the names of layers in timm's description of a model: none, one or several."""
    names = config.get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _timm_names(file: WeightsFile, net: Any, name: str) -> dict[str, Tensor]:
    """Return the tensors under the names of timm's model."""
    own, named = net.state_dict(), file.tensors
    if VIT_MARK in named:
        with reraised(CheckpointError, file.path, CheckpointError):
            named, _ = TORCHVISION_VIT.apply(named)
    tensors = _without_classifier(filter_weights(named, net, name), net, own)
    if tensors.keys() != own.keys() and file.container == "pickle":  # safetensors has another order
        tensors = _by_order(named, own) or tensors
    try:
        check_names(net, tensors, file.path)
    except CheckpointError as error:
        found = f"{error}; the file has {next(iter(file.tensors))}"
        raise CheckpointError(f"{found}. Expected: the weights of {name}, by timm or torchvision") from None
    return tensors


def _without_classifier(tensors: dict[str, Tensor], net: Any, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the classifier, and add counters of batch norms that are missing."""
    classifiers = _names(net.pretrained_cfg, "classifier")
    dropped = {f"{classifier}.{part}" for classifier in classifiers for part in ("weight", "bias")}
    # Attention pooling comes after the tokens.
    dropped = (dropped | {name for name in tensors if name.startswith("attn_pool.")}) - own.keys()
    counters = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)}
    return counters | {name: tensor for name, tensor in tensors.items() if name not in dropped}


def _by_order(named: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Pair tensors by their order; None if any pair differs, or if more than a classifier is left over."""
    theirs, ours = ([name for name in names if not name.endswith(COUNTER)] for names in (named, own))
    if not 0 <= len(theirs) - len(ours) <= 2:
        return None
    paired = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)}
    for other, name in zip(theirs, ours, strict=False):
        shape = [side for side in own[name].shape if side > 1]
        last = {other.rpartition(".")[2], name.rpartition(".")[2]}
        alike = len(last) == 1 or not last & set(NAMED_ALIKE)
        if not alike or [side for side in named[other].shape if side > 1] != shape:
            return None
        paired[name] = named[other].reshape(own[name].shape)
    return paired


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
