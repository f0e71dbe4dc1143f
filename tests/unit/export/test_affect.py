"""Valence and arousal in an exported model, and in torch."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle, write_config
from motivnet.checkpoints.load import load_model, write_weights
from motivnet.errors import ExportError
from motivnet.export.onnx import export_onnx, metadata, random_pixels, verify_onnx
from motivnet.inference.backends import OnnxBackend
from motivnet.inference.predictor import Predictor
from motivnet.inference.torch_backend import TorchBackend
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing

PREPROCESSING = Preprocessing(
    geometry="square", size=(32, 32), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,)
)
HEAD = HeadConfig(dim=16, num_heads=4, ff_dim=16, num_queries=3, num_layers=2)


def write(path: Path, *, affect: bool = True) -> Bundle:
    torch.manual_seed(0)
    vit = VitConfig(embed_dim=16, depth=1, num_heads=4, patch_size=8)
    model = ModelConfig(backbone="sapiens", image_size=(32, 32), in_chans=1, vit=vit, head=HEAD, affect=affect)
    config = BundleConfig(name="moody", summary="", licence="none", model=model, preprocessing=PREPROCESSING)
    bundle = write_config(path, config)
    net = build_model(model)
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.mul_(2)  # so that faces differ
    write_weights(bundle, net)
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = write(tmp_path_factory.mktemp("bundles") / "moody")
    export_onnx(made)
    return made


@pytest.fixture
def pixels(bundle: Bundle) -> np.ndarray:
    return random_pixels(bundle.config.model)


def test_onnx_and_torch_agree_on_both_outputs(bundle: Bundle, pixels: np.ndarray) -> None:
    assert verify_onnx(bundle) <= 1e-5
    model = load_model(bundle.path)
    with torch.inference_mode():
        logits, affect = model.outputs(torch.from_numpy(pixels))
    assert affect is not None
    assert affect.std(0).min() > 1e-3
    for backend in (OnnxBackend(bundle), TorchBackend(model, bundle.config.model)):
        found = backend.outputs(pixels)
        np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-4)
        assert found.affect is not None
        assert found.affect.dtype == np.float32
        np.testing.assert_allclose(found.affect, affect.numpy(), atol=1e-5)
        np.testing.assert_array_equal(backend.logits(pixels), backend.outputs(pixels).logits)


def test_what_the_file_says_of_itself(bundle: Bundle, tmp_path: Path) -> None:
    proto = onnx.load(bundle.onnx)
    assert [output.name for output in proto.graph.output] == ["logits", "affect"]
    assert json.loads({item.key: item.value for item in proto.metadata_props}["affect"]) == ["valence", "arousal"]
    assert "affect" not in metadata(write(tmp_path / "plain", affect=False), torch.float32)


def test_a_difference_in_valence_alone_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    made = open_bundle(shutil.copytree(bundle.path, tmp_path / "copy"))
    model = load_model(made.path)
    with torch.no_grad():
        model.head.affect_bias[0] += 0.5  # type: ignore[index,operator]
    write_weights(made, model)
    with pytest.raises(ExportError, match="probabilities, valence or arousal differ from torch by"):
        verify_onnx(made)


def test_torch_gives_the_same_in_parts_and_in_half_precision(bundle: Bundle, pixels: np.ndarray) -> None:
    backend = TorchBackend(load_model(bundle.path), bundle.config.model)
    expected = backend.outputs(pixels)
    backend.max_batch = 3
    for found, wanted in zip(backend.outputs(pixels), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)  # sums in other orders
    half = TorchBackend(load_model(bundle.path, dtype=torch.bfloat16), bundle.config.model).outputs(pixels)
    assert half.affect is not None
    assert half.affect.dtype == np.float32
    np.testing.assert_allclose(half.affect, expected.affect, atol=0.1)


def test_results_do_not_depend_on_what_runs_the_model(bundle: Bundle) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    faces = [
        Predictor.load(bundle.path, detector="whole", backend=backend, dtype=dtype).predict(image)[0].faces[0]
        for backend, dtype in (("onnx", "auto"), ("torch", "fp32"))
    ]
    one, other = ((face.valence, face.arousal) for face in faces)
    assert one == pytest.approx(other, abs=1e-5)
    assert all(-1 <= value <= 1 for value in one)
