"""The maps are complete and invertible against modules that are really built, and agree with independent witnesses."""

import pytest
import torch

from motivnet.checkpoints.keymaps import (
    ML_DECODER_UPSTREAM,
    MOTIVNET_RELEASED,
    SAPIENS,
    SAPIENS2,
    KeyMap,
)
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_backbone, build_head, build_model

HEAD = HeadConfig(dim=16, ff_dim=8, num_layers=2, num_queries=3)
VIT = VitConfig(embed_dim=24, depth=12, num_heads=3)
PLAIN = ModelConfig(backbone="sapiens", image_size=(64, 48), vit=VIT, head=HEAD)
WITH_TOKEN = ModelConfig(
    backbone="sapiens",
    image_size=(64, 48),
    vit=VitConfig(embed_dim=24, depth=12, num_heads=3, patch_padding=0, class_token=True),
    head=HEAD,
)
SHARED_HEADS = ModelConfig(
    backbone="sapiens2",
    image_size=(64, 48),
    vit=VitConfig(embed_dim=32, depth=18, num_heads=4, num_kv_heads=2, patch_padding=0),
)

NETS = {
    "sapiens": (SAPIENS, lambda: build_backbone(PLAIN)),
    "sapiens with class token": (SAPIENS, lambda: build_backbone(WITH_TOKEN)),
    "sapiens2": (SAPIENS2, lambda: build_backbone(SHARED_HEADS)),
    "ml-decoder": (ML_DECODER_UPSTREAM, lambda: build_head(HEAD, 24, 7)),
    "motivnet": (MOTIVNET_RELEASED, lambda: build_model(PLAIN)),
    "motivnet with class token": (MOTIVNET_RELEASED, lambda: build_model(WITH_TOKEN)),
}
MAPS = {keymap.format: keymap for keymap, _ in NETS.values()}

# One block as the publishers name it, literally.
SAPIENS_NAMES = """
cls_token pos_embed patch_embed.projection.weight patch_embed.projection.bias
layers.0.ln1.weight layers.0.ln1.bias layers.0.attn.qkv.weight layers.0.attn.qkv.bias layers.0.attn.proj.weight
layers.0.attn.proj.bias layers.0.ln2.weight layers.0.ln2.bias layers.0.ffn.layers.0.0.weight
layers.0.ffn.layers.0.0.bias layers.0.ffn.layers.1.weight layers.0.ffn.layers.1.bias ln1.weight ln1.bias
"""
ML_DECODER_NAMES = """
decoder.embed_standart.weight decoder.embed_standart.bias decoder.query_embed.weight
decoder.layers.0.norm1.weight decoder.layers.0.norm1.bias decoder.layers.0.norm2.weight decoder.layers.0.norm2.bias
decoder.layers.0.norm3.weight decoder.layers.0.norm3.bias
decoder.layers.0.{attn}.in_proj_weight decoder.layers.0.{attn}.in_proj_bias
decoder.layers.0.{attn}.out_proj.weight decoder.layers.0.{attn}.out_proj.bias
decoder.layers.0.linear1.weight decoder.layers.0.linear1.bias decoder.layers.0.linear2.weight
decoder.layers.0.linear2.bias decoder.duplicate_pooling decoder.duplicate_pooling_bias
"""


@pytest.mark.parametrize(("keymap", "build"), NETS.values(), ids=NETS)
def test_complete_and_invertible(keymap: KeyMap, build) -> None:
    own = build().state_dict()
    foreign, dropped = keymap.inverse().apply(own)
    assert dropped == ()
    assert len(foreign) == len(own)
    back, dropped = keymap.apply(foreign)
    assert dropped == ()
    assert list(back) == list(own)
    assert all(back[name] is own[name] for name in own)
    assert not foreign.keys() & own.keys()


@pytest.mark.parametrize("keymap", MAPS.values(), ids=MAPS)
def test_no_two_rules_meet(keymap: KeyMap) -> None:
    kept = [ours for ours in keymap.rules.values() if ours is not None]
    assert len(set(kept)) == len(kept)
    twice = keymap.inverse().inverse()
    assert {keymap.wrapper + name: ours for name, ours in keymap.rules.items() if ours is not None} == dict(twice.rules)


