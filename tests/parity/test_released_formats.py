"""The released formats, through the public API, against what their authors' code computed from them.

Where a file is only packed otherwise (another container, prefix or precision), the loaded weights are compared bit by
bit with those of the golden file itself, which stands for its outputs.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motivnet import load_backbone, load_head, load_model
from motivnet.checkpoints.formats import inspect_weights

pytestmark = pytest.mark.shared

MOTIVNET, POSE, PRETRAIN = "motivnet_reference_narrow", "sapiens_pose308_narrow", "sapiens_pretrain_narrow"
HEADS = ("ml_decoder_upstream_seven_queries", "ml_decoder_upstream_three_groups")


@pytest.fixture
def parity(shared_dir: Path) -> Path:
    return shared_dir / "parity"


def sine(*shape: int) -> Tensor:
    """The input of all goldens."""
    return torch.sin(0.37 * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).float().reshape(shape)


def golden(folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    return folder / f"{name}.safetensors", load_file(folder / f"{name}.expected.safetensors")


def close(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found.float(), expected, atol=atol, rtol=0)


def grid(tokens_BND: Tensor) -> Tensor:
    """Tokens of a 64 x 48 grid as a map (B, D, 64, 48)."""
    return tokens_BND.transpose(1, 2).unflatten(2, (64, 48))


def same(found: nn.Module, expected: nn.Module) -> None:
    own, others = found.state_dict(), expected.state_dict()
    assert list(own) == list(others)
    assert all(torch.equal(own[name], others[name]) for name in own)


class TestGoldens:
    """Features, logits and positions to 1e-4."""

    def test_motivnet(self, parity: Path) -> None:
        file, expected = golden(parity, MOTIVNET)
        model = load_model(file)
        with torch.inference_mode():
            tokens = model.backbone(sine(1, 3, 1024, 768))
            close(grid(tokens), expected["features_BDHW"])
            close(model.head(tokens), expected["logits_BC"])

    def test_a_model_is_its_backbone_and_its_head(self, parity: Path) -> None:
        file, expected = golden(parity, MOTIVNET)
        with torch.inference_mode():
            close(load_model(file)(sine(1, 3, 1024, 768)), expected["logits_BC"])

    def test_task_encoder(self, parity: Path) -> None:
        file, expected = golden(parity, POSE)
        with torch.inference_mode():
            close(grid(load_backbone(file)(sine(1, 3, 1024, 768))), expected["features_BDHW"])
        dropped = inspect_weights(file).dropped
        assert dropped
        assert all(name.startswith("head.") for name in dropped)

    def test_pretrained_encoder_as_a_task_encoder(self, parity: Path) -> None:
        file, expected = golden(parity, PRETRAIN)
        backbone = load_backbone(file, image_size=(1024, 768))
        close(backbone.get_parameter("net.pos_embed"), expected["pos_embed_after_resize"])
        with torch.inference_mode():
            close(grid(backbone(sine(1, 3, 1024, 768))), expected["features_1024x768_padding2_BDHW"])

    def test_pretrained_encoder_as_it_is(self, parity: Path) -> None:
        file, expected = golden(parity, PRETRAIN)
        backbone = load_backbone(file, image_size=(1024, 1024))
        with torch.inference_mode():
            tokens = cast(Any, backbone.net).forward_features(sine(1, 3, 1024, 1024))
            close(tokens[:, :64], expected["tokens_with_class_1024x1024_first64"])
            assert torch.equal(backbone(sine(1, 3, 1024, 1024)), tokens[:, 1:])

    @pytest.mark.parametrize("name", HEADS)
    def test_ml_decoder(self, parity: Path, name: str) -> None:
        file, expected = golden(parity, name)
        with torch.inference_mode():
            close(load_head(file)(sine(2, 20, 40)), expected["logits_BC"])

    def test_half_precision(self, parity: Path) -> None:
        file, expected = golden(parity, MOTIVNET)
        model = load_model(file, dtype=torch.bfloat16)
        with torch.inference_mode():
            tokens = model.backbone(sine(1, 3, 1024, 768).bfloat16())
            logits = model.head(tokens)
        assert logits.dtype == torch.bfloat16
        spread = expected["features_BDHW"].std()
        assert (grid(tokens).float() - expected["features_BDHW"]).abs().mean() < 0.02 * spread
        close(logits.softmax(1), expected["logits_BC"].softmax(1), atol=0.02)


@pytest.mark.parametrize(
    ("name", "form", "image_size", "heads", "classes"),
    [
        (MOTIVNET, "motivnet", (1024, 768), 3, 7),
        (POSE, "sapiens-task", (1024, 768), 3, None),
        (PRETRAIN, "sapiens-pretrain", (1024, 1024), 3, None),
        (HEADS[0], "ml-decoder", None, None, 7),
        (HEADS[1], "ml-decoder", None, None, 7),
    ],
)
def test_inspection_says_what_the_files_say_of_themselves(
    parity: Path, name: str, form: str, image_size: tuple[int, int] | None, heads: int | None, classes: int | None
) -> None:
    file = parity / f"{name}.safetensors"
    found = inspect_weights(file)
    assert (found.format, found.image_size, found.num_heads, found.num_classes) == (form, image_size, heads, classes)
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    assert found.embed_dim == int(said.get("embed_dim") or said["initial_num_features"])
    assert found.depth is None or found.depth == int(said["depth"])
    assert found.dtype == "float32"


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def nested(state: dict[str, Tensor]) -> nn.Module:
    """A module whose parameters have these names."""

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
        warnings.simplefilter("ignore")  # of torch, that TorchScript is deprecated
        torch.jit.save(torch.jit.script(nested(state)), str(path))


PACKED: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "plain pth": lambda state, path: torch.save(state, path),
    "old pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "wrapped pth": lambda state, path: torch.save({"meta": {"epoch": 573}, "state_dict": state}, path),
    "bare pth": lambda state, path: torch.save(bare(state), path),
    "bare safetensors": lambda state, path: save_file(bare(state), path),
    "torchscript": write_torchscript,
    "bare torchscript": lambda state, path: write_torchscript(bare(state), path),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", [MOTIVNET, POSE, PRETRAIN, HEADS[1]])
def test_however_it_is_packed(parity: Path, tmp_path: Path, name: str, packed: str) -> None:
    file = parity / f"{name}.safetensors"
    path = tmp_path / "weights.bin"
    PACKED[packed](load_file(file), path)
    if name in HEADS:
        same(load_head(path), load_head(file))
    elif name == MOTIVNET:
        same(load_model(path, num_heads=3), load_model(file))
    else:
        size = (1024, 1024) if name == PRETRAIN else (1024, 768)
        same(load_backbone(path, size, num_heads=3), load_backbone(file, size))


@pytest.mark.parametrize("packed", ["bare pth", "bare safetensors", "torchscript"])
def test_kept_in_bfloat16(parity: Path, tmp_path: Path, packed: str) -> None:
    file, expected = golden(parity, POSE)
    path = tmp_path / "weights.bin"
    PACKED[packed]({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, path)
    assert inspect_weights(path).dtype == "bfloat16"
    exact, found = load_backbone(file), load_backbone(path, num_heads=3)
    own = found.state_dict()
    assert all(torch.equal(own[name], tensor.bfloat16().float()) for name, tensor in exact.state_dict().items())
    if packed == "torchscript":
        with torch.inference_mode():
            error = grid(found(sine(1, 3, 1024, 768))) - expected["features_BDHW"]
        assert error.abs().mean() < 0.02 * expected["features_BDHW"].std()
