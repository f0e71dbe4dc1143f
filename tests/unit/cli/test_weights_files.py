"""`motivnet weights inspect|convert|verify FILE` and `motivnet predict --model FILE`, on files in released formats."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from motivnet.checkpoints.bundle import ASSETS, open_bundle
from motivnet.cli.main import app, main
from motivnet.errors import CheckpointError, MotivNetError, OutputError
from motivnet.labels import EMOTIONS

HEADS = {"num_heads": 3}
PROMISED = {"format", "embed_dim", "depth", "num_heads", "image_size", "num_classes", "dtype", "dropped"}


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, nothing of the user's."""
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def face(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object, kind: type[MotivNetError] = CheckpointError) -> str:
    """Run a verb that must end in an error of ours, which `main` turns into one line and exit code 2."""
    result = run(*arguments)
    assert isinstance(result.exception, kind), (result.output, result.exception)
    assert result.stdout == ""
    return str(result.exception)


class TestInspect:
    """`motivnet weights inspect`."""

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("motivnet", {"num_heads": 3, "image_size": [64, 48], "num_classes": 7, "labels": list(EMOTIONS)}),
            ("sapiens-task", {"num_heads": 3, "image_size": [64, 48], "num_classes": None, "labels": None}),
            ("sapiens-pretrain", {"image_size": [64, 64], "dropped": ["backbone.cls_token"]}),
            ("sapiens2", {"num_heads": 3, "image_size": [1024, 768]}),
            ("ml-decoder", {"depth": None, "num_heads": None, "image_size": None, "num_classes": 7}),
        ],
    )
    def test_json_has_what_was_promised(self, released: Callable, kind: str, expected: dict) -> None:
        size = (64, 64) if kind == "sapiens-pretrain" else (64, 48)
        path = released(kind, metadata={"num_heads": 8} if kind == "ml-decoder" else HEADS, image_size=size).path
        (line,) = done("weights", "inspect", path, "--json").splitlines()
        found = json.loads(line)
        assert found.keys() >= PROMISED
        common = {"format": kind, "embed_dim": 24, "depth": 2, "dtype": "float32", "dropped": []} | expected
        assert {key: found[key] for key in common} == common
        assert found["size_bytes"] == path.stat().st_size

    def test_what_a_task_checkpoint_drops(self, released: Callable) -> None:
        extra = {"head.a.weight": torch.zeros(2), "head.b": torch.zeros(1)}
        path = released("sapiens-task", edit=lambda tensors: tensors.update(extra), dtype=torch.bfloat16).path
        found = json.loads(done("weights", "inspect", path, "--json"))
        assert sorted(found["dropped"]) == ["head.a.weight", "head.b"]
        assert found["num_heads"] is None
        assert json.loads(done("weights", "inspect", path, "--json", "--num-heads", "6"))["num_heads"] == 6

    def test_for_people(self, released: Callable) -> None:
        lines = dict(line.split(None, 1) for line in done("weights", "inspect", released("motivnet").path).splitlines())
        assert lines.keys() >= PROMISED
        assert lines["format"] == "motivnet"
        assert lines["num_heads"] == "unknown"
        assert lines["image_size"] == "64, 48"
        assert lines["dropped"] == "nothing"
        assert lines["labels"].startswith("neutral, happiness, sadness")

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "notes.pth").write_text("Nothing to see here")
        torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
        assert "notes.pth: " in refused("weights", "inspect", tmp_path / "notes.pth")
        assert "no known format, such as fc.weight" in refused("weights", "inspect", tmp_path / "other.pth", "--json")
        assert "unknown model" in refused("weights", "inspect", tmp_path / "none.pth")
        assert "the weights of a bundle" in refused("weights", "inspect", ASSETS / "nano" / "model.safetensors")

    def test_a_name_that_was_not_fetched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        assert "forbids the network" in refused("weights", "inspect", "sapiens-pose-1b")

    def test_heads_must_be_some(self, released: Callable) -> None:
        assert run("weights", "inspect", released("motivnet").path, "--num-heads", "0").exit_code == 2