def test_names_are_the_publishers() -> None:
    one_block = VitConfig(embed_dim=24, depth=1, num_heads=3, patch_padding=0, class_token=True)
    config = ModelConfig(
        backbone="sapiens", image_size=(64, 48), vit=one_block, head=HeadConfig(dim=16, ff_dim=8, num_layers=1)
    )
    model = build_model(config)
    foreign, _ = SAPIENS.inverse().apply(model.backbone.state_dict())
    assert sorted(foreign) == sorted(f"backbone.{name}" for name in SAPIENS_NAMES.split())
    foreign, _ = ML_DECODER_UPSTREAM.inverse().apply(model.head.state_dict())
    assert sorted(foreign) == sorted(name.format(attn="multihead_attn") for name in ML_DECODER_NAMES.split())
    foreign, _ = MOTIVNET_RELEASED.inverse().apply(model.state_dict())
    encoder = [f"pose_encoder.{name.removeprefix('patch_embed.')}" for name in SAPIENS_NAMES.split()]
    decoder = [f"decoder.{name.format(attn='self_attn')}" for name in ML_DECODER_NAMES.split()]
    assert sorted(foreign) == sorted(encoder + decoder)


def test_sapiens2_agrees_with_timms_own_filter() -> None:
    from timm.models.eva import checkpoint_filter_fn

    net = build_backbone(SHARED_HEADS).net
    own = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    foreign, _ = SAPIENS2.inverse().apply(own)
    released = {name.removeprefix("backbone."): tensor for name, tensor in foreign.items()}
    released |= {"rope_embed.periods": torch.zeros(4), "mask_token": torch.zeros(1, 1, 32)}
    assert "blocks.9.attn.wk.weight" in released
    theirs = checkpoint_filter_fn(released, net)
    ours, dropped = SAPIENS2.apply(released)
    assert dropped == ("rope_embed.periods", "mask_token")
    assert {f"net.{name}" for name in theirs} == ours.keys() == own.keys()
    assert all(theirs[name] is ours[f"net.{name}"] for name in theirs)


@pytest.mark.parametrize(
    ("keymap", "name"),
    [
        (MOTIVNET_RELEASED, "pose_encoder.layers.0.ln3.weight"),
        (MOTIVNET_RELEASED, "backbone.pose_encoder.ln1.weight"),
        (SAPIENS, "layers.0.ln11.weight"),
        (SAPIENS, "layers.x.ln1.weight"),
        (SAPIENS, "layers..ln1.weight"),
        (SAPIENS, "layersX0Xln1.weight"),
        (SAPIENS, "pos_embed_1d"),
        (SAPIENS, "headless.weight"),
        (SAPIENS, "backbone.backbone.ln1.weight"),
        (SAPIENS2, "blocks.0.attn.qkv.weight"),
        (ML_DECODER_UPSTREAM, "decoder.layers.0.self_attn.in_proj_weight"),
    ],
)
def test_an_unknown_tensor_is_never_passed_over(keymap: KeyMap, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{keymap.format}: unexpected tensor '{name}'$"):
        keymap.apply({name: torch.zeros(1)})


def test_two_tensors_that_become_one_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"two tensors become 'net\.pos_embed', the second is 'pos_embed'"):
        SAPIENS.apply({"backbone.pos_embed": 1, "pos_embed": 2})


def test_parts_beside_the_encoder_are_dropped_by_name() -> None:
    parts = ("head.deconv.0.weight", "neck.x", "decode_head.conv.bias", "decoder_blocks.0.w", "mask_token", "neck")
    others = ("backbone.head.weight", "decoder_pos_embed")
    renamed, dropped = SAPIENS.apply(dict.fromkeys((*parts, "backbone.ln1.weight", *others), 0))
    assert renamed == {"net.norm.weight": 0}
    assert dropped == parts + others


def test_numbers_of_blocks_are_kept() -> None:
    names = [f"layers.{number}.ln1.weight" for number in (0, 7, 10, 47, 123)]
    assert list(SAPIENS.apply(dict.fromkeys(names, 0))[0]) == [
        f"net.blocks.{number}.norm1.weight" for number in (0, 7, 10, 47, 123)
    ]


def test_the_longest_rule_counts_wherever_it_stands() -> None:
    rules = {"a": "short", "a.b": "long", "a.b.c": None}
    for ordered in (rules, dict(reversed(rules.items()))):
        assert KeyMap("x", ordered).apply({"a.x": 1, "a.b.x": 2, "a.b.c.x": 3, "a.bc": 4}) == (
            {"short.x": 1, "long.x": 2, "short.bc": 4},
            ("a.b.c.x",),
        )
