"""Augmentation and mixup: what they change, and that a seed decides all of it."""

import pytest
import torch

from motivnet.data.augment import AugmentConfig, augment, mix

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