class TestConvert:
    """`motivnet weights convert`."""

    def test_the_path_is_all_that_stdout_says(self, released: Callable, tmp_path: Path) -> None:
        path, out = released("motivnet", name="MotivNet.pth").path, tmp_path / "small"
        assert done("weights", "convert", path, out, "--num-heads", 3) == f"{out}\n"
        config = open_bundle(out).config
        assert (config.name, config.model.image_size, config.preprocessing.geometry) == ("small", (64, 48), "pad")

    def test_settings(self, released: Callable, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        path, out = released("motivnet", metadata=HEADS).path, tmp_path / "b"
        settings = ("--size", "96x80", "--geometry", "motivnet-stretch", "--name", "mine", "--licence", "my own")
        done("weights", "convert", path, out, "--dtype", "bf16", *settings)
        bundle = open_bundle(out)
        assert (bundle.config.name, bundle.config.licence) == ("mine", "my own")
        assert bundle.config.model.image_size == bundle.config.preprocessing.size == (96, 80)
        assert bundle.config.preprocessing.geometry == "stretch"
        assert {tensor.dtype for tensor in load_file(bundle.weights).values()} == {torch.bfloat16}

    def test_overwrite(self, released: Callable, tmp_path: Path) -> None:
        path, out = released("motivnet", metadata=HEADS).path, tmp_path / "b"
        done("weights", "convert", path, out)
        assert "exists already" in refused("weights", "convert", path, out, kind=OutputError)
        done("weights", "convert", path, out, "--overwrite", "--name", "second")
        assert open_bundle(out).config.name == "second"
        assert "no bundle" in refused("weights", "convert", path, tmp_path, "--overwrite", kind=OutputError)
        assert path.is_file()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--size", "100x100"), "image_size (100, 100): height and width must be divisible by patch_size 16"),
            (("--num-heads", "7"), "not divisible by num_heads 7"),
        ],
    )
    def test_settings_that_do_not_fit(
        self, released: Callable, tmp_path: Path, arguments: tuple[str, ...], said: str
    ) -> None:
        assert said in refused(
            "weights", "convert", released("motivnet", metadata=HEADS).path, tmp_path / "b", *arguments
        )
        assert not (tmp_path / "b").exists()

    @pytest.mark.parametrize("arguments", [("--dtype", "int8"), ("--geometry", "square"), ("--num-heads", "0")])
    def test_settings_that_do_not_exist(self, released: Callable, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        result = run("weights", "convert", released("motivnet").path, tmp_path / "b", *arguments)
        assert result.exit_code == 2
        assert not (tmp_path / "b").exists()

    def test_files_that_are_no_model(self, released: Callable, tmp_path: Path) -> None:
        for kind, changes, said in (
            ("sapiens-task", {}, "expected a whole model"),
            ("ml-decoder", {}, "expected a whole model"),
            ("motivnet", {"num_classes": 6}, "found a head of 6 classes, expected 7"),
        ):
            path = released(kind, metadata=HEADS, **changes).path
            assert said in refused("weights", "convert", path, tmp_path / "b")
        assert not (tmp_path / "b").exists()


class TestVerify:
    """`motivnet weights verify`, of files in released formats and of what `convert` wrote."""

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_sound(self, released: Callable, name: str) -> None:
        written = released("motivnet", name=name)
        said = done("weights", "verify", written.path)
        number = sum(tensor.numel() for tensor in written.tensors.values())
        assert f"{len(written.tensors)} tensor(s), {number} values, all finite" in said

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_one_value_that_is_no_number(self, released: Callable, value: float, dtype: torch.dtype) -> None:
        def spoil(tensors: dict) -> None:
            tensors["pose_encoder.layers.1.ffn.layers.1.weight"][3, 5] = value

        written = released("motivnet", edit=spoil, dtype=dtype)
        number = sum(tensor.numel() for tensor in written.tensors.values())
        assert f"damaged: 1 of {number} values are NaN or infinite" in refused("weights", "verify", written.path)

    def test_a_converted_bundle(self, released: Callable, tmp_path: Path) -> None:
        out = tmp_path / "b"
        done("weights", "convert", released("motivnet", metadata=HEADS).path, out)
        assert "model.safetensors: safetensors, " in done("weights", "verify", out)
        content = bytearray((out / "model.safetensors").read_bytes())
        content[-8:-4] = b"\xff\xff\xff\x7f"
        (out / "model.safetensors").write_bytes(content)
        assert "damaged: 1 of" in refused("weights", "verify", out)
        (out / "model.safetensors").write_bytes(content[:-100])
        assert "model.safetensors: " in refused("weights", "verify", out)


class TestPredict:
    """`motivnet predict --model FILE`."""

    def test_a_released_file_and_its_bundle_say_the_same(self, released: Callable, tmp_path: Path, face: Path) -> None:
        path, out = released("motivnet", name="MotivNet.pth").path, tmp_path / "MotivNet"
        done("weights", "convert", path, out, "--num-heads", 3)
        common = ("predict", face, "--detector", "whole", "--json", "--dtype", "fp32", "--model")
        row = json.loads(done(*common, path, "--num-heads", 3))
        assert row == json.loads(done(*common, out))
        assert (row["status"], row["model"]) == ("ok", "MotivNet")
        assert list(row["faces"][0]["probs"]) == list(EMOTIONS)

    def test_size_and_geometry(self, released: Callable, face: Path) -> None:
        path = released("motivnet", metadata=HEADS).path
        rows = [
            json.loads(done("predict", face, "--detector", "whole", "--json", "--model", path, *arguments))
            for arguments in (
                (),
                ("--geometry", "motivnet-pad"),
                ("--geometry", "motivnet-stretch"),
                ("--size", "96x96"),
            )
        ]
        assert rows[0] == rows[1]
        assert len({row["preprocessing"] for row in rows}) == 3

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "number of attention heads of an encoder of width 24"),
            (("--num-heads", "3", "--size", "500x384"), "image_size (500, 384): height and width must be divisible"),
            (("--num-heads", "3", "--geometry", "square"), "unknown geometry 'square'"),
            (("--num-heads", "3", "--device", "gpu"), "unknown device 'gpu'"),
            (("--num-heads", "3", "--dtype", "int8"), "unknown dtype 'int8'"),
        ],
    )
    def test_settings_that_do_not_fit(
        self, released: Callable, face: Path, arguments: tuple[str, ...], said: str
    ) -> None:
        path = released("motivnet").path
        assert said in refused("predict", face, "--model", path, *arguments, kind=MotivNetError)

    def test_a_mistake_is_one_line_and_exit_code_2(
        self, released: Callable, face: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = released("motivnet", num_classes=6, metadata=HEADS).path
        monkeypatch.setattr("sys.argv", ["motivnet", "predict", str(face), "--model", str(path)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"motivnet: {path}: found a head of 6 classes, expected 7")

    def test_a_bundles_weights_alone(self, face: Path, tmp_path: Path) -> None:
        shutil.copy(ASSETS / "nano" / "model.safetensors", tmp_path / "w.safetensors")
        said = refused("predict", face, "--model", tmp_path / "w.safetensors")
        assert "the weights of a bundle" in said
