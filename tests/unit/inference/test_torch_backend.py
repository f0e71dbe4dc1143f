"""Torch gives the rows that ONNX gives, in any precision, in batches that fit."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from motivnet import Predictor, load_model
from motivnet.checkpoints.bundle import Bundle, Calibration, open_bundle
from motivnet.checkpoints.load import convert
from motivnet.errors import ConfigError
from motivnet.inference import torch_backend
from motivnet.inference.torch_backend import (
    TorchBackend,
    choose_device,
    choose_dtype,
    max_batch,
)
from motivnet.models.config import PRESETS, ModelConfig
from motivnet.models.cost import cost

CPU = torch.device("cpu")


@pytest.fixture
def bundle(released: Callable, tmp_path: Path) -> Bundle:
    """A tiny MotivNet."""
    return convert(released("motivnet", metadata={"num_heads": 3}).path, tmp_path / "motivnet")


@pytest.fixture
def backend(bundle: Bundle) -> TorchBackend:
    return TorchBackend(load_model(bundle.path), bundle.config.model)


def batch(size: int, config: ModelConfig, seed: int = 0) -> np.ndarray:
    shape = (size, config.in_chans, *config.image_size)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class TestSameAsOnnx:
    """The same rows, whatever runs the model."""

    @pytest.mark.parametrize("name", ["nano", "motivnet"])
    def test_rows_of_photographs(
        self, name: str, bundle: Bundle, astronaut: np.ndarray, grace_hopper: np.ndarray
    ) -> None:
        if name == "motivnet":
            pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
            from motivnet.export.onnx import export_onnx

            export_onnx(bundle)
        model = "nano" if name == "nano" else bundle.path
        photographs = [astronaut, np.zeros((60, 80, 3), np.uint8), grace_hopper, b"no image"]
        onnx, other = (
            Predictor.load(model, backend=kind, dtype="auto" if kind == "onnx" else "fp32").predict(photographs)
            for kind in ("onnx", "torch")
        )
        assert [row.status for row in other] == ["ok", "no_face", "ok", "unreadable"]
        for expected, found in zip(onnx, other, strict=True):
            faces = [
                dataclasses.replace(face, probs=wanted.probs)
                for face, wanted in zip(found.faces, expected.faces, strict=True)
            ]
            assert dataclasses.replace(found, faces=tuple(faces)) == expected
            assert found.preprocessing == expected.preprocessing
            for face, wanted in zip(found.faces, expected.faces, strict=True):
                assert list(face.probs) == list(wanted.probs)
                assert list(face.probs.values()) == pytest.approx(list(wanted.probs.values()), abs=1e-4)

    def test_random_pixels_through_the_embedded_model(self) -> None:
        embedded = open_bundle("nano")
        pixels = batch(5, embedded.config.model)
        found = TorchBackend(load_model("nano"), embedded.config.model).logits(pixels)
        assert (found.dtype, found.shape) == (np.float32, (5, 7))
        expected = Predictor.load("nano").backend.logits(pixels)
        np.testing.assert_allclose(Calibration().probs(found), Calibration().probs(expected), atol=1e-4)


class TestArrays:
    """Any float32 array of the right shape."""

    def test_read_only_and_backwards(self, backend: TorchBackend, bundle: Bundle) -> None:
        pixels = batch(3, bundle.config.model)
        expected = backend.logits(pixels)
        frozen = pixels.copy()
        frozen.flags.writeable = False
        np.testing.assert_array_equal(backend.logits(frozen), expected)
        backwards = backend.logits(pixels[::-1])
        np.testing.assert_array_equal(backwards, backend.logits(pixels[::-1].copy()))
        # An image's place in a batch may change the last bits.
        np.testing.assert_allclose(backwards[::-1], expected, atol=1e-6)
        assert not frozen.flags.writeable

    def test_the_input_is_left_alone(self, backend: TorchBackend, bundle: Bundle) -> None:
        pixels = batch(2, bundle.config.model)
        before = pixels.copy()
        backend.logits(pixels)
        np.testing.assert_array_equal(pixels, before)


class Counted(torch.nn.Module):
    """Counts the images of each call, and is out of memory above a number of them."""

    def __init__(self, net: torch.nn.Module, most: int = 10**6) -> None:
        super().__init__()
        self.net, self.most = net, most
        self.calls: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(pixels)


class TestBatches:
    """As large as memory lets them be."""

    def counted(self, backend: TorchBackend, most: int = 10**6) -> Counted:
        backend._run = Counted(backend._run, most)
        return backend._run

    def test_larger_ones_are_split(self, backend: TorchBackend, bundle: Bundle) -> None:
        pixels = batch(7, bundle.config.model)
        backend.max_batch = 7
        expected = backend.logits(pixels)
        run = self.counted(backend)
        backend.max_batch = 3
        np.testing.assert_allclose(backend.logits(pixels), expected, atol=1e-5)
        assert run.calls == [3, 3, 1]

    def test_out_of_memory_halves_them_for_good(self, backend: TorchBackend, bundle: Bundle) -> None:
        pixels = batch(9, bundle.config.model)
        expected = backend.logits(pixels)
        backend.max_batch = 8
        run = self.counted(backend, most=2)
        np.testing.assert_allclose(backend.logits(pixels), expected, atol=1e-5)
        assert run.calls == [8, 4, 2, 2, 2, 2, 1]
        assert backend.max_batch == 2
        run.calls.clear()
        backend.logits(pixels)
        assert run.calls == [2, 2, 2, 2, 1]

    def test_half_of_what_was_tried_not_of_what_was_allowed(self, backend: TorchBackend, bundle: Bundle) -> None:
        backend.max_batch = 1000
        run = self.counted(backend, most=3)
        assert backend.logits(batch(6, bundle.config.model)).shape == (6, 7)
        assert run.calls == [6, 3, 3]

    def test_one_image_that_does_not_fit_is_an_error(self, backend: TorchBackend, bundle: Bundle) -> None:
        self.counted(backend, most=0)
        with pytest.raises(torch.OutOfMemoryError):
            backend.logits(batch(4, bundle.config.model))

    def test_sized_to_the_memory_that_is_free(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        config = bundle.config.model
        image = cost(config, dtype=torch.float32).activation_bytes
        for free, expected in ((0, 1), (image, 1), (20 * image, 10), (21 * image, 10), (None, 1)):
            monkeypatch.setattr(torch_backend, "free_bytes", lambda device, free=free: free)
            assert max_batch(config, CPU, torch.float32) == expected
        monkeypatch.setattr(torch_backend, "free_bytes", lambda device: 20 * image)
        assert 14 <= max_batch(config, CPU, torch.bfloat16) <= 20
        assert TorchBackend(load_model(bundle.path), config).max_batch == 10

    def test_a_large_model_on_a_cpu_takes_few_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_backend, "free_bytes", lambda device: 10**12)
        assert max_batch(PRESETS["motivnet-0.3b"], CPU, torch.float32) == 1
        assert max_batch(PRESETS["nano"], CPU, torch.float32) > 64

    def test_the_predictor_takes_no_more(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_backend, "max_batch", lambda *_: 2)
        predictor = Predictor.load(bundle.path, detector="whole", batch_size=64)
        assert predictor.batch_size == 2
        rows = predictor.predict([np.full((20, 20, 3), level, np.uint8) for level in range(0, 250, 50)])
        assert len(rows) == 5


class TestPrecision:
    """By name, or what the hardware computes in."""

    @pytest.mark.parametrize(("name", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1), ("fp16", 0.02)])
    def test_each_gives_the_same_within_its_own(self, bundle: Bundle, name: str, tolerance: float) -> None:
        predictor = Predictor.load(bundle.path, detector="whole", device="cpu", dtype=name)
        assert isinstance(predictor.backend, TorchBackend)
        assert predictor.backend.dtype == torch_backend.DTYPES[name]
        pixels = batch(2, bundle.config.model)
        found = predictor.backend.logits(pixels)
        assert found.dtype == np.float32
        expected = TorchBackend(load_model(bundle.path), bundle.config.model).logits(pixels)
        np.testing.assert_allclose(Calibration().probs(found), Calibration().probs(expected), atol=tolerance)

    @pytest.mark.parametrize(("name", "full"), [("bf16", "bfloat16"), ("fp16", "float16")])
    def test_depthwise_convolutions_need_float32_on_a_cpu(self, name: str, full: str) -> None:
        with pytest.raises(ConfigError, match=rf"dtype {full}: .*depthwise convolutions. Allowed on a CPU: fp32"):
            Predictor.load("nano", dtype=name, device="cpu")
        assert isinstance(Predictor.load("nano", dtype="fp32", device="cpu").backend, TorchBackend)

    @pytest.mark.parametrize("name", ["float32", "FP32", "int8", ""])
    def test_unknown_names(self, bundle: Bundle, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"unknown dtype '{name}'. Allowed: auto, fp32, bf16, fp16"):
            Predictor.load(bundle.path, dtype=name)

    @pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16", None])
    def test_auto_takes_what_the_hardware_has(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, flag: str | None
    ) -> None:
        has = {"avx512_f": True, "avx512_bf16": False} | ({flag: True} if flag else {})
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
        expected = torch.bfloat16 if flag else torch.float32
        assert choose_dtype("auto", CPU, bundle.config.model) == expected
        assert choose_dtype("auto", CPU, PRESETS["nano"]) == torch.float32
        assert choose_dtype("fp32", CPU, bundle.config.model) == torch.float32

    def test_a_torch_that_does_not_say_what_the_hardware_has(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert choose_dtype("auto", CPU, bundle.config.model) == torch.float32

    def test_a_device_that_nothing_is_known_of_gets_float32(self, bundle: Bundle) -> None:
        assert choose_dtype("auto", torch.device("mps"), bundle.config.model) == torch.float32


class TestDevices:
    """By name."""

    def test_auto(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
            monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
            assert choose_device("auto").type == expected

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "nowhere"])
    def test_unknown_names(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"unknown device '{name}'. Allowed: auto, cpu, cuda, mps, cuda:N"):
            choose_device(name)

    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1", "meta", "xla"])
    def test_what_is_not_here(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=rf"device '{name}' is not on this machine. Allowed: auto, cpu$"):
            choose_device(name)

    def test_one_of_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert choose_device("cuda:1") == torch.device("cuda", 1)
        with pytest.raises(ConfigError, match=r"device 'cuda:2' is not on this machine. Allowed: auto, cpu, cuda"):
            choose_device("cuda:2")


class TestThreads:
    """One predictor, several threads."""

    def test_logits(self, backend: TorchBackend, bundle: Bundle) -> None:
        batches = [batch(1 + seed % 4, bundle.config.model, seed) for seed in range(12)]
        expected = [backend.logits(pixels) for pixels in batches]
        with ThreadPoolExecutor(4) as pool:
            for found, wanted in zip(pool.map(backend.logits, batches), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_gradients_are_never_kept_and_the_callers_mode_stays(self, backend: TorchBackend, bundle: Bundle) -> None:
        backend.logits(batch(1, bundle.config.model))
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()

    def test_a_predictor(self, bundle: Bundle) -> None:
        predictor = Predictor.load(bundle.path, detector="whole", dtype="fp32")
        images = [np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8) for seed in range(6)]
        expected = predictor.predict(images)
        found: dict[int, list] = {}
        threads = [
            threading.Thread(target=lambda key=key: found.update({key: predictor.predict(images)})) for key in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for rows in found.values():
            for row, wanted in zip(rows, expected, strict=True):
                assert row.preprocessing == wanted.preprocessing
                probs = list(row.faces[0].probs.values())
                assert probs == pytest.approx(list(wanted.faces[0].probs.values()), abs=1e-5)
        assert len(found) == 4


def test_compiled_it_gives_the_same(bundle: Bundle, backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the compiler, but run without it, which alone would take most of a minute."""
    own_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, *, options: own_compile(model, backend="eager"))
    compiled = Predictor.load(bundle.path, detector="whole", compile=True, dtype="fp32").backend
    assert isinstance(compiled, TorchBackend)
    assert type(compiled._run).__name__ == "OptimizedModule"
    for size in (2, 3):
        pixels = batch(size, bundle.config.model)
        np.testing.assert_allclose(compiled.logits(pixels), backend.logits(pixels), atol=1e-5)
