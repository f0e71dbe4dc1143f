"""The released formats, through the public API, against what their authors' code computed from them.

`goldens.json` holds the outputs of the reference implementations alone: weights and inputs follow from a formula in
exact integers, under the released tensor names. Where a file is only packed differently (another container, prefix or
precision), the loaded weights are compared bit by bit with those of the golden file, which stands for its outputs.
"""

import json
import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motivnet import load_backbone, load_head, load_model
from motivnet.checkpoints.formats import inspect_weights

GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text(encoding="utf-8"))
ATOL = 1e-4
HEADS = ("ml_decoder_7_q", "ml_decoder_7_3", "ml_decoder_80_q")
# Golden -> the file that it stands for.
FILES = {
    "motivnet": "MotivNet.pth",
    "sapiens_task": "sapiens_goliath_best_goliath_AP.pth",
    "sapiens_pretrain": "sapiens_clean.pth",
    "sapiens2": "sapiens2_pretrain.safetensors",
    **{name: f"{name}.pth" for name in HEADS},
}


def unit(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Make float64 numbers in [-1, 1): splitmix64 of a counter, offset by the seed."""
    mask = 2**64 - 1
    start = (seed * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2**52 - 1).reshape(shape)


def weight(name: str, shape: list[int]) -> Tensor:
    """Make a tensor of a golden checkpoint."""
    numbers = unit(tuple(shape), zlib.crc32(name.encode()))
    if len(shape) < 2:
        numbers = 0.2 * numbers + float(name.endswith("weight") or "gamma" in name)
    elif not any(part in name for part in ("pos_embed", "cls_token", "query_embed", "register", "storage")):
        numbers *= math.sqrt(3 / math.prod(shape[1:])) * (2 if "qkv" in name or "attn" in name else 1)
    return torch.from_numpy(numbers.astype(np.float32))


def weights(name: str, narrowed: Mapping[int, int] | None = None) -> dict[str, Tensor]:
    """Make the tensors of a golden checkpoint, under the names of the released file; `narrowed` replaces widths."""
    prefix = "backbone." if name in ("sapiens_task", "sapiens_pretrain") else ""
    tensors = {
        prefix + key: weight(key, [(narrowed or {}).get(side, side) for side in shape])
        for key, shape in GOLDENS[name]["tensors"].items()
    }
    if name == "sapiens_task":
        tensors["head.final_layer.weight"] = torch.ones(308, 4, 1, 1)
    return tensors


def image(height: int, width: int) -> Tensor:
    return torch.from_numpy(unit((1, 3, height, width), 1).astype(np.float32))


def tokens() -> Tensor:
    return torch.from_numpy(unit((2, 20, 40), 3).astype(np.float32))


def agree(found: Tensor, golden: str, output: str, atol: float = ATOL) -> None:
    """Compare an output with its digest."""
    digest = GOLDENS[golden]["expected"][output]
    assert list(found.shape) == digest["shape"]
    flat = found.detach().double().numpy().ravel()
    samples = flat[np.linspace(0, flat.size - 1, 16).astype(int)]
    assert samples == pytest.approx(digest["samples"], abs=atol)
    assert flat.mean() == pytest.approx(digest["mean"], abs=atol)
    assert flat.std() == pytest.approx(digest["std"], abs=atol)
    assert flat @ unit(flat.shape, 7) / math.sqrt(flat.size) == pytest.approx(digest["projection"], abs=atol)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a golden checkpoint as the file that it stands for, once."""
    folder = tmp_path_factory.mktemp("released")

    def write(name: str) -> Path:
        path = folder / FILES[name]
        if path.exists():
            return path
        tensors = weights(name)
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save({"state_dict": tensors} if name == "sapiens_task" else tensors, path)
        return path

    return write


def grid(tokens_BND: Tensor) -> Tensor:
    """Reshape tokens of a 64 x 48 grid to a map (B, D, 64, 48)."""
    return tokens_BND.transpose(1, 2).unflatten(2, (64, 48))


def same(found: nn.Module, expected: nn.Module) -> None:
    own, others = found.state_dict(), expected.state_dict()
    assert list(own) == list(others)
    assert all(torch.equal(own[name], others[name]) for name in own)


class TestGoldens:
    """Features and logits of the reference implementations."""

    @torch.inference_mode()
    def test_motivnet(self, released: Callable) -> None:
        model = load_model(released("motivnet"), num_heads=3)
        features = model.backbone(image(1024, 768))
        logits = model.head(features)
        agree(grid(features), "motivnet", "features")
        assert logits[0].tolist() == pytest.approx(GOLDENS["motivnet"]["expected"]["logits"], abs=ATOL)

    @torch.inference_mode()
    @pytest.mark.parametrize("size", [(1024, 768), (512, 384), (768, 768)])
    def test_sapiens_task(self, released: Callable, size: tuple[int, int]) -> None:
        backbone = load_backbone(released("sapiens_task"), size, num_heads=3)
        agree(backbone(image(*size)), "sapiens_task", "features_{}x{}".format(*size))

    @torch.inference_mode()
    def test_sapiens_pretrain_as_a_task_encoder(self, released: Callable) -> None:
        backbone = load_backbone(released("sapiens_pretrain"), (1024, 768), num_heads=3)
        agree(backbone(image(1024, 768)), "sapiens_pretrain", "features_1024x768")

    @torch.inference_mode()
    def test_sapiens_pretrain_as_it_is(self, released: Callable) -> None:
        backbone = load_backbone(released("sapiens_pretrain"), (1024, 1024), num_heads=3)
        agree(backbone(image(1024, 1024)), "sapiens_pretrain", "tokens_1024x1024_without_class")

    @torch.inference_mode()
    @pytest.mark.parametrize("size", [(1024, 768), (512, 384)])
    @pytest.mark.parametrize("rope", ["fp32", "bf16"])
    def test_sapiens2(self, released: Callable, size: tuple[int, int], rope: str) -> None:
        backbone = load_backbone(released("sapiens2"), size, rope_bfloat16=rope == "bf16")
        features = backbone(image(*size))
        agree(features, "sapiens2", "features_{}x{}_rope_{}".format(*size, rope))
        other = {"fp32": "bf16", "bf16": "fp32"}[rope]
        with pytest.raises(AssertionError):
            agree(features, "sapiens2", "features_{}x{}_rope_{}".format(*size, other))

    @torch.inference_mode()
    @pytest.mark.parametrize("name", HEADS)
    def test_ml_decoder(self, released: Callable, name: str) -> None:
        agree(load_head(released(name))(tokens()), name, "logits")

    @torch.inference_mode()
    def test_half_precision(self, released: Callable) -> None:
        size = (512, 384)
        exact, half = (
            load_model(released("motivnet"), image_size=size, num_heads=3, dtype=dtype)
            for dtype in (torch.float32, torch.bfloat16)
        )
        expected, found = exact.backbone(image(*size)), half.backbone(image(*size).bfloat16())
        assert (found.float() - expected).abs().mean() < 0.02 * expected.std()
        logits = half.head(found)
        assert logits.dtype == torch.bfloat16
        expected = exact.head(expected)
        assert torch.equal(exact(image(*size)), expected)
        torch.testing.assert_close(logits.float().softmax(1), expected.softmax(1), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("name", "form", "image_size", "classes"),
    [
        ("motivnet", "motivnet", (1024, 768), 7),
        ("sapiens_task", "sapiens-task", (1024, 768), None),
        ("sapiens_pretrain", "sapiens-pretrain", (1024, 1024), None),
        ("sapiens2", "sapiens2", (1024, 768), None),
        ("ml_decoder_7_q", "ml-decoder", None, 7),
        ("ml_decoder_80_q", "ml-decoder", None, 80),
    ],
)
def test_inspection(
    released: Callable, name: str, form: str, image_size: tuple[int, int] | None, classes: int | None
) -> None:
    arch = GOLDENS[name]["arch"]
    found = inspect_weights(released(name), num_heads=arch.get("num_heads"))
    assert (found["format"], found["image_size"], found["num_classes"]) == (form, image_size, classes)
    assert found["embed_dim"] == (arch.get("embed_dim") or arch["in_dim"])
    assert (found["depth"], found["num_heads"]) == (arch.get("depth"), arch.get("num_heads"))
    assert found["dtype"] == "float32"
    dropped = {"sapiens_task": ("head.final_layer.weight",), "sapiens_pretrain": ("backbone.cls_token",)}
    assert found["dropped"] == dropped.get(name, ())


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def nested(state: dict[str, Tensor]) -> nn.Module:
    """Make a module whose parameters have these names."""

    class Node(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    root = Node()
    for name, tensor in state.items():
        *path, last = name.split(".")
        node: nn.Module = root
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, Node())
            node = node.get_submodule(part)
        node.register_parameter(last, nn.Parameter(tensor))
    return root


def write_torchscript(state: dict[str, Tensor], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that TorchScript is deprecated
        torch.jit.save(torch.jit.script(nested(state)), str(path))


PACKED: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "old pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "wrapped pth": lambda state, path: torch.save({"meta": {"epoch": 573}, "state_dict": state}, path),
    "bare pth": lambda state, path: torch.save(bare(state), path),
    "safetensors": lambda state, path: save_file(state, path),
    "bare safetensors": lambda state, path: save_file(bare(state), path),
    "torchscript": write_torchscript,
    "bare torchscript": lambda state, path: write_torchscript(bare(state), path),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["motivnet", "sapiens_task", "sapiens_pretrain", "ml_decoder_7_3"])
def test_however_it_is_packed(tmp_path: Path, name: str, packed: str) -> None:
    state = weights(name, narrowed={1152: 64, 3456: 192, 2048: 96})
    plain, path = tmp_path / "plain.pth", tmp_path / "weights.bin"
    torch.save(state, plain)
    PACKED[packed](state, path)
    if name in HEADS:
        same(load_head(path), load_head(plain))
    elif name == "motivnet":
        same(load_model(path, num_heads=3), load_model(plain, num_heads=3))
    else:
        size = (1024, 1024) if name == "sapiens_pretrain" else (1024, 768)
        same(load_backbone(path, size, num_heads=3), load_backbone(plain, size, num_heads=3))


@pytest.mark.parametrize("packed", ["bare pth", "bare safetensors", "torchscript"])
def test_kept_in_bfloat16(released: Callable, tmp_path: Path, packed: str) -> None:
    path = tmp_path / "weights.bin"
    PACKED[packed]({name: tensor.bfloat16() for name, tensor in weights("sapiens_task").items()}, path)
    assert inspect_weights(path)["dtype"] == "bfloat16"
    exact, found = load_backbone(released("sapiens_task"), num_heads=3), load_backbone(path, num_heads=3)
    own = found.state_dict()
    assert all(torch.equal(own[name], tensor.bfloat16().float()) for name, tensor in exact.state_dict().items())
    if packed == "torchscript":
        with torch.inference_mode():
            expected = exact(image(1024, 768))
            error = found(image(1024, 768)) - expected
        assert error.abs().mean() < 0.02 * expected.std()


@pytest.mark.shared
class TestLargeFiles:
    """The same with files that hold whole outputs, beside the checkout: every value to 1e-4."""

    def golden(self, folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
        file = folder / "parity" / f"{name}.safetensors"
        return file, load_file(file.with_suffix(".expected.safetensors"))

    def sine(self, *shape: int) -> Tensor:
        return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64)).float().reshape(shape)

    def close(self, found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)

    @torch.inference_mode()
    def test_motivnet(self, shared_dir: Path) -> None:
        file, expected = self.golden(shared_dir, "motivnet_reference_narrow")
        model = load_model(file)
        features = model.backbone(self.sine(1, 3, 1024, 768))
        self.close(grid(features), expected["features_BDHW"])
        self.close(model.head(features), expected["logits_BC"])

    @torch.inference_mode()
    def test_task_encoder(self, shared_dir: Path) -> None:
        file, expected = self.golden(shared_dir, "sapiens_pose308_narrow")
        self.close(grid(load_backbone(file)(self.sine(1, 3, 1024, 768))), expected["features_BDHW"])

    @torch.inference_mode()
    def test_pretrained_encoder(self, shared_dir: Path) -> None:
        file, expected = self.golden(shared_dir, "sapiens_pretrain_narrow")
        task = load_backbone(file, image_size=(1024, 768))
        self.close(task.get_parameter("net.pos_embed"), expected["pos_embed_after_resize"])
        self.close(grid(task(self.sine(1, 3, 1024, 768))), expected["features_1024x768_padding2_BDHW"])
        backbone = load_backbone(file, image_size=(1024, 1024))
        found = cast(Any, backbone.net).forward_features(self.sine(1, 3, 1024, 1024))
        self.close(found[:, :64], expected["tokens_with_class_1024x1024_first64"])
        assert torch.equal(backbone(self.sine(1, 3, 1024, 1024)), found[:, 1:])

    @torch.inference_mode()
    @pytest.mark.parametrize("name", ["seven_queries", "three_groups"])
    def test_ml_decoder(self, shared_dir: Path, name: str) -> None:
        file, expected = self.golden(shared_dir, f"ml_decoder_upstream_{name}")
        self.close(load_head(file)(self.sine(2, 20, 40)), expected["logits_BC"])
