"""`motivnet quantize`: the file beside the bundle's own, what is said of it, how it is chosen, and what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet import Predictor, evaluate
from motivnet.checkpoints.bundle import Bundle, Calibration, model_fingerprint, open_bundle, write_config
from motivnet.cli.main import app
from motivnet.config import to_plain
from motivnet.errors import CheckpointError, ConfigError, DataError, ExportError, MotivNetError, OutputError
from motivnet.evaluation.calibration import calibrate
from motivnet.evaluation.quantization import quantize
from motivnet.export.onnx import state_calibration
from motivnet.inference.predictor_config import PredictorConfig

BRIGHTNESS = {"neutral": 128, "happiness": 230, "sadness": 30}
SPLITS = {"split": "train", "evaluate": "test"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """36 faces to calibrate on and 9 to measure on, that the tiny bundle knows apart, as `KIND:PATH`."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 3)):
        for label, mean in BRIGHTNESS.items():
            (folder / split / label).mkdir(parents=True)
            for face in range(number):
                pixels = np.clip(rng.normal(mean, 20, (16, 16)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{face}.png")
    return f"folder:{folder}"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, whose ONNX file states its calibration."""
    copy = open_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    state_calibration(copy.onnx, copy.config.calibration)
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_file_that_stands_alone_beside_the_bundles_own(bundle: Bundle, faces: str, precision: str) -> None:
    before = contents(bundle.path)
    found = quantize(bundle.path, faces, precision=precision, faces=32, **SPLITS)
    after = contents(bundle.path)
    assert after.keys() - before.keys() == {f"model-{precision}.onnx"}
    assert after["model.onnx"] == before["model.onnx"]
    assert open_bundle(bundle.path) == found
    record = found.config.provenance["quantized"][precision]
    assert record["war"] == record["uar"] == {"fp32": 1.0, precision: 1.0}
    assert 0 <= record["mean_difference"] <= record["largest_difference"] < 0.05
    assert record["equal_answers"] == 1
    assert record["n"] == 9
    assert record["bytes"][precision] == len(after[f"model-{precision}.onnx"])
    own, made = onnx.load(bundle.onnx), onnx.load(bundle.path / f"model-{precision}.onnx")
    said = {item.key: item.value for item in made.metadata_props}
    assert said == {item.key: item.value for item in own.metadata_props} | {"stored_in": precision}
    kinds = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in made.graph.initializer}
    assert {"int8": {"INT8", "INT32"}, "fp16": {"FLOAT16"}}[precision] <= kinds
    # The same faces give the same file.
    quantize(bundle.path, faces, precision=precision, faces=32, overwrite=True, **SPLITS)
    assert contents(bundle.path) == after


def test_weights_have_seven_bits_unless_eight_are_wanted(bundle: Bundle, faces: str) -> None:
    largest = {}
    for reduced in (True, False):
        quantize(bundle.path, faces, reduce_range=reduced, overwrite=True, **SPLITS)
        tensors = onnx.load(bundle.path / "model-int8.onnx").graph.initializer
        values = [onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
        largest[reduced] = max(np.abs(value.astype(int)).max() for value in values)
    assert largest == {True: 64, False: 127}


def test_the_first_convolutions_stay_in_float32(faces: str, tmp_path: Path) -> None:
    copy = shutil.copytree(open_bundle("nano").path, tmp_path / "nano")
    quantize(copy, faces, float_convolutions=3, faces=32, overwrite=True, **SPLITS)
    graph = onnx.load(copy / "model-int8.onnx").graph
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    whole = [node.input[1] in floats for node in graph.node if node.op_type == "Conv"]
    assert whole == [True] * 3 + [False] * 24


def test_the_precision_chooses_the_file(bundle: Bundle, faces: str) -> None:
    folder = bundle.path
    for precision in ("int8", "fp16"):
        said = f"has no model-{precision}.onnx. Allowed: fp32; make it with motivnet quantize"
        with pytest.raises(CheckpointError, match=said):
            Predictor.load(folder, precision=precision)
        with pytest.raises(CheckpointError, match=said):
            model_fingerprint(folder, precision)
    whole = model_fingerprint(folder)
    for precision in ("int8", "fp16"):
        quantize(folder, faces, precision=precision, **SPLITS)
    assert model_fingerprint(folder) == whole
    assert len({whole, model_fingerprint(folder, "int8"), model_fingerprint(folder, "fp16")}) == 3
    found = {
        precision: evaluate(folder, faces, split="test", config=PredictorConfig(precision=precision))
        for precision in ("fp32", "int8", "fp16")
    }
    assert [each.protocol.model for each in found.values()] == ["tiny", "tiny-int8", "tiny-fp16"]
    assert found["int8"].protocol.model_fingerprint == model_fingerprint(folder, "int8")
    # From the file without its bundle's own: nothing else was run.
    bundle.onnx.unlink()
    again = evaluate(folder, faces, split="test", config=PredictorConfig(precision="int8"))
    np.testing.assert_array_equal(again.predictions.probs_BC, found["int8"].predictions.probs_BC)
    assert (again.predictions.probs_BC != found["fp32"].predictions.probs_BC).any()


def test_a_new_calibration_reaches_every_file(bundle: Bundle, faces: str, tmp_path: Path) -> None:
    quantize(bundle.path, faces, **SPLITS)
    config = dataclasses.replace(bundle.config, calibration=Calibration(temperature=3.0))
    write_config(bundle.path, config)
    with pytest.raises(CheckpointError, match=r"model-int8\.onnx: calibration .* do not agree"):
        Predictor.load(bundle.path, precision="int8")
    state_calibration(bundle.onnx, config.calibration)
    # One face of another brightness, without which no temperature would be best.
    wrong = tmp_path / "wrong"
    shutil.copytree(faces.removeprefix("folder:"), wrong)
    Image.fromarray(np.full((16, 16), 30, np.uint8)).save(wrong / "test" / "happiness" / "dark.png")
    made = calibrate(bundle.path, f"folder:{wrong}", split="test", out=tmp_path / "calibrated", overwrite=True)
    assert (made.path / "model-int8.onnx").is_file()
    said = {item.key: item.value for item in onnx.load(made.path / "model-int8.onnx").metadata_props}
    assert json.loads(said["calibration"]) == to_plain(made.config.calibration)
    assert Predictor.load(made.path, precision="int8").config.calibration == made.config.calibration


def no_onnx(bundle: Bundle) -> None:
    bundle.onnx.unlink()


def weights_apart(bundle: Bundle) -> None:
    model = onnx.load(bundle.onnx)
    onnx.save(model, bundle.onnx, save_as_external_data=True, location="model.onnx.data", size_threshold=0)


def no_product(bundle: Bundle) -> None:
    """Replace the matrix product by a slice."""
    model = onnx.load(bundle.onnx)
    shape = onnx.numpy_helper.from_array(np.array([1, 7], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.pop()
    model.graph.node.append(onnx.helper.make_node("Expand", ["flat", "shape"], ["logits"]))
    onnx.save(model, bundle.onnx)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"split": "val"}, DataError, r"no rows in split 'val'\. Allowed: test, train"),
        (None, {"evaluate": "val"}, DataError, r"no rows in split 'val'\. Allowed: test, train"),
        (None, {"split": "test"}, DataError, "9 faces to find the ranges of int8 on. Allowed: at least 32"),
        (None, {"faces": 1}, ConfigError, "faces 1: must be at least 32"),
        (None, {"precision": "int4"}, ConfigError, "precision 'int4'. Allowed: fp16, int8"),
        (None, {"precison": "int8"}, ConfigError, "did you mean 'precision'"),
        (no_onnx, {}, CheckpointError, r"model\.onnx: no such file"),
        (weights_apart, {}, ExportError, r"model\.onnx\.data: only models whose weights are in the ONNX file"),
        (no_product, {}, ExportError, "no convolution or matrix product"),
    ],
)
def test_what_is_refused_leaves_nothing(
    bundle: Bundle,
    faces: str,
    change: Callable[[Bundle], None] | None,
    options: dict[str, object],
    error: type[MotivNetError],
    message: str,
) -> None:
    if change:
        change(bundle)
    before = contents(bundle.path)
    with pytest.raises(error, match=message) as refused:
        quantize(bundle.path, faces, **{"faces": 32, **SPLITS, **options})
    assert "\n" not in str(refused.value)
    assert contents(bundle.path) == before


def test_other_labels_and_unreadable_faces(bundle: Bundle, faces: str, tmp_path: Path) -> None:
    before = contents(bundle.path)
    (tmp_path / "other" / "train").mkdir(parents=True)
    source = Path(faces.removeprefix("folder:"))
    shutil.copytree(source / "train" / "neutral", tmp_path / "other" / "train" / "contempt")
    with pytest.raises(DataError, match=r"no row has one of the labels neutral, .* found contempt"):
        quantize(bundle.path, f"folder:{tmp_path / 'other'}", **SPLITS)
    shutil.copytree(source, tmp_path / "damaged")
    for file in (tmp_path / "damaged" / "train" / "neutral").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png.*: "):
        quantize(bundle.path, f"folder:{tmp_path / 'damaged'}", faces=36, **SPLITS)
    assert contents(bundle.path) == before


def test_nothing_is_replaced_unasked(bundle: Bundle, faces: str) -> None:
    (bundle.path / "model-int8.onnx").write_bytes(b"kept")
    with pytest.raises(OutputError, match=r"model-int8\.onnx: exists already. Allowed: overwrite"):
        quantize(bundle.path, faces, **SPLITS)
    assert (bundle.path / "model-int8.onnx").read_bytes() == b"kept"
    with pytest.raises(OutputError, match="nano is part of the package"):
        quantize("nano", faces, **SPLITS)


def test_from_the_command_line(bundle: Bundle, faces: str) -> None:
    arguments = ["quantize", str(bundle.path), "--data", faces, "--split", "train", "--evaluate", "test"]
    result = CliRunner().invoke(app, [*arguments, "--faces", "32"])
    assert result.exit_code == 0, result.output
    assert "100.00%" in result.stdout
    assert "100.0% of the answers are equal" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--faces", "32", "--precision", "fp16", "--json"])
    assert json.loads(result.stdout)["war"] == {"fp32": 1.0, "fp16": 1.0}


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"dtype": "bf16"}, {"device": "mps"}])
def test_a_precision_is_not_torchs(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="precision 'int8' is that of an ONNX file"):
        PredictorConfig(precision="int8", **options)
    with pytest.raises(ConfigError, match=r"unknown precision 'int4'\. Allowed: fp32, fp16, int8"):
        PredictorConfig(precision="int4")
