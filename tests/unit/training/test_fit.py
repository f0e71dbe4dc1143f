"""Where a run starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2

from motivnet.checkpoints.bundle import BundleConfig, write_config
from motivnet.checkpoints.load import read_weights, write_weights
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.preprocess import Preprocessing
from motivnet.training.fit import load_imagenet_backbone, load_initial


def build(backbone: str, in_chans: int) -> MotivNet:
    config = ModelConfig(
        backbone=f"timm:{backbone}", image_size=(64, 64), in_chans=in_chans, head=HeadConfig(kind="linear")
    )
    return build_model(config).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


def test_a_grey_stem_answers_as_the_colour_stem_does_for_grey(weights: Path) -> None:
    grey, colour = build("mobilenetv2_100", 1), build("mobilenetv2_100", 3)
    load_imagenet_backbone(grey, weights)
    load_imagenet_backbone(colour, weights)
    pixels = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = colour.backbone(pixels.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey.backbone(pixels), expected, atol=1e-4, rtol=1e-3)


def test_another_backbone_is_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="not the weights of this model"):
        load_imagenet_backbone(build("resnet10t", 3), weights)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    model = build("mobilenetv2_100", 1)
    with pytest.raises(CheckpointError, match="no such file"):
        load_imagenet_backbone(model, tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read: found a file that begins with b'hello'"):
        load_imagenet_backbone(model, tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a dict of tensors"):
        load_imagenet_backbone(model, tmp_path / "list.pth")


def test_a_run_can_start_from_a_bundle(tmp_path: Path) -> None:
    first, second = build("resnet10t", 1), build("resnet10t", 1)
    config = BundleConfig(
        name="first",
        summary="",
        licence="none",
        model=ModelConfig(backbone="timm:resnet10t", image_size=(64, 64), in_chans=1, head=HeadConfig(kind="linear")),
        preprocessing=Preprocessing(
            geometry="square", size=(64, 64), channels="grey", filter="bilinear", mean=(127.5,), std=(64.0,)
        ),
    )
    write_weights(write_config(tmp_path / "bundle", config), first)
    load_initial(second, tmp_path / "bundle")
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="not the weights of this model"):
        load_initial(build("mobilenetv2_100", 1), tmp_path / "bundle")


def test_damaged_weights_end_in_our_error(weights: Path, tmp_path: Path) -> None:
    whole, rng = weights.read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.pth"
    num_refused = 0
    for _ in range(60):
        content = bytearray(whole[: int(rng.integers(0, len(whole)))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, 20_000, 20):
            content[place % max(1, len(content)) : place % max(1, len(content)) + 1] = rng.bytes(1)
        damaged.write_bytes(content)
        try:
            read_weights(damaged)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 30
