"""Exports of Sapiens and Sapiens2: every precision, weights in a file of their own, complete or not at all."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle, write_config
from motivnet.checkpoints.load import write_weights
from motivnet.cli.main import main
from motivnet.errors import CheckpointError, ExportError, OutputError
from motivnet.export import onnx as export
from motivnet.export.onnx import TOLERANCES, data_path, export_onnx, random_pixels, verify_onnx
from motivnet.inference.backends import OnnxBackend
from motivnet.models import backbone as backbones
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig, preset
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing

HEAD = HeadConfig(dim=32, num_heads=4, ff_dim=32, num_layers=2)
NARROW = {
    "sapiens": VitConfig(embed_dim=48, depth=3, num_heads=3),
    "sapiens2": VitConfig(embed_dim=48, depth=3, num_heads=3, patch_padding=0, num_kv_heads=1),
}
TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
}


def make_bundle(folder: Path, model: ModelConfig) -> Bundle:
    torch.manual_seed(0)
    preprocessing = Preprocessing(
        geometry="stretch",
        size=model.image_size,
        channels="rgb",
        filter="bilinear",
        mean=(123.5, 116.5, 103.5),
        std=(58.5, 57.0, 57.5),
    )
    config = BundleConfig(name="test", summary="", licence="none", model=model, preprocessing=preprocessing)
    bundle = write_config(folder, config)
    write_weights(bundle, build_model(model))
    return bundle


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bundle]]:
    """Bundles in miniature. Of three blocks, Sapiens2 shares keys and values in the middle one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "SAPIENS2_FULL_BLOCKS", 1)
        yield {
            name: make_bundle(
                tmp_path_factory.mktemp(name),
                ModelConfig(backbone=name, image_size=(128, 96), vit=vit, head=HEAD),
            )
            for name, vit in NARROW.items()
        }


