import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from motivnet.checkpoints.bundle import Bundle
from motivnet.errors import CheckpointError
from motivnet.inference.backends import OnnxBackend, softmax
from motivnet.labels import LabelSet


def test_gives_the_logits_of_any_batch(tiny_bundle):
    levels = np.array([1.0, -0.5, 0.0], np.float32)
    pixels = np.broadcast_to(levels[:, None, None, None], (3, 1, 16, 16)).astype(np.float32)
    logits = OnnxBackend(tiny_bundle, threads=1).logits(pixels)
    assert logits.dtype == np.float32
    bias = np.array([1, 0, 0, -1, -2, -3, -4])
    slope = np.array([0, 4, -4, 0, 0, 0, 0])
    np.testing.assert_allclose(logits, bias + slope * levels[:, None], atol=1e-6)


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
        ({"preprocessing": "{}"}, "metadata 'preprocessing': .*missing"),
        ({"preprocessing": '{"sise": 3}'}, "metadata 'preprocessing': unknown setting 'sise'"),
    ],
)
def test_refuses_damaged_metadata(tmp_path, tiny_bundle, metadata, message):
    onnx = pytest.importorskip("onnx")
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    bundle = Bundle(tmp_path / "copy", tiny_bundle.config)
    model = onnx.load(bundle.onnx)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | metadata)
    onnx.save(model, bundle.onnx)
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


def test_softmax_sums_to_one_and_does_not_overflow():
    probs = softmax(np.array([[1000.0, 0.0, -1000.0], [0.0, np.log(3.0), -np.inf]], np.float32))
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, [[1, 0, 0], [0.25, 0.75, 0]], atol=1e-7)
