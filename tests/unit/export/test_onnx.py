"""Exported models answer as torch does."""

import collections
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig, Calibration, open_bundle, write_config
from motivnet.checkpoints.load import load_model, write_weights
from motivnet.errors import CheckpointError, ExportError
from motivnet.export.onnx import export_onnx, state_calibration, verify_onnx
from motivnet.inference.backends import OnnxBackend
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing

PREPROCESSING = Preprocessing(
    geometry="square", size=(32, 32), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,)
)
HEADS = {
    "groups": HeadConfig(dim=16, num_heads=4, ff_dim=16, num_queries=3, num_layers=2),
    "linear": HeadConfig(kind="linear"),
    "mlp": HeadConfig(kind="mlp", dim=16),
    "attention_pool": HeadConfig(kind="attention_pool", num_heads=4),
}


def make_bundle(path: Path, head: HeadConfig, backbone: str = "sapiens") -> Bundle:
    torch.manual_seed(0)
    vit = VitConfig(embed_dim=16, depth=1, num_heads=4, patch_size=8) if backbone == "sapiens" else None
    config = ModelConfig(backbone=backbone, image_size=(32, 32), in_chans=1, vit=vit, head=head)
    bundle = write_config(
        path, BundleConfig(name="test", summary="", licence="none", model=config, preprocessing=PREPROCESSING)
    )
    write_weights(bundle, build_model(config))
    return bundle


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_every_head_exports(tmp_path: Path, head: HeadConfig) -> None:
    bundle = make_bundle(tmp_path / "b", head)
    export_onnx(bundle)
    assert verify_onnx(bundle) <= 1e-5


def test_a_convolutional_backbone_exports(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["groups"], "timm:mobilenetv2_035")
    export_onnx(bundle)
    assert verify_onnx(bundle) <= 1e-5


def test_weights_in_half_precision_are_stored_so_and_lose_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["linear"], "timm:mobilenetv2_035")
    write_weights(bundle, load_model(bundle.path).half())
    for name in ("model-int8.onnx", "model.onnx"):
        (bundle.path / name).write_bytes(b"of other weights")
    export_onnx(bundle)
    assert verify_onnx(bundle) <= 1e-6
    # What was quantised from the earlier file is gone with it.
    assert not (bundle.path / "model-int8.onnx").exists()
    kind, sizes = onnx.TensorProto.DataType.Name, collections.Counter()
    for tensor in onnx.load(bundle.onnx).graph.initializer:
        sizes[kind(tensor.data_type)] += len(tensor.raw_data)
    # What is small, and batch norm, stays in float32.
    assert sizes["FLOAT"] < sizes["FLOAT16"]


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["linear"])
    proto = onnx.load(export_onnx(bundle))
    said = {item.key: item.value for item in proto.metadata_props}
    assert said["fingerprint"] == PREPROCESSING.fingerprint
    assert json.loads(said["calibration"]) == {"temperature": 1.0, "exponent": 1.0}
    assert said["labels"].startswith('["neutral", "happiness"')
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param != ""


def test_the_temperature_is_stated_and_can_be_stated_anew(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["linear"])
    bundle = write_config(bundle.path, dataclasses.replace(bundle.config, calibration=Calibration(temperature=0.5)))
    export_onnx(bundle, external_data=True)
    # Probabilities are compared at the bundle's temperature.
    assert verify_onnx(bundle) <= 1e-5
    pixels = np.ones((1, 1, 32, 32), np.float32)
    before = OnnxBackend(bundle).logits(pixels)
    state_calibration(bundle.onnx, Calibration(temperature=1.25))
    with pytest.raises(CheckpointError, match=r"calibration .*1\.25.* do not agree .*: .*0\.5"):
        OnnxBackend(bundle)
    bundle = write_config(bundle.path, dataclasses.replace(bundle.config, calibration=Calibration(temperature=1.25)))
    backend = OnnxBackend(bundle)
    np.testing.assert_array_equal(backend.logits(pixels), before)
    said = [item.key for item in onnx.load(bundle.onnx, load_external_data=False).metadata_props]
    assert len(said) == len(set(said))
    assert not list(bundle.path.glob(".*"))


def test_verification_takes_the_temperature_on_both_sides(tmp_path: Path) -> None:
    # At this temperature, what is a small difference of logits is a large one of probabilities.
    bundle = make_bundle(tmp_path / "b", HEADS["linear"])
    export_onnx(bundle)
    with torch.no_grad():
        other = load_model(bundle.path)
        other.head.out.bias[0] += 1e-4  # type: ignore[union-attr,index]
    write_weights(bundle, other)
    mild = verify_onnx(bundle)
    cold = write_config(bundle.path, dataclasses.replace(bundle.config, calibration=Calibration(temperature=0.1)))
    state_calibration(cold.onnx, Calibration(temperature=0.1))
    assert 5 * mild < verify_onnx(cold, tolerance=1.0) < 100 * mild


@pytest.mark.parametrize("name", ["exported here", "nano"])
def test_the_file_names_nothing_of_the_machine_that_made_it(tmp_path: Path, name: str) -> None:
    file = open_bundle("nano").onnx if name == "nano" else export_onnx(make_bundle(tmp_path / "b", HEADS["groups"]))
    content = file.read_bytes()
    for trace in (b"stack_trace", b"site-packages", b".py", str(Path.cwd()).encode()):
        assert trace not in content


def test_another_models_onnx_is_noticed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["linear"])
    export_onnx(bundle)
    with torch.no_grad():
        other = load_model(bundle.path)
        other.head.out.bias[0] += 1.0  # type: ignore[union-attr,index]
    write_weights(bundle, other)
    with pytest.raises(ExportError, match="differ from torch by"):
        verify_onnx(bundle)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", HEADS["linear"])
    write_weights(bundle, build_model(make_bundle(tmp_path / "c", HEADS["mlp"]).config.model))
    with pytest.raises(CheckpointError, match=r"missing head.|unexpected head."):
        load_model(bundle.path)
    bundle.weights.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        load_model(bundle.path)


def test_nano_answers_alike_on_real_faces(astronaut: np.ndarray, grace_hopper: np.ndarray) -> None:
    bundle = open_bundle("nano")
    crops = [
        photo[top + shift : top + shift + side, left + shift : left + shift + side]
        for photo, top, left in ((astronaut, 50, 160), (grace_hopper, 60, 150))
        for shift in (-20, -10, 0, 10, 20)
        for side in (120, 160, 200, 240)
    ]
    faces = np.stack([bundle.config.preprocessing(crop) for crop in crops])
    assert verify_onnx(bundle, faces) <= 1e-4


def test_nano_answers_alike_on_random_pixels() -> None:
    assert verify_onnx(open_bundle("nano")) <= 1e-4
