"""Masked autoencoding: what is hidden, what is seen, what is learnt from."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from motivnet.errors import ConfigError
from motivnet.models.config import VitConfig, preset
from motivnet.models.mae import MaeConfig, MaskedAutoencoder, build_mae, sincos_positions
from motivnet.models.motivnet import build_backbone, build_model

CONFIG = MaeConfig(decoder_dim=16, decoder_depth=2, decoder_heads=2)
VIT = VitConfig(embed_dim=16, depth=2, num_heads=2, patch_size=8, patch_padding=0, class_token=True)
# 6 rows of 4 patches each, of 8 x 8 pixels in 3 channels.
MODEL = dataclasses.replace(preset("mini"), image_size=(48, 32), in_chans=3, vit=VIT)


def make(*, class_token: bool = True, **settings: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = dataclasses.replace(MODEL, vit=dataclasses.replace(VIT, class_token=class_token))
    return build_mae(build_backbone(model), dataclasses.replace(CONFIG, **settings)).eval()


def draw(model: MaskedAutoencoder, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = (side * count for side, count in zip(model.patch_size, model.grid, strict=True))
    return torch.randn(batch, model.in_chans, height, width, generator=generator), model.draw_order(batch, generator)


def change(model: MaskedAutoencoder, pixels_BCHW: Tensor, patches_BN: Tensor) -> Tensor:
    """Paint the patches that are marked with other pixels, a full column at a time brighter."""
    patches_BNP = model.patchify(pixels_BCHW)
    other_BNP = patches_BNP.flip(-1) * 3 + 7
    return model.unpatchify(torch.where(patches_BN[..., None], other_BNP, patches_BNP))


@pytest.mark.parametrize(
    ("ratio", "masked"), [(0.75, 18), (0.5, 12), (0.9, 22), (0.1, 3), (0.001, 1), (2 / 3, 16), (0.95, 23)]
)
def test_exactly_the_share_is_masked_of_a_broken_number_one_more(ratio: float, masked: int) -> None:
    model = make(mask_ratio=ratio)
    mask_BN = model.mask(draw(model, batch=50)[1])
    assert mask_BN.shape == (50, 24)
    assert mask_BN.sum(1).tolist() == [masked] * 50


def test_masks_differ_between_images_and_come_back_with_the_seed() -> None:
    model = make()
    mask_BN, same_BN, other_BN = (model.mask(draw(model, 400, seed)[1]) for seed in (1, 1, 2))
    assert torch.equal(mask_BN, same_BN)
    assert not torch.equal(mask_BN, other_BN)
    assert len({tuple(row) for row in mask_BN.tolist()}) > 390
    # Each patch is masked in three quarters of the images: of 400, give or take five standard deviations.
    assert (mask_BN.float().mean(0) - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 400)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_the_mean_square_over_masked_patches_alone(normalise: bool) -> None:
    model = make(normalise=normalise)
    pixels_BCHW, order_BN = draw(model)
    mask_BN = model.mask(order_BN)
    predictions_BNP = torch.randn(2, 24, 192, generator=torch.Generator().manual_seed(3))
    squares = []
    for image, row in mask_BN.nonzero().tolist():
        y, x = divmod(row, 4)
        patch = pixels_BCHW[image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].permute(1, 2, 0).flatten()
        if normalise:
            patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
        squares.append((predictions_BNP[image, row] - patch).square().mean())
    assert len(squares) == 36
    found = model.loss(predictions_BNP, pixels_BCHW, order_BN)
    torch.testing.assert_close(found, torch.stack(squares).mean())
    # Other pixels of visible patches change nothing, nor do other predictions of them; of masked ones they do.
    assert torch.equal(model.loss(predictions_BNP, change(model, pixels_BCHW, ~mask_BN), order_BN), found)
    worse_BNP = predictions_BNP + 5 * ~mask_BN[..., None]
    assert torch.equal(model.loss(worse_BNP, pixels_BCHW, order_BN), found)
    assert model.loss(predictions_BNP, change(model, pixels_BCHW, mask_BN), order_BN) != found


def test_predictions_of_visible_patches_get_no_gradient() -> None:
    model = make()
    pixels_BCHW, order_BN = draw(model)
    predictions_BNP = model(pixels_BCHW, order_BN)
    predictions_BNP.retain_grad()
    model.loss(predictions_BNP, pixels_BCHW, order_BN).backward()
    assert predictions_BNP.grad is not None
    learnt_BN = predictions_BNP.grad.abs().sum(-1) > 0
    assert torch.equal(learnt_BN, model.mask(order_BN))


def test_nothing_of_a_masked_patch_reaches_the_encoder_or_the_predictions() -> None:
    model = make()
    pixels_BCHW, order_BN = draw(model)
    mask_BN, visible_BV = model.mask(order_BN), order_BN[:, : model.num_visible]
    tokens_BTD = model.encode(pixels_BCHW, visible_BV)
    assert tokens_BTD.shape == (2, 1 + 6, 16)
    assert torch.equal(model.encode(change(model, pixels_BCHW, mask_BN), visible_BV), tokens_BTD)
    assert torch.equal(model(change(model, pixels_BCHW, mask_BN), order_BN), model(pixels_BCHW, order_BN))
    pixels_BCHW.requires_grad_()
    model.encode(pixels_BCHW, visible_BV).square().sum().backward()
    assert pixels_BCHW.grad is not None
    seen_BN = model.patchify(pixels_BCHW.grad).abs().sum(-1) > 0
    assert torch.equal(seen_BN, ~mask_BN)


def test_the_order_among_visible_and_among_masked_patches_does_not_matter() -> None:
    model = make()
    pixels_BCHW, order_BN = draw(model)
    visible_BV, masked_BM = order_BN[:, : model.num_visible], order_BN[:, model.num_visible :]
    other_BN = torch.cat([visible_BV.flip(1), masked_BM.flip(1)], 1)
    torch.testing.assert_close(model(pixels_BCHW, other_BN), model(pixels_BCHW, order_BN), atol=1e-5, rtol=1e-5)


def test_the_decoder_tells_masked_patches_apart_by_their_positions_alone() -> None:
    model = make()
    pixels_BCHW, order_BN = draw(model, batch=1)
    first, second = order_BN[0, -2:].tolist()
    told_NP = model(pixels_BCHW, order_BN)[0]
    assert (told_NP[first] - told_NP[second]).abs().max() > 1e-3
    positions = model.decoder_positions
    swapped = list(range(25))
    swapped[1 + first], swapped[1 + second] = 1 + second, 1 + first
    model.decoder_positions = positions[:, swapped]
    exchanged_NP = model(pixels_BCHW, order_BN)[0]
    torch.testing.assert_close(exchanged_NP[[second, first]], told_NP[[first, second]], atol=1e-5, rtol=1e-5)
    model.decoder_positions = torch.zeros_like(positions)
    alike_NP = model(pixels_BCHW, order_BN)[0]
    torch.testing.assert_close(alike_NP[first], alike_NP[second], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_all_that_is_trained_gets_a_gradient_and_positions_are_fixed(class_token: bool) -> None:
    model = make(class_token=class_token).train()
    pixels_BCHW, order_BN = draw(model)
    model.loss(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == ["backbone.net.pos_embed"]
    fixed = sincos_positions(16, (6, 4), num_prefix_tokens=int(class_token))
    assert torch.equal(model.state_dict()["backbone.net.pos_embed"], fixed)
    # The decoder's are computed, and so stand in no checkpoint.
    assert not [name for name in model.state_dict() if "decoder_positions" in name]


def test_recomputing_activations_changes_no_gradient() -> None:
    model = make().train()
    pixels_BCHW, order_BN = draw(model)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model.loss(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    kept = gradients()
    model.backbone.net.set_grad_checkpointing()  # type: ignore[operator]
    torch.testing.assert_close(gradients(), kept)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 5)])
def test_positions_follow_the_formula(rows: int, columns: int) -> None:
    positions = sincos_positions(12, (rows, columns), num_prefix_tokens=1)
    expected = [[0.0] * 12]
    for row in range(rows):
        for column in range(columns):
            place = []
            for coordinate in (column, row):
                angles = [coordinate / 10000 ** (i / 3) for i in range(3)]
                place += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            expected.append(place)
    torch.testing.assert_close(positions, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_patches_come_row_by_row_and_go_together_again() -> None:
    model = make()
    pixels_BCHW, _ = draw(model)
    patches_BNP = model.patchify(pixels_BCHW)
    assert torch.equal(patches_BNP[1, 5], pixels_BCHW[1, :, 8:16, 8:16].permute(1, 2, 0).flatten())
    assert torch.equal(model.unpatchify(patches_BNP), pixels_BCHW)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_encoder_is_the_classifiers_and_gives_the_same_tokens(class_token: bool) -> None:
    model = make(class_token=class_token)
    pixels_BCHW, _ = draw(model)
    all_BN = torch.arange(24).expand(2, -1)
    tokens_BND = model.encode(pixels_BCHW, all_BN)[:, int(class_token) :]
    classifier = build_model(dataclasses.replace(MODEL, vit=dataclasses.replace(VIT, class_token=class_token))).eval()
    classifier.backbone.load_state_dict(model.backbone.state_dict(), strict=True)
    torch.testing.assert_close(tokens_BND, classifier.backbone(pixels_BCHW))


@pytest.mark.parametrize("normalise", [True, False])
def test_a_reconstruction_keeps_what_was_seen_and_fills_in_the_rest(normalise: bool) -> None:
    model = make(normalise=normalise)
    pixels_BCHW, order_BN = draw(model)
    left_out, told = model.reconstruct(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)
    mask_BN = model.mask(order_BN)
    patches_BNP, left_BNP, told_BNP = (model.patchify(images) for images in (pixels_BCHW, left_out, told))
    assert torch.equal(left_BNP[~mask_BN], patches_BNP[~mask_BN])
    assert torch.equal(told_BNP[~mask_BN], patches_BNP[~mask_BN])
    assert not left_BNP[mask_BN].any()
    assert (told_BNP[mask_BN] - patches_BNP[mask_BN]).abs().max() > 0.1
    # If the right answer is told, the image comes back.
    _, right = model.reconstruct(model.target(pixels_BCHW), pixels_BCHW, order_BN)
    torch.testing.assert_close(right, pixels_BCHW, atol=1e-5, rtol=1e-5)


def test_a_patch_of_one_colour_has_a_finite_target() -> None:
    model = make()
    assert torch.equal(model.target(torch.full((1, 3, 48, 32), 0.3)), torch.zeros(1, 24, 192))


def test_weights_are_drawn_as_in_the_paper() -> None:
    model = make()
    patches = model.backbone.net.patch_embed.proj.weight  # type: ignore[union-attr]
    assert patches.abs().max() <= math.sqrt(6 / (16 + 192))
    assert patches.abs().max() > 0.9 * math.sqrt(6 / (16 + 192))
    assert model.predict.weight.abs().max() <= math.sqrt(6 / (16 + 192))
    assert not model.embed.bias.any()


@pytest.mark.parametrize(
    "settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"decoder_depth": 0}, {"decoder_dim": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        MaeConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "heads"), [(18, 2), (20, 3)])
def test_a_decoder_width_that_cannot_be_split_is_refused(dim: int, heads: int) -> None:
    with pytest.raises(ConfigError, match=f"decoder_dim {dim} must be divisible by 4"):
        MaeConfig(decoder_dim=dim, decoder_heads=heads)


def test_a_ratio_that_leaves_nothing_to_see_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mask_ratio 0.99 of 24 patches leaves none"):
        make(mask_ratio=0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "timm:mobilenetv2_035", "vit": None}, "cannot be pre-trained here. Allowed: backbone 'sapiens'"),
        (
            {"backbone": "sapiens2", "vit": dataclasses.replace(VIT, class_token=False)},
            "cannot be pre-trained here. Allowed: backbone 'sapiens'",
        ),
        ({"vit": dataclasses.replace(VIT, patch_padding=2)}, "vit.patch_padding=0"),
    ],
)
def test_other_encoders_are_refused(changes: dict[str, object], message: str) -> None:
    backbone = build_backbone(dataclasses.replace(MODEL, **changes))
    with pytest.raises(ConfigError, match=message):
        build_mae(backbone, CONFIG)


def test_bfloat16_gives_nearly_the_same_loss_in_float32() -> None:
    model = make()
    pixels_BCHW, order_BN = draw(model)
    expected = model.loss(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.loss(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
