"""Any timm model as a backbone: its tokens are those of the grid, and nothing else."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from motivnet.errors import ConfigError
from motivnet.models.backbone import Backbone
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.motivnet import MotivNet, build_model

HEAD = HeadConfig(dim=16, num_heads=4, ff_dim=16, dropout=0.0)


def build(name: str, size: tuple[int, int] = (64, 64), in_chans: int = 1) -> MotivNet:
    torch.manual_seed(0)
    return build_model(ModelConfig(backbone=f"timm:{name}", image_size=size, in_chans=in_chans, head=HEAD))


def tokens_and_features(backbone: Backbone, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    net = cast(Any, backbone.net)
    with torch.inference_mode():
        return backbone(pixels_BCHW), net.forward_features(pixels_BCHW)


# Name, size of the image, (rows, columns) of the tokens, and how many other tokens stand before them.
TRANSFORMERS = [
    ("test_vit", (64, 48), (4, 3), 1),
    ("test_vit3", (64, 48), (4, 3), 1),  # a register, no class token
    ("deit_tiny_distilled_patch16_224", (64, 48), (4, 3), 2),
    ("vit_small_patch14_reg4_dinov2", (56, 42), (4, 3), 5),
    ("vit_small_patch16_dinov3.lvd1689m", (64, 48), (4, 3), 5),
    ("eva02_tiny_patch14_224", (56, 42), (4, 3), 1),
    ("xcit_nano_12_p16_224", (64, 48), (4, 3), 1),
    ("cait_xxs24_224", (64, 48), (4, 3), 1),
    ("convit_tiny", (64, 64), (4, 4), 1),
    ("tnt_s_patch16_224", (64, 64), (4, 4), 1),
    ("vit_relpos_small_patch16_224", (64, 48), (4, 3), 0),
    ("levit_128s", (128, 96), (2, 2), 0),
]


@pytest.mark.parametrize(("name", "size", "grid", "num_others"), TRANSFORMERS, ids=[row[0] for row in TRANSFORMERS])
def test_tokens_of_a_transformer(name: str, size: tuple[int, int], grid: tuple[int, int], num_others: int) -> None:
    backbone = build(name, size).eval().backbone
    pixels = torch.randn(2, 1, *size)
    tokens, features = tokens_and_features(backbone, pixels)
    num_tokens = grid[0] * grid[1]
    assert tokens.shape == (2, num_tokens, backbone.embed_dim)
    assert features.shape[1] == num_tokens + num_others
    torch.testing.assert_close(tokens, features[:, num_others:])
    # timm's own idea of the last feature map, which has no place for any other token.
    with torch.inference_mode():
        (feature_map,) = cast(Any, backbone.net).forward_intermediates(
            pixels, indices=1, norm=name != "levit_128s", intermediates_only=True
        )
    assert feature_map.shape[2:] == grid
    torch.testing.assert_close(tokens, feature_map.flatten(2).transpose(1, 2))


FEATURE_MAPS = [
    ("test_resnet", (64, 96), False),
    ("test_convnext", (64, 96), False),
    ("test_efficientnet", (64, 96), False),
    ("efficientformerv2_s0", (64, 96), False),
    ("inception_next_atto", (64, 96), False),  # insists on a pooling
    ("swin_tiny_patch4_window7_224", (64, 96), True),
    ("test_mambaout", (64, 96), True),
]


@pytest.mark.parametrize(("name", "size", "channels_last"), FEATURE_MAPS, ids=[row[0] for row in FEATURE_MAPS])
def test_tokens_of_a_feature_map(name: str, size: tuple[int, int], channels_last: bool) -> None:
    backbone = build(name, size).eval().backbone
    tokens, features = tokens_and_features(backbone, torch.randn(2, 1, *size))
    map_BHWD = features if channels_last else features.permute(0, 2, 3, 1)
    assert map_BHWD.shape == (2, size[0] // 32, size[1] // 32, backbone.embed_dim)
    torch.testing.assert_close(tokens, map_BHWD.flatten(1, 2))
    torch.testing.assert_close(tokens[:, 4], map_BHWD[:, 1, 1])


@pytest.mark.parametrize("name", ["hiera_tiny_224", "pvt_v2_b0", "volo_d1_224"])
def test_tokens_follow_the_image(name: str) -> None:
    """Without trust in timm's bookkeeping: each quarter of the image moves the tokens of its quarter most."""
    backbone = build(name, (128, 128)).eval().backbone
    pixels = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        tokens = backbone(pixels)
        side = int(tokens.shape[1] ** 0.5)
        assert side * side == tokens.shape[1]
        for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            changed = pixels.clone()
            changed[..., 64 * row : 64 * row + 64, 64 * column : 64 * column + 64].neg_()
            moved = (backbone(changed) - tokens).norm(dim=2).reshape(2, side // 2, 2, side // 2).mean((1, 3))
            assert int(moved.argmax()) == 2 * row + column


def test_pooling_does_not_cost_the_norm_of_the_tokens() -> None:
    backbone = build("test_vit2").eval().backbone  # pools by the mean, as published
    tokens, _ = tokens_and_features(backbone, torch.randn(2, 1, 64, 64))
    torch.testing.assert_close(tokens.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "without_gradient"),
    [
        ("test_vit3", set()),
        ("vit_small_patch16_dinov3", set()),
        # The norm of timm's own classifier, which comes after its pooling.
        ("test_convnext", {"backbone.net.head"}),
        ("test_mambaout", {"backbone.net.head"}),
        # What the class token alone passes through.
        ("cait_xxs24_224", {"backbone.net.cls_token", "backbone.net.blocks_token_only"}),
    ],
)
def test_a_step_of_training_lowers_the_loss(name: str, without_gradient: set[str]) -> None:
    model = build(name).train()
    pixels, target = torch.randn(4, 1, 64, 64), torch.tensor([0, 1, 2, 3])
    loss = torch.nn.functional.cross_entropy(model(pixels), target)
    loss.backward()
    idle = {
        ".".join(parameter_name.split(".")[:3])
        for parameter_name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert idle == without_gradient
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    assert torch.nn.functional.cross_entropy(model(pixels), target) < loss


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("coat_tiny", (224, 224), "returns neither one feature map nor one sequence of tokens"),
        ("crossvit_9_240", (240, 240), "returns neither one feature map nor one sequence of tokens"),
        ("pit_ti_224", (224, 224), "returns 0 token"),
        ("convit_tiny", (64, 48), r"images of 64x48 with 1 channel\(s\) \(its own are of 224x224 with 3\): "),
        ("mvitv2_tiny", (64, 48), r"images of 64x48 .*: AssertionError"),
        ("efficientformer_l1", (96, 96), "images of 96x96 "),
        ("vit_small_patch14_reg4_dinov2", (64, 64), r"divisible by its patches of \(14, 14\)"),
        ("coat_lite_tiny", (64, 64), "5 tokens for 4 positions"),
        ("test_resnet", (0, 32), r"image_size \(0, 32\): must be at least 1x1"),
        ("resnet10tt", (32, 32), "timm has no model 'resnet10tt'; near it: .*resnet10t"),
        ("vit_small_patch16_dinov3.imagenet", (32, 32), r"no weights 'imagenet' .*dinov3\.lvd1689m"),
        ("hf-hub:timm/resnet18.a1_in1k", (32, 32), "timm has no model 'hf-hub:"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_when_built(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, size)


def test_a_model_without_stochastic_depth_says_so() -> None:
    config = ModelConfig(backbone="timm:vgg11", image_size=(32, 32), drop_path=0.1)
    with pytest.raises(ConfigError, match="drop_path_rate"):
        build_model(config)


def test_building_leaves_a_backbone_ready_for_training() -> None:
    """Running it once for its shapes must leave nothing behind."""
    model = build("levit_128s", (64, 64))
    assert all(module.training for module in model.modules())
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
