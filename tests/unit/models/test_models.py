"""Backbones, heads and the models made of them."""

import pytest
import torch

from motivnet.errors import ConfigError
from motivnet.models.backbone import has_depthwise
from motivnet.models.config import PRESETS, HeadConfig, ModelConfig, VitConfig, preset
from motivnet.models.ml_decoder import AttentionTrace, MLDecoder
from motivnet.models.motivnet import build_model

TINY_VIT = VitConfig(embed_dim=24, depth=2, num_heads=3, patch_size=8, patch_padding=0)
HEADS = {
    "ml_decoder": HeadConfig(dim=16, num_heads=4, ff_dim=32),
    "ml_decoder, groups": HeadConfig(dim=16, num_heads=4, ff_dim=32, num_queries=3, num_layers=2),
    "linear": HeadConfig(kind="linear"),
    "mlp": HeadConfig(kind="mlp", dim=16),
    "attention_pool": HeadConfig(kind="attention_pool", num_heads=4),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("num_classes", [7, 8])
def test_every_head_answers_and_every_parameter_learns(head: HeadConfig, num_classes: int) -> None:
    config = ModelConfig(
        backbone="sapiens", image_size=(32, 24), in_chans=3, num_classes=num_classes, vit=TINY_VIT, head=head
    )
    model = build_model(config)
    logits = model(torch.randn(2, 3, 32, 24))
    assert logits.shape == (2, num_classes)
    # A sum of squares: a plain sum has no gradient through a softmax of equal values.
    logits.square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("mobilenetv2_035", (64, 64), 4),
        ("resnet10t", (64, 96), 6),
        ("vit_tiny_patch16_224", (64, 48), 12),
        ("vit_small_patch14_reg4_dinov2", (56, 42), 12),
        ("swin_tiny_patch4_window7_224", (224, 224), 49),
    ],
)
def test_any_timm_backbone_gives_plain_tokens(name: str, size: tuple[int, int], tokens: int) -> None:
    model = build_model(ModelConfig(backbone=f"timm:{name}", image_size=size, head=HeadConfig(kind="linear"))).eval()
    with torch.inference_mode():
        features = model.backbone(torch.randn(1, 3, *size))
    assert features.shape == (1, tokens, model.backbone.embed_dim)


def test_tokens_stand_in_row_major_order() -> None:
    model = build_model(
        ModelConfig(backbone="timm:resnet10t", image_size=(64, 96), head=HeadConfig(kind="linear"))
    ).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        feature_map = model.backbone.net.forward_features(pixels)  # type: ignore[operator]
        tokens = model.backbone(pixels)
    torch.testing.assert_close(tokens[0, 4], feature_map[0, :, 1, 1])


