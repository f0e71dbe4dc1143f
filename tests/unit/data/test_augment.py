"""Augmentation and mixup: what they change, and that a seed decides all of it."""

import dataclasses

import numpy as np
import pytest
import torch

from motivnet.data.augment import AugmentConfig, DegradeConfig, augment, degrade, mix
from motivnet.errors import ConfigError
from motivnet.preprocess import NANO, Preprocessing

STILL = AugmentConfig(flip=False, rotation_deg=0, scale=0, translate=0, contrast=0, brightness=0, erase_prob=0)


def faces(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 1, 24, 24, generator=torch.Generator().manual_seed(1))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_nothing_changed() -> None:
    torch.testing.assert_close(augment(faces(), STILL, rng()), faces(), atol=1e-5, rtol=0)


def test_the_seed_decides_everything() -> None:
    config = AugmentConfig()
    first = augment(faces(), config, rng(3))
    assert torch.equal(first, augment(faces(), config, rng(3)))
    assert not torch.equal(first, augment(faces(), config, rng(4)))


def test_flip_mirrors_about_half() -> None:
    many = faces(200)
    config = AugmentConfig(flip=True, rotation_deg=0, scale=0, translate=0, contrast=0, brightness=0, erase_prob=0)
    flipped = augment(many, config, rng())
    is_mirror = [(out - image.flip(-1)).abs().max() < 1e-4 for out, image in zip(flipped, many, strict=True)]
    is_same = [(out - image).abs().max() < 1e-4 for out, image in zip(flipped, many, strict=True)]
    assert sum(is_mirror) + sum(is_same) == 200
    assert 70 < sum(is_mirror) < 130


def test_erasing_paints_one_rectangle_of_the_asked_size() -> None:
    config = AugmentConfig(
        flip=False,
        rotation_deg=0,
        scale=0,
        translate=0,
        contrast=0,
        brightness=0,
        erase_prob=1,
        erase_side=(0.25, 0.25),
    )
    changed = (augment(faces(), config, rng()) - faces()).abs() > 1e-4
    for mask in changed[:, 0]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert rows.max() - rows.min() + 1 == pytest.approx(6, abs=1)
        assert columns.max() - columns.min() + 1 == pytest.approx(6, abs=1)


def test_mixup_blends_faces_and_targets_alike() -> None:
    pixels, targets = torch.eye(5).view(5, 1, 1, 5), torch.eye(5)
    mixed, mixed_targets = mix(pixels, targets, 1.0, rng())
    torch.testing.assert_close(mixed.view(5, 5), mixed_targets)
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(5))
    same, _ = mix(pixels, targets, 0.0, rng())
    assert torch.equal(same, pixels)


def test_processes_share_the_changes_of_one_batch() -> None:
    pixels = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    config = AugmentConfig(erase_prob=0.7)
    whole = augment(pixels, config, torch.Generator().manual_seed(0))
    for rank in range(3):
        share = augment(pixels[rank::3], config, torch.Generator().manual_seed(0), rank=rank, world_size=3)
        torch.testing.assert_close(share, whole[rank::3])


GREY = dataclasses.replace(NANO, size=(32, 32))
COLOUR = dataclasses.replace(GREY, channels="rgb", mean=(120.0, 110.0, 100.0), std=(60.0, 64.0, 70.0))
ALWAYS = DegradeConfig(prob=1.0)


def pictures(preprocessing: Preprocessing, batch: int = 6) -> torch.Tensor:
    shape = (batch, *preprocessing.size, preprocessing.num_channels)
    return torch.from_numpy(preprocessing.normalise(np.random.default_rng(0).integers(0, 256, shape, np.uint8)))


class TestDegrade:
    """Degradations of a batch."""

    @pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
    def test_the_seed_decides_everything(self, preprocessing: Preprocessing) -> None:
        pixels = pictures(preprocessing)
        first = degrade(pixels, ALWAYS, preprocessing, rng(3))
        assert (first.shape, first.dtype) == (pixels.shape, pixels.dtype)
        assert (first - pixels).abs().amax((1, 2, 3)).min() > 0.1  # every face is changed
        assert torch.equal(first, degrade(pixels, ALWAYS, preprocessing, rng(3)))
        assert not torch.equal(first, degrade(pixels, ALWAYS, preprocessing, rng(4)))

    def test_probability_0_draws_nothing(self) -> None:
        generator = rng()
        before = generator.get_state()
        pixels = pictures(GREY)
        assert degrade(pixels, DegradeConfig(), GREY, generator) is pixels
        assert torch.equal(generator.get_state(), before)

    @pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
    def test_normalisation_is_undone_and_repeated(self, preprocessing: Preprocessing) -> None:
        still = DegradeConfig(prob=1.0, gain=1.0, gamma=1.0, blur=0.0, side=32, quality=95)
        pixels = pictures(preprocessing)
        mild = pixels[:, :, :1, :1].expand_as(pixels)  # one colour each, which JPEG keeps
        torch.testing.assert_close(degrade(mild, still, preprocessing, rng()), mild, atol=0.06, rtol=0)

    def test_processes_share_the_changes_of_one_batch(self) -> None:
        pixels, config = pictures(GREY), DegradeConfig(prob=0.5)
        whole = degrade(pixels, config, GREY, rng())
        for rank in range(3):
            share = degrade(pixels[rank::3], config, GREY, rng(), rank=rank, world_size=3)
            assert torch.equal(share, whole[rank::3])

    def test_what_is_drawn_is_within_the_limits(self) -> None:
        config = DegradeConfig(prob=0.5)
        drawn = config.draw(400, 96, rng())
        light = [one for one in drawn if one.gain != 1]
        blurred = [one.blur for one in drawn if one.blur]
        packed = [one for one in drawn if one.quality is not None]
        sides = [one.side for one in drawn if one.side is not None]
        for chosen in (light, blurred, packed):
            assert 150 < len(chosen) < 250
        assert 250 < len(sides) < 350  # a quarter has neither fewer pixels nor JPEG
        assert all(0.5 <= one.gain <= 2 and 1 / 1.8 <= one.gamma <= 1.8 for one in light)
        assert 0 < min(blurred) < 0.1 < 1.4 < max(blurred) <= 1.5
        assert (min(sides), max(sides)) == pytest.approx((20, 96), abs=2)
        assert all(10 <= one.quality <= 95 and one.side is not None for one in packed if one.quality)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"prob": 1.5}, "prob 1.5: must be at most 1"),
            ({"gain": 0.5}, "gain 0.5: must be at least 1"),
            ({"blur": -1.0}, "blur -1.0: must be at least 0"),
            ({"side": 2}, "side 2: must be at least 4"),
            ({"quality": 0}, "quality 0: must be at least 1"),
        ],
    )
    def test_out_of_range(self, settings: dict[str, float], said: str) -> None:
        with pytest.raises(ConfigError, match=f"^{said}"):
            DegradeConfig(**settings)  # type: ignore[arg-type]