@pytest.fixture(scope="module")
def exported(narrow: dict[str, Bundle]) -> Path:
    """Sapiens in float16, with its weights beside it."""
    return export_onnx(narrow["sapiens"], dtype=torch.float16, external_data=True)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("sapiens", torch.float32),
        ("sapiens", torch.bfloat16),
        ("sapiens2", torch.float32),
        pytest.param("sapiens2", torch.float16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_narrow_models_agree(narrow: dict[str, Bundle], tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    file = export_onnx(narrow[name], tmp_path / "model.onnx", dtype=dtype)
    assert verify_onnx(narrow[name], onnx=file, dtype=dtype) <= TOLERANCES[dtype]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    graph = onnx.load(file).graph
    # The caller sees float32 whatever the precision, and only matrices are rounded.
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TYPES[torch.float32]}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {key for key, tensor in weights.items() if tensor.data_type in set(TYPES.values()) - {1}}
    assert all(weights[key].data_type == TYPES[dtype] and len(weights[key].dims) >= 2 for key in rounded)
    if dtype == torch.float32:
        assert not rounded
        return
    sizes = {key: int(np.prod(tensor.dims)) for key, tensor in weights.items() if tensor.data_type != 7}
    assert sum(sizes[key] for key in rounded) > 0.9 * sum(sizes.values())
    with pytest.raises(ExportError, match="allowed is 1e-07"):  # it is half precision that was compared
        verify_onnx(narrow[name], onnx=file, tolerance=1e-7)


def test_weights_in_a_file_of_their_own_can_be_moved(narrow: dict[str, Bundle], exported: Path, tmp_path: Path) -> None:
    bundle = narrow["sapiens"]
    assert exported == bundle.onnx
    assert data_path(exported).name == "model.onnx.data"
    assert exported.stat().st_size < data_path(exported).stat().st_size
    pixels = random_pixels(bundle.config.model)[:2]
    here = OnnxBackend(bundle).logits(pixels)
    # The whole bundle moves, as when it is downloaded; nothing stays behind.
    moved = Path(shutil.copytree(bundle.path, tmp_path / "moved"))
    np.testing.assert_array_equal(OnnxBackend(open_bundle(moved)).logits(pixels), here)
    inline = export_onnx(bundle, tmp_path / "inline.onnx", dtype=torch.float16)
    np.testing.assert_array_equal(OnnxBackend(bundle, path=inline).logits(pixels), here)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_weights_are_refused(narrow: dict[str, Bundle], exported: Path, tmp_path: Path, damage: str) -> None:
    shutil.copy(exported, tmp_path)
    if damage == "truncated":
        content = data_path(exported).read_bytes()
        (tmp_path / "model.onnx.data").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be loaded"):
        OnnxBackend(narrow["sapiens"], path=tmp_path / "model.onnx")


def test_large_weights_stand_apart_without_being_asked(
    narrow: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_INLINE_BYTES", 100_000)
    file = export_onnx(narrow["sapiens"], tmp_path / "large.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    entries = [
        item
        for tensor in onnx.load(file, load_external_data=False).graph.initializer
        for item in tensor.external_data
        if item.key == "location"
    ]
    assert {entry.value for entry in entries} == {"large.onnx.data"}
    assert verify_onnx(narrow["sapiens"], onnx=file) <= 1e-4


def fake_write(monkeypatch: pytest.MonkeyPatch, content: bytes, *, data: bytes | None) -> None:
    """Let the export write these bytes for a model."""

    def write(bundle: Bundle, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(content)
        if data is not None:
            data_path(path).write_bytes(data)

    monkeypatch.setattr(export, "_write", write)
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_overwriting_leaves_nothing_of_the_old_model(
    narrow: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.onnx"
    fake_write(monkeypatch, b"graph 1", data=b"weights 1")
    export_onnx(narrow["sapiens"], file)
    assert contents(tmp_path) == {"m.onnx": b"graph 1", "m.onnx.data": b"weights 1"}
    fake_write(monkeypatch, b"graph 2", data=b"weights 2")
    export_onnx(narrow["sapiens"], file)
    assert contents(tmp_path) == {"m.onnx": b"graph 2", "m.onnx.data": b"weights 2"}
    fake_write(monkeypatch, b"all in one", data=None)
    export_onnx(narrow["sapiens"], file)
    assert contents(tmp_path) == {"m.onnx": b"all in one"}
    fake_write(monkeypatch, b"graph 3", data=b"weights 3")
    export_onnx(narrow["sapiens"], file)
    assert contents(tmp_path) == {"m.onnx": b"graph 3", "m.onnx.data": b"weights 3"}


@pytest.mark.parametrize(
    ("interruption", "expected"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), OutputError)],
    ids=["ctrl-c", "disk full"],
)
def test_an_interrupted_export_changes_nothing(
    narrow: dict[str, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: BaseException,
    expected: type[BaseException],
) -> None:
    before = {"m.onnx": b"old graph", "m.onnx.data": b"old weights"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    fake_write(monkeypatch, b"half a gra", data=b"half the wei")

    def stop(*_: object, **__: object) -> None:
        raise interruption

    monkeypatch.setattr(onnx.checker, "check_model", stop)
    with pytest.raises(expected):
        export_onnx(narrow["sapiens"], tmp_path / "m.onnx")
    assert contents(tmp_path) == before


def test_no_graph_is_ever_left_with_the_weights_of_another(
    narrow: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.onnx"
    fake_write(monkeypatch, b"graph 1", data=b"weights 1")
    export_onnx(narrow["sapiens"], file)
    fake_write(monkeypatch, b"graph 2", data=b"weights 2")
    replace = Path.replace

    def stop_at_the_graph(self: Path, target: Path) -> Path:
        if self.name == "m.onnx":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop_at_the_graph)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(narrow["sapiens"], file)
    assert "m.onnx" not in contents(tmp_path)


def test_what_cannot_be_exported(narrow: dict[str, Bundle], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch.float64. Allowed: torch.float32, torch.float16, torch.bfloat16"):
        export_onnx(narrow["sapiens"], tmp_path / "m.onnx", dtype=torch.float64)
    with pytest.raises(OutputError, match=r"absent/m\.onnx: cannot be written: No such file"):
        export_onnx(narrow["sapiens"], tmp_path / "absent" / "m.onnx")
    assert contents(tmp_path) == {}


def test_from_the_command_line(
    narrow: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "motivnet",
        "export",
        str(narrow["sapiens"].path),
        "--out",
        str(tmp_path / "m.onnx"),
        "--dtype",
        "bf16",
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--external-data"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "MB in 2 file(s); probabilities differ from torch by at most" in capsys.readouterr().out
    said = onnx.load(tmp_path / "m.onnx", load_external_data=False).metadata_props
    assert {item.key: item.value for item in said}["stored_in"] == "bfloat16"
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "exists. Allowed: another --out, or --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "num_images"), [((1024, 768), 2), ((512, 384), 2), ((224, 224), 10), ((96, 96), 16), ((16, 16), 16)]
)
def test_fewer_images_are_compared_the_larger_they_are(size: tuple[int, int], num_images: int) -> None:
    vit = VitConfig(embed_dim=48, depth=1, num_heads=3)
    config = ModelConfig(backbone="sapiens", image_size=size, in_chans=1, vit=vit)
    if any(side % 16 for side in size):
        pytest.fail("sizes here are divisible by 16")
    assert random_pixels(config).shape == (num_images, 1, *size)


EXPORT_AND_SAY_PEAK = """
import json, sys
from pathlib import Path

import onnx_ir, timm, torch

from motivnet.checkpoints.bundle import open_bundle
from motivnet.export.onnx import export_onnx

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

before = peak()
export_onnx(open_bundle(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps(peak() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_sapiens_03b_at_full_size(tmp_path: Path) -> None:
    """The real dimensions, 1024x768 pixels, random weights: agrees with torch, in at most four times its memory."""
    bundle = make_bundle(tmp_path, preset("motivnet-0.3b"))
    arguments = [sys.executable, "-c", EXPORT_AND_SAY_PEAK, str(bundle.path), str(bundle.onnx)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 4 * bundle.weights.stat().st_size
    assert data_path(bundle.onnx).stat().st_size > 1_300_000_000
    assert verify_onnx(bundle) <= 1e-4
