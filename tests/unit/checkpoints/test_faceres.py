"""faceres: read into timm's MobileNet-v1 as an independent evaluation of its graph has it."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from motivnet.checkpoints.load import load_strict
from motivnet.checkpoints.timm_weights import FACERES_MODEL, read_faceres
from motivnet.errors import CheckpointError
from motivnet.models.motivnet import build_backbone, build_model
from motivnet.preprocess import NANO, Preprocessing
from motivnet.training.init_weights import check, start
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import BackboneConfig

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
COLOUR = Preprocessing(
    geometry="stretch", size=(64, 64), channels="rgb", filter="bilinear", mean=(127.5,) * 3, std=(60.0, 64.0, 70.0)
)


def tensors() -> dict[str, np.ndarray]:
    """The tensors of faceres in the order of the file, with random numbers that keep the activations in range."""
    rng = np.random.default_rng(0)

    def kernel(*shape: int, gain: float = 1.5) -> np.ndarray:
        return (rng.normal(size=shape) * gain / np.sqrt(np.prod(shape[:-1]))).astype(np.float16)

    def shift(width: int) -> np.ndarray:
        return rng.normal(0.3, 0.3, width).astype(np.float16)

    found: dict[str, np.ndarray] = {}
    for name, shape in {"age_pred": (256, 100), "feats": (1024, 256), "gender_pred": (256, 1)}.items():
        found |= {f"{name}/kernel": kernel(*shape), f"{name}/bias": shift(shape[1])}
    found["conv1/convolution/merged_input"] = kernel(3, 3, 3, 32, gain=0.03)
    found["conv1_bn/batchnorm_1/sub"] = shift(32)
    relu = {"Cast": np.float16(6), "Const_1": np.float16(0)}
    found |= {f"conv1_relu/{name}": value for name, value in relu.items()}
    for number, (width, wider) in enumerate(itertools.pairwise(WIDTHS), start=1):
        found[f"conv_dw_{number}/depthwise_kernel"] = kernel(3, 3, width, 1, gain=np.sqrt(width))
        found[f"conv_dw_{number}_bn/batchnorm_1/mul"] = rng.uniform(0.5, 1.5, width).astype(np.float16)
        found[f"conv_dw_{number}_bn/batchnorm_1/sub"] = shift(width)
        found |= {f"conv_dw_{number}_relu/{name}": value for name, value in relu.items()}
        found[f"conv_pw_{number}/convolution/merged_input"] = kernel(1, 1, width, wider)
        found[f"conv_pw_{number}_bn/batchnorm_1/sub"] = shift(wider)
        found |= {f"conv_pw_{number}_relu/{name}": value for name, value in relu.items()}
    return found | {"global_pooling/Mean/reduction_indices": np.array([1, 2], np.int32)}


def write(folder: Path, found: dict[str, np.ndarray]) -> Path:
    """Write a graph of TensorFlow.js: names and shapes, and the numbers beside them."""
    entries = []
    for name, values in found.items():
        entry: dict[str, object] = {"name": name, "shape": list(np.shape(values)), "dtype": "int32"}
        if values.dtype == np.float16:
            entry |= {"dtype": "float32", "quantization": {"dtype": "float16", "original_dtype": "float32"}}
        entries.append(entry)
    (folder / "faceres.bin").write_bytes(b"".join(np.asarray(values).tobytes() for values in found.values()))
    manifest = [{"paths": ["faceres.bin"], "weights": entries}]
    path = folder / "faceres.json"
    path.write_text(json.dumps({"format": "graph-model", "modelTopology": {}, "weightsManifest": manifest}))
    return path


@pytest.fixture(scope="module")
def faceres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("faceres"), tensors())


def graph(found: dict[str, np.ndarray], image_hwc_u8: np.ndarray) -> torch.Tensor:
    """Evaluate the graph up to its last features, but with padding on all sides, of the stem with 127.5."""
    weights = {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in found.items()}
    bgr_hwc = np.pad(image_hwc_u8.astype(np.float32), ((1, 1), (1, 1), (0, 0)), constant_values=127.5)[:, :, ::-1]
    x = torch.from_numpy(bgr_hwc - MEAN_BGR).permute(2, 0, 1)[None]
    x = functional.conv2d(x, weights["conv1/convolution/merged_input"].permute(3, 2, 0, 1), stride=2)
    x = (x + weights["conv1_bn/batchnorm_1/sub"][:, None, None]).clamp(0, 6)
    for number in range(1, 14):
        kernel = weights[f"conv_dw_{number}/depthwise_kernel"].permute(2, 3, 0, 1)
        stride = 2 if number in (2, 4, 6, 12) else 1
        x = functional.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))
        x = x * weights[f"conv_dw_{number}_bn/batchnorm_1/mul"][:, None, None]
        x = (x + weights[f"conv_dw_{number}_bn/batchnorm_1/sub"][:, None, None]).clamp(0, 6)
        x = functional.conv2d(x, weights[f"conv_pw_{number}/convolution/merged_input"].permute(3, 2, 0, 1))
        x = (x + weights[f"conv_pw_{number}_bn/batchnorm_1/sub"][:, None, None]).clamp(0, 6)
    return x.flatten(2).transpose(1, 2)


def test_features_are_those_of_the_graph(faceres: Path) -> None:
    backbone = build_backbone(FACERES_MODEL).eval()
    load_strict(backbone.net, read_faceres(faceres, COLOUR), faceres)
    image_hwc_u8 = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    pixels = torch.from_numpy(COLOUR.normalise(image_hwc_u8[None]))
    with torch.inference_mode():
        expected = graph(tensors(), image_hwc_u8)
        assert 0.1 < (expected > 0).float().mean() < 0.9  # the test sees something
        torch.testing.assert_close(backbone(pixels), expected, atol=1e-3, rtol=1e-3)


def test_a_grey_model_starts_from_it_with_statistics_of_its_faces(faceres: Path) -> None:
    recipe = dataclasses.replace(
        mini_fer2013(),
        model=dataclasses.replace(FACERES_MODEL, image_size=(64, 64), in_chans=1),
        preprocessing=NANO,
        backbone=BackboneConfig(weights=str(faceres)),
    )
    check(recipe, None)
    plain, rebased = build_model(recipe.model).eval(), build_model(recipe.model).eval()
    image_hw1_u8 = np.random.default_rng(1).integers(0, 256, (64, 64, 1), np.uint8)
    pixels = torch.from_numpy(NANO.normalise(image_hw1_u8[None]))
    start(plain, recipe, None)
    start(rebased, recipe, None, lambda: pixels.repeat(2, 1, 1, 1))
    for backbone in (plain.backbone, rebased.backbone):
        with torch.inference_mode():
            expected = graph(tensors(), image_hw1_u8.repeat(3, axis=2))
            torch.testing.assert_close(backbone(pixels), expected, atol=5e-3, rtol=5e-3)
    assert (plain.backbone.net.state_dict()["bn1.running_var"] == 1).all()
    assert (rebased.backbone.net.state_dict()["bn1.running_var"] != 1).all()
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone="timm:mobilenetv1_125"))
    with pytest.raises(CheckpointError, match="backbone is timm:mobilenetv1_100, not timm:mobilenetv1_125"):
        check(other, None)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_faceres(path, COLOUR)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_missing_and_damaged_files(faceres: Path, tmp_path: Path) -> None:
    assert "faceres.json beside faceres.bin" in refusal(tmp_path / "faceres.json")
    path = tmp_path / "faceres.json"
    path.write_bytes(faceres.read_bytes())
    assert "faceres.bin" in refusal(path)
    (tmp_path / "faceres.bin").write_bytes(faceres.with_suffix(".bin").read_bytes()[:-1000])
    assert "cannot be read as a graph of TensorFlow.js" in refusal(path)
    for text in ("", "[]", "{}", '{"weightsManifest": [{"paths": [], "weights": [{}]}]}'):
        path.write_text(text)
        assert "cannot be read as a graph of TensorFlow.js" in refusal(path)


def test_another_graph(tmp_path: Path) -> None:
    found = tensors()
    del found["conv_pw_13_bn/batchnorm_1/sub"]
    assert "not faceres: nothing for blocks.4.1.bn2.bias" in refusal(write(tmp_path, found))
    assert "faceres: unexpected tensor 'dense/kernel'" in refusal(write(tmp_path, {"dense/kernel": np.ones(2)}))
    quantised = {"conv1/convolution/merged_input": np.ones((3, 3, 3, 32), np.uint8)}
    path = write(tmp_path, quantised)
    path.write_text(path.read_text().replace('"int32"', '"uint8"'))
    assert "conv1/convolution/merged_input is stored as uint8" in refusal(path)
