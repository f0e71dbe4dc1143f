import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from motivnet.checkpoints.bundle import Bundle, Calibration
from motivnet.errors import CheckpointError
from motivnet.inference.backends import OnnxBackend
from motivnet.labels import LabelSet


def test_logits_of_any_batch(tiny_bundle):
    levels = np.array([1.0, -0.5, 0.0], np.float32)
    pixels = np.broadcast_to(levels[:, None, None, None], (3, 1, 16, 16)).astype(np.float32)
    logits = OnnxBackend(tiny_bundle, threads=1).logits(pixels)
    assert logits.dtype == np.float32
    bias = np.array([1, 0, 0, -1, -2, -3, -4])
    slope = np.array([0, 4, -4, 0, 0, 0, 0])
    np.testing.assert_allclose(logits, bias + slope * levels[:, None], atol=1e-6)


def test_nothing_is_reported_to_anybody(tmp_path):
    """onnxruntime's telemetry leaves a session's number in the temporary folder when it is on."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    program = "from motivnet import Predictor; Predictor.load('nano', detector='whole')"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


def test_gives_the_same_from_many_threads(tiny_bundle):
    backend = OnnxBackend(tiny_bundle)
    batches = [np.full((size, 1, 16, 16), size / 10, np.float32) for size in range(1, 9)]
    expected = [backend.logits(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(backend.logits, batches), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def with_config(bundle: Bundle, **changes: object) -> Bundle:
    return Bundle(bundle.path, dataclasses.replace(bundle.config, **changes))


def test_refuses_labels_in_another_order(tiny_bundle):
    labels = LabelSet(tiny_bundle.config.labels.names[::-1])
    with pytest.raises(CheckpointError, match=r"labels .* do not agree"):
        OnnxBackend(with_config(tiny_bundle, labels=labels))


def test_refuses_other_preprocessing(tiny_bundle):
    changed = dataclasses.replace(tiny_bundle.config.preprocessing, margin=0.2)
    with pytest.raises(CheckpointError, match=r"preprocessing .* do not agree"):
        OnnxBackend(with_config(tiny_bundle, preprocessing=changed))


def restated(bundle: Bundle, folder: Path, **metadata: str) -> Bundle:
    """Copy a bundle, its ONNX file saying something else of itself."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(bundle.path, folder)
    copy = Bundle(folder, bundle.config)
    model = onnx.load(copy.onnx)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | metadata)
    onnx.save(model, copy.onnx)
    return copy


def test_refuses_another_temperature_than_the_files_own(tmp_path, tiny_bundle):
    bundle = restated(tiny_bundle, tmp_path / "copy", calibration='{"temperature": 1.5, "exponent": 1.0}')
    with pytest.raises(CheckpointError, match=r"calibration .*1\.5.* do not agree .*: .*1\.0"):
        OnnxBackend(bundle)
    backend = OnnxBackend(with_config(bundle, calibration=Calibration(temperature=1.5)))
    # What comes out stays logits.
    pixels = np.zeros((1, 1, 16, 16), np.float32)
    np.testing.assert_array_equal(backend.logits(pixels), OnnxBackend(tiny_bundle).logits(pixels))


def test_a_file_of_before_there_were_temperatures_goes_with_any(tiny_bundle):
    assert "calibration" not in OnnxBackend(with_config(tiny_bundle, calibration=Calibration(temperature=1.5))).metadata


def test_refuses_another_input_size(tiny_bundle):
    changes = {
        "model": dataclasses.replace(tiny_bundle.config.model, image_size=(32, 32)),
        "preprocessing": dataclasses.replace(tiny_bundle.config.preprocessing, size=(32, 32)),
    }
    with pytest.raises(CheckpointError, match=r"inputs .* do not agree"):
        OnnxBackend(with_config(tiny_bundle, **changes))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": "neutral, happiness"}, "metadata 'labels' is no JSON"),
        ({"calibration": "hot"}, "metadata 'calibration' is no JSON"),
        ({"preprocessing": "{}"}, "metadata 'preprocessing': .*missing"),
        ({"preprocessing": '{"sise": 3}'}, "metadata 'preprocessing': unknown setting 'sise'"),
    ],
)
def test_refuses_damaged_metadata(tmp_path, tiny_bundle, metadata, message):
    bundle = restated(tiny_bundle, tmp_path / "copy", **metadata)
    with pytest.raises(CheckpointError, match=message):
        OnnxBackend(bundle)


def test_refuses_a_model_without_metadata(tmp_path, tiny_bundle):
    onnx = pytest.importorskip("onnx")
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    bundle = Bundle(tmp_path / "copy", tiny_bundle.config)
    model = onnx.load(bundle.onnx)
    del model.metadata_props[:]
    onnx.save(model, bundle.onnx)
    with pytest.raises(CheckpointError, match="has no metadata 'labels'"):
        OnnxBackend(bundle)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x00"])
def test_refuses_a_damaged_file(tmp_path, tiny_bundle, content):
    bundle = Bundle(tmp_path, tiny_bundle.config)
    bundle.onnx.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx: "):
        OnnxBackend(bundle)


def test_refuses_a_truncated_file(tmp_path, tiny_bundle):
    bundle = Bundle(tmp_path, tiny_bundle.config)
    bundle.onnx.write_bytes(tiny_bundle.onnx.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r"model\.onnx: "):
        OnnxBackend(bundle)


def test_refuses_a_bundle_without_onnx(tmp_path, tiny_bundle):
    with pytest.raises(CheckpointError, match="no such file"):
        OnnxBackend(Bundle(tmp_path, tiny_bundle.config))


def test_probabilities_sum_to_one_and_does_not_overflow():
    probs = Calibration().probs(np.array([[1000.0, 0.0, -1000.0], [0.0, np.log(3.0), -np.inf]], np.float32))
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, [[1, 0, 0], [0.25, 0.75, 0]], atol=1e-7)


def test_softmax_divides_logits_by_the_temperature():
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32) * 5
    for temperature in (0.3, 1.0, 4.0):
        expected = torch.softmax(torch.from_numpy(logits).double() / temperature, 1).numpy()
        np.testing.assert_allclose(Calibration(temperature=temperature).probs(logits), expected, rtol=1e-12)
    np.testing.assert_allclose(Calibration(temperature=0.01).probs(np.array([[1e30, 0.0]])), [[1, 0]])


def test_a_model_that_cannot_be_run_says_so(tiny_bundle):
    backend = OnnxBackend(tiny_bundle)
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be run on 2 image\(s\): "):
        backend.logits(np.zeros((2, 5, 3, 3), np.float32))
