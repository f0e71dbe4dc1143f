"""Exports for phones answer as torch does, where their libraries are installed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import Bundle, BundleConfig, write_config
from motivnet.checkpoints.load import write_weights
from motivnet.cli.main import app
from motivnet.errors import ExportError, MissingExtraError, OutputError
from motivnet.export import mobile
from motivnet.export.mobile import SUFFIXES, MobileBackend, export_mobile
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing

PACKAGES = {"tflite": "litert_torch", "executorch": "executorch"}


def make_bundle(path: Path, *, affect: bool = False) -> Bundle:
    torch.manual_seed(0)
    model = ModelConfig(
        backbone="timm:mobilenetv2_035",
        image_size=(32, 32),
        in_chans=1,
        head=HeadConfig(dim=16, num_heads=4, ff_dim=16),
        affect=affect,
    )
    preprocessing = Preprocessing(
        geometry="square", size=(32, 32), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,)
    )
    config = BundleConfig(name="test", summary="", licence="none", model=model, preprocessing=preprocessing)
    bundle = write_config(path, config)
    write_weights(bundle, build_model(model))
    return bundle


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PACKAGES.values(), "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("affect", [False, True], ids=["emotions", "affect"])
@pytest.mark.parametrize("form", SUFFIXES)
# Of the libraries, whose own calls are deprecated.
@pytest.mark.filterwarnings("default")
def test_a_file_answers_as_torch_does(tmp_path: Path, form: str, affect: bool) -> None:
    if importlib.util.find_spec(PACKAGES[form]) is None:
        pytest.skip(f"{PACKAGES[form]} is not installed")
    bundle, path = make_bundle(tmp_path / "b", affect=affect), tmp_path / f"m{SUFFIXES[form]}"
    largest = export_mobile(bundle, form, path)
    assert path.exists()
    assert largest <= 1e-5
    said = json.loads((tmp_path / f"{path.name}.json").read_text(encoding="utf-8"))
    assert said["labels"]["names"][0] == "neutral"
    assert said["preprocessing"]["size"] == [32, 32]


@pytest.mark.parametrize("form", SUFFIXES)
def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path: Path, form: str, without_library: None) -> None:
    bundle, path = make_bundle(tmp_path / "b"), tmp_path / f"m{SUFFIXES[form]}"
    with pytest.raises(MissingExtraError, match=rf"pip install 'motivnet\[{form}\]'"):
        export_mobile(bundle, form, path)
    with pytest.raises(MissingExtraError, match=rf"pip install 'motivnet\[{form}\]'"):
        MobileBackend(form, path)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, path = make_bundle(tmp_path / "b"), tmp_path / "m.pte"
    other = build_model(bundle.config.model).eval()

    def load(path: Path) -> mobile.Run:
        return lambda pixels_BCHW: [other(torch.from_numpy(pixels_BCHW)).detach().numpy() + range(7)]

    monkeypatch.setitem(mobile._FORMATS, "executorch", (lambda *_: None, load))
    with pytest.raises(ExportError, match=r"m\.pte: probabilities differ from torch by"):
        export_mobile(bundle, "executorch", path)


def test_another_suffix_or_an_option_of_onnx_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(OutputError, match=r"m\.onnx: suffix '\.onnx'. Allowed for tflite: \.tflite"):
        export_mobile(bundle, "tflite", tmp_path / "m.onnx")
    done = CliRunner().invoke(app, ["export", str(bundle.path), "--format", "tflite", "--dtype", "fp16"])
    assert "--dtype and --external-data with --format tflite. Allowed: with onnx" in str(done.exception)
