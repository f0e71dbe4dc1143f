"""A released file becomes a bundle that answers the same, complete or not at all."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from motivnet import Predictor, load_model
from motivnet.checkpoints import load as converting
from motivnet.checkpoints.bundle import open_bundle
from motivnet.checkpoints.files import check_integrity, open_weights
from motivnet.checkpoints.formats import identify, released_config
from motivnet.checkpoints.load import convert
from motivnet.errors import CheckpointError, OutputError
from motivnet.labels import EMOTIONS
from motivnet.preprocess import PREPROCESSINGS

HEADS = {"num_heads": 3}


@pytest.fixture
def face() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 60, 3), np.uint8)


class TestConvert:
    """`convert`."""

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_the_bundle_holds_the_same_weights(self, released: Callable, tmp_path: Path, name: str) -> None:
        written = released("motivnet", name=name)
        bundle = convert(written.path, tmp_path / "small", num_heads=3)
        assert bundle.path == tmp_path / "small"
        assert sorted(file.name for file in bundle.path.iterdir()) == ["config.json", "model.safetensors"]
        found, expected = load_file(bundle.weights), written.net.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        config = open_bundle(bundle.path).config
        assert config == bundle.config
        assert (config.name, config.labels, config.scores) == ("small", EMOTIONS, {})
        assert config.model == written.config
        assert config.provenance == {"converted_from": name, "format": "motivnet"}
        assert "CC BY-NC 4.0" in config.licence

    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
    )
    def test_it_predicts_as_the_file_does(
        self, released: Callable, tmp_path: Path, face: np.ndarray, dtype: torch.dtype, tolerance: float
    ) -> None:
        written = released("motivnet", metadata=HEADS)
        bundle = convert(written.path, tmp_path / "b", dtype=dtype)
        assert {tensor.dtype for tensor in load_file(bundle.weights).values()} == {dtype}
        assert bundle.weights.stat().st_size < 1.5 * written.path.stat().st_size * dtype.itemsize / 4
        rows = []
        for place in (written.path, bundle.path):
            predictor = Predictor.load(place, detector="whole", dtype="fp32")
            (result,) = predictor.predict(face)
            rows.append((result.preprocessing, result.faces[0].probs))
        assert rows[0][0] == rows[1][0]
        assert list(rows[0][1].values()) == pytest.approx(list(rows[1][1].values()), abs=tolerance)

    def test_another_size(self, released: Callable, tmp_path: Path) -> None:
        written = released("motivnet", metadata=HEADS)
        bundle = convert(written.path, tmp_path / "b", image_size=(96, 96))
        assert bundle.config.model.image_size == bundle.config.preprocessing.size == (96, 96)
        expected = load_model(written.path, image_size=(96, 96)).state_dict()
        found = load_model(bundle.path).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)

    @pytest.mark.parametrize("geometry", ["motivnet-pad", "motivnet-stretch"])
    def test_both_geometries(self, released: Callable, tmp_path: Path, geometry: str) -> None:
        bundle = convert(released("motivnet", metadata=HEADS).path, tmp_path / "b", geometry=geometry)
        found, known = bundle.config.preprocessing, PREPROCESSINGS[geometry]
        assert (found.geometry, found.mean, found.std, found.size) == (known.geometry, known.mean, known.std, (64, 48))

    def test_what_the_user_says_counts(self, released: Callable, tmp_path: Path) -> None:
        bundle = convert(released("motivnet", metadata=HEADS).path, tmp_path / "b", name="mine", licence="my own")
        said = json.loads((tmp_path / "b" / "config.json").read_text())
        assert (said["name"], said["licence"]) == ("mine", "my own")
        assert bundle.config.name == "mine"

    def test_a_grid_of_other_proportions(self, released: Callable, tmp_path: Path) -> None:
        path = released("motivnet", metadata=HEADS, image_size=(128, 16)).path
        with pytest.raises(CheckpointError, match="fit neither"):
            convert(path, tmp_path / "b")
        assert convert(path, tmp_path / "b", image_size=(128, 16)).config.model.image_size == (128, 16)

    def test_a_folder_here(self, released: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = released("motivnet", metadata=HEADS).path
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert convert(path, Path("../there/b")).config.name == "b"
        assert (tmp_path / "there" / "b" / "config.json").is_file()


class TestRefused:
    """Nothing is written then."""

    @pytest.mark.parametrize(
        ("kind", "changes", "said"),
        [
            ("sapiens-task", {}, "a backbone in format sapiens-task, expected a whole model"),
            ("sapiens2", {}, "a backbone in format sapiens2, expected a whole model"),
            ("ml-decoder", {}, "a head in format ml-decoder, expected a whole model"),
            ("motivnet", {"num_classes": 6}, "found a head of 6 classes, expected 7: neutral, happiness"),
            ("motivnet", {"num_classes": 8}, "found a head of 8 classes, expected 7"),
            ("motivnet", {"in_chans": 1}, "input channels of preprocessing and model: found 3, expected 1"),
            ("motivnet", {"edit": lambda tensors: tensors.pop("pose_encoder.ln1.bias")}, "missing backbone.net.norm.b"),
        ],
    )
    def test_other_files(self, released: Callable, tmp_path: Path, kind: str, changes: dict, said: str) -> None:
        path = released(kind, metadata=HEADS, **changes).path
        with pytest.raises(CheckpointError, match=said):
            convert(path, tmp_path / "out" / "b")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"num_heads": None}, "number of attention heads"),
            ({"num_heads": 5}, "not divisible by num_heads 5"),
            ({"image_size": (60, 48)}, r"image_size \(60, 48\).*divisible by patch_size 16"),
            ({"geometry": "pad"}, "unknown geometry 'pad'.*motivnet-pad, motivnet-stretch"),
            ({"geometry": "square"}, "unknown geometry 'square'"),
        ],
    )
    def test_other_settings(self, released: Callable, tmp_path: Path, arguments: dict, said: str) -> None:
        path = released("motivnet").path
        with pytest.raises(CheckpointError, match=said):
            convert(path, tmp_path / "b", **{"num_heads": 3, **arguments})
        assert sorted(place.name for place in tmp_path.iterdir()) == [path.name]

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="unknown model"):
            convert(tmp_path / "none.pth", tmp_path / "b")


class TestOut:
    """The folder: complete or not at all, and never somebody else's."""

    def test_what_exists_stays_unless_told(self, released: Callable, tmp_path: Path) -> None:
        path = released("motivnet", metadata=HEADS).path
        first = convert(path, tmp_path / "b", name="first")
        with pytest.raises(OutputError, match=r"exists already. Allowed: another folder, or overwrite"):
            convert(path, tmp_path / "b", name="second")
        assert open_bundle(first.path).config.name == "first"
        (first.path / "model.onnx").write_bytes(b"of the first")
        convert(path, tmp_path / "b", name="second", overwrite=True)
        assert open_bundle(first.path).config.name == "second"
        assert not (first.path / "model.onnx").exists(), "an ONNX model of other weights must not stay"

    @pytest.mark.parametrize(
        ("there", "said"),
        [
            (["photograph.jpg"], "no bundle, so it is not replaced"),
            ([], "no bundle, so it is not replaced"),
            (["config.json", "model.safetensors", "diary.txt"], r"holds more than a bundle, 'diary.txt'; not replaced"),
        ],
    )
    def test_only_a_bundle_is_ever_replaced(
        self, released: Callable, tmp_path: Path, there: list[str], said: str
    ) -> None:
        path, out = released("motivnet", metadata=HEADS).path, tmp_path / "out"
        out.mkdir()
        for name in there:
            (out / name).write_text("precious")
        with pytest.raises(OutputError, match=said):
            convert(path, out, overwrite=True)
        assert sorted(file.name for file in out.iterdir()) == sorted(there)

    def test_a_file_in_its_place(self, released: Callable, tmp_path: Path) -> None:
        path = released("motivnet", metadata=HEADS).path
        for overwrite in (False, True):
            with pytest.raises(OutputError):
                convert(path, path, overwrite=overwrite)
        assert path.is_file()

    @pytest.mark.parametrize("out", [".", ".."])
    def test_where_one_stands(
        self, released: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
    ) -> None:
        path = released("motivnet", metadata=HEADS).path
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(OutputError, match="no bundle, so it is not replaced"):
            convert(path, Path(out), overwrite=True)
        assert path.is_file()

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("before", [True, False])
    def test_a_failure_leaves_things_as_they_were(
        self,
        released: Callable,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        before: bool,
    ) -> None:
        path, out = released("motivnet", metadata=HEADS).path, tmp_path / "b"
        if before:
            convert(path, out, name="first")

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(converting, "write_weights", fail)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            convert(path, out, name="second", overwrite=True)
        if isinstance(error, OSError):
            assert "cannot be written" in str(caught.value)
            assert "No space left" in str(caught.value)
        assert sorted(place.name for place in tmp_path.iterdir()) == sorted([path.name] + ["b"] * before)
        if before:
            assert open_bundle(out).config.name == "first"
            load_model(out)

    def test_a_full_disk(self, released: Callable, tmp_path: Path) -> None:
        """What safetensors raises is no OSError."""
        resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
        import signal

        path = released("motivnet", metadata=HEADS).path
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            with pytest.raises(OutputError, match="b: cannot be written: "):
                convert(path, tmp_path / "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert [place.name for place in tmp_path.iterdir()] == [path.name]

    def test_below_a_file(self, released: Callable, tmp_path: Path) -> None:
        path = released("motivnet", metadata=HEADS).path
        with pytest.raises(OutputError, match="cannot be written"):
            convert(path, path / "b")


def test_a_released_file_is_described_by_its_own_name(released: Callable) -> None:
    contents = identify(open_weights(released("motivnet", name="MotivNet.pth").path), num_heads=3)
    config = released_config(contents, "motivnet-stretch", (128, 96))
    assert config.name == "MotivNet"
    assert "24 wide" in config.summary
    assert config.preprocessing == dataclasses.replace(PREPROCESSINGS["motivnet-stretch"], size=(128, 96))
    assert released_config(contents, "motivnet-pad").preprocessing.size == contents.image_size


class TestIntegrity:
    """`check_integrity`."""

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
    def test_counts_values_that_are_not_finite(self, released: Callable, name: str, dtype: torch.dtype) -> None:
        def spoil(tensors: dict) -> None:
            tensors["pose_encoder.ln1.bias"][3] = torch.nan
            if dtype is not torch.float8_e4m3fn:  # which has no infinity
                tensors["decoder.decoder.query_embed.weight"][0, :2] = torch.tensor([torch.inf, -torch.inf])
            tensors["step"] = torch.tensor([1, 2], dtype=torch.int64)

        written = released("motivnet", name=name, dtype=dtype, edit=spoil)
        num_bad = 1 if dtype is torch.float8_e4m3fn else 3
        num_values = sum(tensor.numel() for tensor in written.tensors.values())
        with pytest.raises(CheckpointError, match=f"{num_bad} of {num_values} values are NaN or infinite"):
            check_integrity(written.path)

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_a_sound_file_stays_usable(self, released: Callable, tmp_path: Path, name: str) -> None:
        written = released("motivnet", name=name)
        shutil.copy(written.path, tmp_path / "copy")
        container = "safetensors" if name.endswith("safetensors") else "pickle"
        num_values = sum(tensor.numel() for tensor in written.tensors.values())
        assert check_integrity(written.path) == (
            f"{container}, {len(written.tensors)} tensor(s), {num_values} values, all finite"
        )
        assert written.path.read_bytes() == (tmp_path / "copy").read_bytes()
