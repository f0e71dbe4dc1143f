"""Random augmentation of a batch of training faces.

Shape suffixes: B images, C channels, H height, W width.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from motivnet.config import Settings, bounded
from motivnet.data.degradations import Degradation
from motivnet.preprocess import Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Strength of the augmentation; each amount is drawn uniformly from minus to plus its value.

    Args:
        flip: whether half of the faces are mirrored.
        rotation_deg: maximum rotation, in degrees.
        scale: maximum relative change of size.
        translate: maximum shift, as a fraction of the side.
        contrast: maximum relative change of contrast.
        brightness: maximum shift, in standard deviations of the preprocessing.
        erase_prob: probability that a rectangle of the face is erased.
        erase_side: minimum and maximum side of the rectangle, as fractions of the image's side.
    """

    flip: bool = True
    rotation_deg: float = 12.0
    scale: float = 0.12
    translate: float = 0.08
    contrast: float = 0.3
    brightness: float = 0.3
    erase_prob: float = 0.25
    erase_side: tuple[float, float] = (0.1, 0.35)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DegradeConfig(Settings):
    """Random degradations of training faces.

    Args:
        prob: probability of each kind, independently of the others; 0 degrades nothing.
        gain: largest factor of light; the smallest is its inverse.
        gamma: largest exponent; the smallest is its inverse.
        blur: largest standard deviation, in pixels of a face that is 48 pixels wide.
        side: smallest width and height that a face is reduced to, in pixels.
        quality: lowest quality of JPEG.
    """

    prob: float = bounded(default=0.0, low=0, high=1)
    gain: float = bounded(default=2.0, low=1)
    gamma: float = bounded(default=1.8, low=1)
    blur: float = bounded(default=1.5, low=0)
    side: int = bounded(default=20, low=4)
    quality: int = bounded(default=10, low=1, high=95)

    def draw(self, count: int, side: int, generator: torch.Generator) -> list[Degradation]:
        """Draw the degradations of `count` faces of `side` pixels."""
        # The kinds: light, blur, resolution, JPEG; then the strengths.
        chosen = (torch.rand(4, count, generator=generator) < self.prob).T.tolist()
        strengths = torch.rand(5, count, generator=generator).T.tolist()
        pairs = zip(chosen, strengths, strict=True)
        return [
            Degradation(
                gain=self.gain ** (2 * gain - 1) if light else 1.0,
                gamma=self.gamma ** (2 * gamma - 1) if light else 1.0,
                blur=self.blur * blur if blurred else 0.0,
                # Most faces of the web were packed at a smaller size than the model's.
                side=round(self.side + size * max(0, side - self.side)) if reduced or packed else None,
                quality=round(self.quality + quality * (95 - self.quality)) if packed else None,
            )
            for (light, blurred, reduced, packed), (gain, gamma, blur, size, quality) in pairs
        ]


NO_CHANGE = AugmentConfig(
    flip=False, rotation_deg=0.0, scale=0.0, translate=0.0, contrast=0.0, brightness=0.0, erase_prob=0.0
)