def test_presets_have_the_published_sizes() -> None:
    """Parameters as the authors count them, without allocating gigabytes."""
    with torch.device("meta"):
        sizes = {name: build_model(config) for name, config in PRESETS.items() if name.startswith("motivnet")}
    encoder = sum(parameter.numel() for parameter in sizes["motivnet-1b"].backbone.parameters())
    assert encoder == 1_139_163_648
    # The authors count the frozen queries (7 x 1152) among the head's.
    head = sum(parameter.numel() for parameter in sizes["motivnet-1b"].head.parameters())
    assert head + 7 * 1152 == 21_870_215
    widths = {name.removeprefix("motivnet-"): model.backbone.embed_dim for name, model in sizes.items()}
    sapiens = {"0.3b": 1024, "0.6b": 1280, "1b": 1536, "2b": 1920}
    sapiens2 = {"0.1b": 768, "0.4b": 1024, "0.8b": 1280, "1b": 1536, "5b": 2432}
    assert widths == sapiens | {f"sapiens2-{size}": width for size, width in sapiens2.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet18"}, "backbone 'resnet18'. Allowed: sapiens, sapiens2, timm:NAME"),
        ({"backbone": "timm:resnet10t"}, "belong to the backbones 'sapiens' and 'sapiens2', and only to them"),
        ({"vit": None}, "belong to the backbones 'sapiens' and 'sapiens2', and only to them"),
        ({"image_size": (30, 24)}, r"image_size \(30, 24\): height and width must be divisible by patch_size 8"),
        (
            {"backbone": "sapiens2", "vit": VitConfig(embed_dim=24, depth=2, num_heads=3, patch_size=8)},
            "belong to 'sapiens' only",
        ),
    ],
)
def test_dimensions_that_do_not_fit(change: dict, message: str) -> None:
    settings = {"backbone": "sapiens", "image_size": (32, 24), "vit": TINY_VIT} | change
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"dim": 10, "num_heads": 4}, "not divisible by num_heads=4"),
        ({"dim": 16, "num_heads": 4, "num_queries": 9}, "between 1 and num_classes=7"),
        ({"dim": 16, "num_heads": 4, "num_layers": 0}, "num_layers 0: must be at least 1"),
    ],
)
def test_heads_that_do_not_fit(head: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings = HeadConfig(**head)
        build_model(ModelConfig(backbone="sapiens", image_size=(32, 24), vit=TINY_VIT, head=settings))


def test_unknown_names_are_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'motivnet-1b'"):
        preset("motivnet-1bb")
    with pytest.raises(ConfigError, match="timm has no model 'resnet10tt'"):
        build_model(ModelConfig(backbone="timm:resnet10tt", image_size=(32, 32)))


def test_attention_that_is_looked_at_is_the_attention_that_is_used() -> None:
    torch.manual_seed(0)
    head = MLDecoder(10, 7, num_queries=3, dim=16, num_layers=2, num_heads=4, ff_dim=8).eval()
    tokens = torch.randn(2, 5, 10)
    traces: list[AttentionTrace] = []
    attended = []
    for layer in head.layers:
        layer.attn.register_forward_hook(lambda module, args, out: attended.append((module, args, out)))
    with torch.inference_mode():
        torch.testing.assert_close(head(tokens, traces), head(tokens))
    assert len(traces) == 2
    for trace, (attn, (query, keys, _), answers) in zip(traces, attended, strict=False):
        assert trace.weights.shape == (2, 4, 3, 5)
        torch.testing.assert_close(trace.weights.sum(3), torch.ones(2, 4, 3))
        assert trace.weights.min() >= 0
        assert not trace.weights.requires_grad
        # The module's output is made of these weights and values, and of nothing else.
        mixed = torch.einsum("bhqn,bhnd->bqhd", trace.weights, trace.values).flatten(2)
        torch.testing.assert_close(attn.out_proj(mixed), answers)
        # And torch's own module, given the same parameters, reports the same weights.
        witness = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
        witness.load_state_dict(
            {
                "in_proj_weight": attn.in_proj.weight,
                "in_proj_bias": attn.in_proj.bias,
                "out_proj.weight": attn.out_proj.weight,
                "out_proj.bias": attn.out_proj.bias,
            }
        )
        with torch.inference_mode():
            theirs, weights = witness(query, keys, keys, average_attn_weights=False)
        torch.testing.assert_close(weights, trace.weights)
        torch.testing.assert_close(theirs, answers)


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(8, 8, True), (8, 1, False), (8, 4, False), (1, 1, False)]
)
def test_only_a_convolution_of_every_channel_by_itself_is_depthwise(channels: int, groups: int, expected: bool) -> None:
    assert has_depthwise(torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 3, groups=groups))) == expected


@pytest.mark.parametrize("affect", [False, True])
def test_features_and_head_make_the_model_as_in_timm(affect: bool) -> None:
    config = ModelConfig(backbone="sapiens", image_size=(32, 24), vit=TINY_VIT, head=HEADS["ml_decoder"], affect=affect)
    model, pixels = build_model(config).eval(), torch.randn(2, 3, 32, 24)
    with torch.inference_mode():
        tokens = model.forward_features(pixels)
        assert tokens.shape == (2, 12, 24)
        torch.testing.assert_close(tokens, model.backbone(pixels))
        torch.testing.assert_close(model.forward_head(tokens), model(pixels))
        assert model.forward_head(tokens).shape == (2, 7)
