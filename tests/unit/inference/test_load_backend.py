"""Which model a name means, what runs it, and which settings it takes."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motivnet import Predictor
from motivnet.checkpoints.bundle import ASSETS, Bundle, open_bundle
from motivnet.errors import CheckpointError, ConfigError, MissingExtraError
from motivnet.inference.backends import OnnxBackend, load_backend
from motivnet.inference.predictor_config import BACKENDS, PredictorConfig
from motivnet.preprocess import PREPROCESSINGS

HEADS = {"num_heads": 3}
FACE = np.arange(70 * 60 * 3, dtype=np.int64).reshape(70, 60, 3).astype(np.uint8)


@pytest.fixture
def torch_backend() -> type:
    pytest.importorskip("timm", reason="the extra `torch` is not installed")
    from motivnet.inference.torch_backend import TorchBackend

    return TorchBackend


@pytest.fixture
def without_onnx(tmp_path: Path) -> Path:
    """The embedded model, but for its ONNX file."""
    folder = tmp_path / "nano without onnx"
    shutil.copytree(ASSETS / "nano", folder)
    (folder / "model.onnx").unlink()
    return folder


class TestChoice:
    """`auto` takes ONNX where it is there and enough."""

    def test_the_embedded_model(self, torch_backend: type) -> None:
        for options in (
            PredictorConfig(),
            PredictorConfig(backend="onnx"),
            PredictorConfig(device="cpu"),
            PredictorConfig(threads=1),
        ):
            config, backend = load_backend("nano", options)
            assert isinstance(backend, OnnxBackend)
            assert config == open_bundle("nano").config
        for options in (
            PredictorConfig(backend="torch"),
            PredictorConfig(dtype="fp32"),
            PredictorConfig(image_size=(96, 96)),
        ):
            config, backend = load_backend("nano", options)
            assert isinstance(backend, torch_backend)
            assert config == open_bundle("nano").config

    def test_a_bundle_without_onnx(self, torch_backend: type, without_onnx: Path) -> None:
        assert isinstance(load_backend(without_onnx, PredictorConfig())[1], torch_backend)
        with pytest.raises(CheckpointError, match=r"model\.onnx: no such file; the bundle has no ONNX model"):
            load_backend(without_onnx, PredictorConfig(backend="onnx"))

    def test_a_bundle_without_weights(self, torch_backend: type, tiny_bundle: Bundle) -> None:
        assert isinstance(load_backend(tiny_bundle.path, PredictorConfig())[1], OnnxBackend)
        for options in (PredictorConfig(backend="torch"), PredictorConfig(dtype="fp32")):
            with pytest.raises(CheckpointError, match=r"model\.safetensors: .*no such file"):
                load_backend(tiny_bundle.path, options)

    def test_a_bundle_with_neither(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        shutil.copy(tiny_bundle.path / "config.json", tmp_path)
        with pytest.raises(CheckpointError, match="the bundle has no ONNX model"):
            load_backend(tmp_path, PredictorConfig())

    @pytest.mark.parametrize("name", ["MotivNet.pth", "w.safetensors"])
    def test_a_released_file(self, torch_backend: type, released: Callable, name: str) -> None:
        written = released("motivnet", name=name)
        config, backend = load_backend(written.path, PredictorConfig(num_heads=3))
        assert isinstance(backend, torch_backend)
        assert config.model == written.config
        with pytest.raises(ConfigError, match=rf"{name}: backend 'onnx' needs a bundle"):
            load_backend(written.path, PredictorConfig(backend="onnx", num_heads=3))

    def test_without_torch_it_says_what_to_install(
        self, released: Callable, without_onnx: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = released("motivnet", metadata=HEADS).path
        for name in [name for name in sys.modules if name.startswith("motivnet.checkpoints.load")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "torch", None)
        for model, options in (
            (path, PredictorConfig()),
            (without_onnx, PredictorConfig()),
            ("nano", PredictorConfig(backend="torch")),
        ):
            with pytest.raises(MissingExtraError, match=r"needs torch.*pip install 'motivnet\[torch\]'"):
                load_backend(model, options)
        assert isinstance(load_backend("nano", PredictorConfig())[1], OnnxBackend)


class TestSettings:
    """By name; what a model or machine does not have is refused."""

    @pytest.mark.parametrize("name", ["tensorrt", "", "ONNX"])
    def test_unknown_backends(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"unknown backend '{name}'. Allowed: {', '.join(BACKENDS)}"):
            Predictor.load("nano", backend=name)

    @pytest.mark.parametrize(
        "asked", [{"device": "mps"}, {"dtype": "fp32"}, {"compile": True}, {"image_size": (96, 96)}]
    )
    def test_onnx_takes_none_of_torchs(self, asked: dict) -> None:
        with pytest.raises(ConfigError, match="backend 'onnx' runs at the size and precision of its file"):
            Predictor.load("nano", backend="onnx", **asked)

    @pytest.mark.parametrize("threads", [0, -1])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_threads(self, backend: str, threads: int) -> None:
        with pytest.raises(ConfigError, match=rf"threads {threads}: must be at least 1"):
            Predictor.load("nano", backend=backend, threads=threads)

    def test_threads_of_torch(self, torch_backend: type) -> None:
        import torch

        before = torch.get_num_threads()
        try:
            load_backend("nano", PredictorConfig(backend="torch", threads=1))
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("asked", [{"geometry": "motivnet-pad"}, {"num_heads": 3}])
    def test_a_bundle_states_its_own(self, asked: dict) -> None:
        (name,) = asked
        with pytest.raises(ConfigError, match=rf"{name} belongs to released files; bundle 'nano' defines its own"):
            Predictor.load("nano", **asked)

    def test_a_device_that_is_not_here(self, torch_backend: type, released: Callable) -> None:
        path = released("motivnet", metadata=HEADS).path
        for model in ("nano", path):
            with pytest.raises(ConfigError, match="unknown device 'gpu'"):
                Predictor.load(model, device="gpu")


class TestSize:
    """A released file or bundle at another input size."""

    def test_it_changes_the_fingerprint(self, torch_backend: type, released: Callable) -> None:
        path = released("motivnet", metadata=HEADS).path
        results = {}
        for size in (None, (64, 48), (96, 96), (128, 96)):
            predictor = Predictor.load(path, detector="whole", image_size=size, dtype="fp32")
            assert predictor.config.preprocessing.size == (size or (64, 48)) == predictor.config.model.image_size
            (result,) = predictor.predict(FACE)
            assert result.status == "ok"
            results[size] = result
        fingerprints = {size: result.preprocessing for size, result in results.items()}
        assert fingerprints[None] == fingerprints[64, 48]
        assert len(set(fingerprints.values())) == 3
        assert results[None].faces == results[64, 48].faces
        assert results[None].faces[0].probs != results[96, 96].faces[0].probs

    def test_a_bundle_at_another_size(self, torch_backend: type) -> None:
        small, usual = (Predictor.load("nano", detector="whole", image_size=(side, side)) for side in (64, 96))
        assert small.config.preprocessing.size == (64, 64)
        (result,) = small.predict(FACE)
        assert result.preprocessing != usual.config.preprocessing.fingerprint
        assert usual.config.preprocessing == open_bundle("nano").config.preprocessing

    @pytest.mark.parametrize("size", [(50, 48), (0, 48)])
    def test_a_size_that_patches_do_not_fill(
        self, torch_backend: type, released: Callable, size: tuple[int, int]
    ) -> None:
        path = released("motivnet", metadata=HEADS).path
        with pytest.raises((CheckpointError, ConfigError), match=r"size \(.*(divisible by patch_size 16|at least 1x1)"):
            Predictor.load(path, image_size=size)

    def test_not_divisible_is_an_error_of_the_checkpoint(self, torch_backend: type, released: Callable) -> None:
        with pytest.raises(CheckpointError, match=r"weights.safetensors: image_size \(500, 384\)"):
            Predictor.load(released("motivnet", metadata=HEADS).path, image_size=(500, 384))

    def test_a_square_models_bundle_stays_square(self, torch_backend: type) -> None:
        with pytest.raises(ConfigError, match="must be square"):
            Predictor.load("nano", image_size=(64, 96))

    def test_a_grid_of_other_proportions(self, torch_backend: type, released: Callable) -> None:
        path = released("motivnet", metadata=HEADS, image_size=(128, 16)).path
        with pytest.raises(CheckpointError, match="fit neither"):
            Predictor.load(path)
        assert Predictor.load(path, image_size=(128, 16)).config.model.image_size == (128, 16)


class TestGeometry:
    """Both of the reference, by name."""

    def test_pad_is_the_default_and_stretch_has_a_name(self, torch_backend: type, released: Callable) -> None:
        path = released("motivnet", metadata=HEADS).path
        default, pad, stretch = (
            Predictor.load(path, detector="whole", geometry=name, dtype="fp32")
            for name in (None, "motivnet-pad", "motivnet-stretch")
        )
        assert default.config == pad.config
        for predictor, name in ((pad, "motivnet-pad"), (stretch, "motivnet-stretch")):
            assert predictor.config.preprocessing == dataclasses.replace(PREPROCESSINGS[name], size=(64, 48))
        rows = [predictor.predict(FACE)[0] for predictor in (default, pad, stretch)]
        assert rows[0] == rows[1]
        assert rows[1].preprocessing != rows[2].preprocessing
        assert rows[1].faces[0].probs != rows[2].faces[0].probs

    @pytest.mark.parametrize("name", ["pad", "stretch", "square", "nano"])
    def test_unknown_names(self, torch_backend: type, released: Callable, name: str) -> None:
        with pytest.raises(CheckpointError, match=rf"unknown geometry '{name}'.*motivnet-pad, motivnet-stretch"):
            Predictor.load(released("motivnet", metadata=HEADS).path, geometry=name)


class TestFiles:
    """What is no whole model of seven emotions is refused."""

    @pytest.mark.parametrize(
        ("kind", "changes", "said"),
        [
            ("sapiens-task", {}, "a backbone in format sapiens-task, expected a whole model"),
            ("sapiens2", {}, "a backbone in format sapiens2, expected a whole model"),
            ("ml-decoder", {}, "a head in format ml-decoder, expected a whole model"),
            ("motivnet", {"num_classes": 6}, "found a head of 6 classes, expected 7: neutral, happiness, sadness"),
            ("motivnet", {"in_chans": 1}, "input channels of preprocessing and model: found 3, expected 1"),
        ],
    )
    def test_other_contents(self, torch_backend: type, released: Callable, kind: str, changes: dict, said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            Predictor.load(released(kind, metadata=HEADS, **changes).path)

    def test_a_bundles_weights_alone(self, torch_backend: type) -> None:
        with pytest.raises(CheckpointError, match=r"the weights of a bundle.*Allowed: the bundle's folder"):
            Predictor.load(ASSETS / "nano" / "model.safetensors")

    def test_no_such_thing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="unknown model 'nanoo'; did you mean 'nano'"):
            Predictor.load("nanoo")
        with pytest.raises(CheckpointError, match="unknown model"):
            Predictor.load(tmp_path / "MotivNet.pth")
        with pytest.raises(CheckpointError, match="no bundle"):
            Predictor.load(tmp_path)

    def test_too_large_for_the_memory(
        self, torch_backend: type, released: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from motivnet.checkpoints import load

        monkeypatch.setattr(load, "free_bytes", lambda device: 1000)
        with pytest.raises(CheckpointError, match=r"are free on cpu. Allowed: bfloat16, a smaller model"):
            Predictor.load(released("motivnet", metadata=HEADS).path)


class TestHub:
    """Names that are fetched."""

    @pytest.mark.parametrize("name", ["hf:owner/repo", "hf:owner/repo/MotivNet.pth", "sapiens-pose-1b"])
    @pytest.mark.parametrize("kind", ["file", "bundle"])
    def test_what_was_fetched_is_loaded(
        self, torch_backend: type, released: Callable, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
    ) -> None:
        from motivnet.checkpoints import bundle

        written = released("motivnet", metadata=HEADS)
        asked = []

        def locate(wanted: str) -> Path:
            asked.append(wanted)
            return written.path if kind == "file" else ASSETS / "nano"

        monkeypatch.setattr(bundle, "locate", locate)
        config, backend = load_backend(name, PredictorConfig())
        assert asked == [name]
        if kind == "file":
            assert isinstance(backend, torch_backend)
            assert config.model == written.config
        else:
            assert isinstance(backend, OnnxBackend)
            assert config == open_bundle("nano").config

    def test_a_file_here_wins_over_a_name(
        self, torch_backend: type, released: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from motivnet.checkpoints import bundle

        released("motivnet", name="sapiens-pose-1b", metadata=HEADS)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(bundle, "locate", lambda name: pytest.fail("it is here"))
        assert load_backend("sapiens-pose-1b", PredictorConfig(num_heads=3))[0].name == "sapiens-pose-1b"

    def test_offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_backend: type) -> None:
        pytest.importorskip("huggingface_hub")
        from huggingface_hub import constants

        monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(CheckpointError, match=r"not in the cache .*motivnet weights fetch hf:owner/repo/w.pth"):
            Predictor.load("hf:owner/repo/w.pth")
