"""What unit tests share: tiny files in the released formats, written from models with random weights."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from motivnet.models.config import HeadConfig, ModelConfig, VitConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

# 4 x 3 patches: the proportions of the task checkpoints.
SIZE = (64, 48)
HEAD = HeadConfig(dim=32, num_layers=2, ff_dim=24)


@dataclasses.dataclass(frozen=True)
class Written:
    """A file in a released format.

    Args:
        path: of the file.
        net: that its weights come from, in eval mode: a MotivNet, a Backbone or an MLDecoder.
        config: dimensions of the net; of a head alone the backbone's are idle.
        tensors: as in the file.
    """

    path: Path
    net: "nn.Module"
    config: ModelConfig
    tensors: "dict[str, Tensor]"


def write_released(
    path: Path,
    kind: str,
    *,
    image_size: tuple[int, int] = SIZE,
    num_classes: int = 7,
    in_chans: int = 3,
    head: HeadConfig = HEAD,
    dtype: Any = None,
    metadata: Mapping[str, object] | None = None,
    edit: "Callable[[dict[str, Tensor]], object] | None" = None,
    **vit: Any,
) -> Written:
    """Write a file in a released format.

    Args:
        path: the suffix `.safetensors` decides the container; any other is what torch.save writes.
        kind: motivnet, sapiens-task, sapiens-pretrain, sapiens2 or ml-decoder.
        image_size: (height, width) that the positions are for.
        num_classes: logits.
        in_chans: channels of the input.
        head: its dimensions.
        dtype: to store in; None is float32.
        metadata: of safetensors.
        edit: changes the tensors in place before they are written.
        vit: dimensions of the encoder; 24 wide, 2 blocks, 3 heads otherwise.
    """
    import torch

    from motivnet.checkpoints import keymaps
    from motivnet.models.motivnet import build_backbone, build_head, build_model

    dimensions: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    dimensions |= {"sapiens-pretrain": {"class_token": True, "patch_padding": 0}, "sapiens2": {"patch_padding": 0}}.get(
        kind, {}
    )
    config = ModelConfig(
        backbone="sapiens2" if kind == "sapiens2" else "sapiens",
        image_size=image_size,
        in_chans=in_chans,
        num_classes=num_classes,
        vit=VitConfig(**dimensions | vit),
        head=head,
    )
    if kind == "motivnet":
        net, keymap = build_model(config), keymaps.MOTIVNET_RELEASED
    elif kind == "ml-decoder":
        net, keymap = build_head(head, 24, num_classes), keymaps.ML_DECODER_UPSTREAM
    else:
        net, keymap = build_backbone(config), keymaps.SAPIENS2 if kind == "sapiens2" else keymaps.SAPIENS
    # Nothing stays at the 0 and 1 of a fresh model, which would hide tensors that change places.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    foreign, _ = keymap.inverse().apply(net.state_dict())
    tensors = {name: tensor.to(dtype or torch.float32).contiguous() for name, tensor in foreign.items()}
    if edit:
        edit(tensors)
    save(path, tensors, metadata)
    return Written(path, net.eval(), config, tensors)


def save(path: Path, tensors: Any, metadata: Mapping[str, object] | None = None) -> Path:
    """Write tensors; the suffix `.safetensors` decides the container."""
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={key: str(value) for key, value in (metadata or {}).items()})
    else:
        torch.save(tensors, path)
    return path


@pytest.fixture
def released(tmp_path: Path) -> Callable[..., Written]:
    """Write a tiny file in a released format into the test's folder: `released(kind, name=..., ...)`."""
    pytest.importorskip("timm", reason="the extra `torch` is not installed")

    def write(kind: str, *, name: str = "weights.safetensors", **changes: Any) -> Written:
        return write_released(tmp_path / name, kind, **changes)

    return write


@pytest.fixture
def pixels() -> "Callable[..., Tensor]":
    """Make the goldens' input of any size: `pixels(height, width)` gives (batch, channels, height, width)."""
    import torch

    def make(height: int, width: int, *, batch: int = 1, channels: int = 3) -> "Tensor":
        shape = (batch, channels, height, width)
        return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64)).float().reshape(shape)

    return make


@pytest.fixture
def draw_clip() -> Callable[..., Path]:
    """Write a video of 32 x 32 pixels, 10 frames per second; each frame has one of the given brightnesses."""
    av = pytest.importorskip("av")

    def write(path: Path, brightnesses: Iterable[int]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height = stream.width = 32
            stream.pix_fmt = "yuv420p"
            for brightness in brightnesses:
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), brightness, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write