def augment(
    pixels_BCHW: Tensor, config: AugmentConfig, generator: torch.Generator, *, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Augment a batch of normalised faces.

    Args:
        pixels_BCHW: normalised faces, on any device.
        config: strength of the augmentation.
        generator: a CPU generator; the same state gives the same augmentation on every device.
        rank: rank of this process, whose image i is image i * world_size + rank of the global batch. Random numbers are
            drawn for the global batch, so the augmentation does not depend on the number of processes.
        world_size: number of processes.
    """
    if config == NO_CHANGE:
        return pixels_BCHW
    batch = pixels_BCHW.shape[0]

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, batch * world_size, generator=generator)[..., rank::world_size]

    def spread(amount: float) -> Tensor:
        return (draw() * 2 - 1) * amount

    angle, size = spread(math.radians(config.rotation_deg)), 1 + spread(config.scale)
    mirror = torch.where(spread(1.0) < 0, -1.0, 1.0) if config.flip else torch.ones(batch)
    # affine_grid has coordinates from -1 to 1, so a shift by the whole side is 2.
    shift_x, shift_y = spread(2 * config.translate), spread(2 * config.translate)
    cos, sin = angle.cos() * size, angle.sin() * size
    rows = [torch.stack([cos * mirror, -sin, shift_x], 1), torch.stack([sin * mirror, cos, shift_y], 1)]
    grid = functional.affine_grid(
        torch.stack(rows, 1).to(pixels_BCHW.device), list(pixels_BCHW.shape), align_corners=False
    )
    pixels_BCHW = functional.grid_sample(pixels_BCHW, grid, padding_mode="border", align_corners=False)
    gain, offset = 1 + spread(config.contrast), spread(config.brightness)
    pixels_BCHW = pixels_BCHW * _per_image(gain, pixels_BCHW) + _per_image(offset, pixels_BCHW)
    return _erase(pixels_BCHW, config, draw)


def degrade(
    pixels_BCHW: Tensor,
    config: DegradeConfig,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Degrade a batch of normalised faces, on the CPU.

    Args:
        pixels_BCHW: normalised by `preprocessing`, on any device.
        config: what is drawn.
        preprocessing: whose normalisation is undone and repeated: degradations work on values from 0 to 255.
        generator: a CPU generator.
        rank: rank of this process, as for `augment`.
        world_size: number of processes.
    """
    if config.prob == 0:
        return pixels_BCHW
    faces_BHWC_u8 = preprocessing.denormalise(pixels_BCHW.float().cpu().numpy())
    batch = len(pixels_BCHW)
    drawn = config.draw(batch * world_size, pixels_BCHW.shape[3], generator)[rank::world_size]
    # All frames of a clip alike.
    changes = [each for each in drawn for _ in range(len(faces_BHWC_u8) // batch)]
    degraded = np.stack([change(face) for change, face in zip(changes, faces_BHWC_u8, strict=True)])
    clips = degraded.reshape(batch, -1, *degraded.shape[1:])
    return torch.from_numpy(preprocessing.normalise(clips)).to(pixels_BCHW)


def mix(pixels_BCHW: Tensor, target_BC: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend every face and its target with another one of the batch (mixup, Zhang et al., arXiv 1710.09412).

    Args:
        pixels_BCHW: faces.
        target_BC: target distributions over the classes.
        alpha: the blending weight is drawn from Beta(alpha, alpha); 0 disables mixup.
        generator: a CPU generator.
    """
    if alpha == 0:
        return pixels_BCHW, target_BC
    # Two Gamma(alpha) samples give a Beta sample; torch.distributions accepts no generator.
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = float(gammas[0] / gammas.sum())
    other = torch.randperm(len(pixels_BCHW), generator=generator).to(pixels_BCHW.device)
    return pixels_BCHW.lerp(pixels_BCHW[other], 1 - share), target_BC.lerp(target_BC[other], 1 - share)


def _per_image(values_B: Tensor, like_BCHW: Tensor) -> Tensor:
    return values_B.to(like_BCHW.device).view(-1, 1, 1, 1)


def _erase(pixels_BCHW: Tensor, config: AugmentConfig, draw: Callable[..., Tensor]) -> Tensor:
    height, width = pixels_BCHW.shape[2:]
    low, high = config.erase_side
    chosen = draw() < config.erase_prob
    side_y, side_x = (low + (high - low) * draw(2)).unbind()
    top, left = draw(2).unbind()
    top, left = top * (1 - side_y), left * (1 - side_x)
    value = draw() * 4 - 2
    y, x = torch.arange(height) / height, torch.arange(width) / width
    inside_y = (y >= top[:, None]) & (y < (top + side_y)[:, None])
    inside_x = (x >= left[:, None]) & (x < (left + side_x)[:, None])
    mask = (inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None])[:, None].to(pixels_BCHW.device)
    return torch.where(mask, _per_image(value, pixels_BCHW), pixels_BCHW)
