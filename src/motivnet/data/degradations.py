"""What cameras, networks and light do to a face: blur, low resolution, JPEG, gain and gamma.

For training (`DegradeConfig`) and for measuring how robust a model is (`DEGRADATIONS`). By OpenCV and not by torchvision
or albumentations: it is part of the core, and measures without torch.

Shape suffixes: h height, w width, c channels; B images, C channels, H height, W width.
"""

import dataclasses

import cv2
import numpy as np
import torch
from torch import Tensor

from motivnet.errors import ConfigError
from motivnet.preprocess import Preprocessing

# Blur is stated in pixels of a face of this side, so that it means the same for faces of all sizes.
REFERENCE_SIDE = 48


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """A degradation of one face; the defaults change nothing.

    Args:
        gain: factor of all values, which are clipped at white.
        gamma: exponent of all values, on a scale from 0 to 1, after the gain.
        blur: standard deviation of a Gaussian, in pixels of a face that is 48 pixels wide.
        side: width and height that the face is reduced to, in pixels; faces that are smaller stay. None: its own.
        quality: of JPEG, at the reduced size, from 1 to 100; None: no JPEG.
    """

    gain: float = 1.0
    gamma: float = 1.0
    blur: float = 0.0
    side: int | None = None
    quality: int | None = None

    def __call__(self, face_hwc_u8: np.ndarray) -> np.ndarray:
        """Degrade a face, uint8 (h, w, c) with one or three channels; the result has the same shape."""
        height, width, _ = face_hwc_u8.shape
        face = face_hwc_u8
        if (self.gain, self.gamma) != (1.0, 1.0):
            scale = np.clip(np.arange(256) / 255 * self.gain, 0, 1) ** self.gamma
            face = cv2.LUT(face, np.rint(255 * scale).astype(np.uint8))
        if self.blur:
            face = cv2.GaussianBlur(face, (0, 0), self.blur * width / REFERENCE_SIDE)
        small = self.side is not None and self.side < max(height, width)
        if self.side is not None and small:
            face = cv2.resize(face, (self.side, self.side), interpolation=cv2.INTER_AREA)
        if self.quality is not None:
            _, encoded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            face = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if small:
            face = cv2.resize(face, (width, height), interpolation=cv2.INTER_CUBIC)
        return face.reshape(face_hwc_u8.shape)


# One of each kind, by the name that tables show.
DEGRADATIONS = {
    "blur 1 px": Degradation(blur=1.0),
    "24 px": Degradation(side=24),
    "JPEG 20": Degradation(quality=20),
    "gain 1.6": Degradation(gain=1.6),
    "gain 0.5": Degradation(gain=0.5),
    "gamma 2": Degradation(gamma=2.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DegradeConfig:
    """Random degradations of training faces.

    Args:
        prob: probability of each kind, independently of the others; 0 degrades nothing.
        gain: largest factor of light; the smallest is its inverse.
        gamma: largest exponent; the smallest is its inverse.
        blur: largest standard deviation, in pixels of a face that is 48 pixels wide.
        side: smallest width and height that a face is reduced to, in pixels.
        quality: lowest quality of JPEG.
    """

    prob: float = 0.0
    gain: float = 2.0
    gamma: float = 1.8
    blur: float = 1.5
    side: int = 20
    quality: int = 10

    def __post_init__(self) -> None:
        """Check ranges; ConfigError."""
        checks = {
            f"prob must be from 0 to 1, not {self.prob}": 0 <= self.prob <= 1,
            f"gain and gamma must be at least 1, not {self.gain} and {self.gamma}": min(self.gain, self.gamma) >= 1,
            f"blur must not be negative, found {self.blur}": self.blur >= 0,
            f"side must be at least 4 pixels, not {self.side}": self.side >= 4,
            f"quality must be from 1 to 95, not {self.quality}": 1 <= self.quality <= 95,
        }
        for rule, holds in checks.items():
            if not holds:
                raise ConfigError(f"degrade: {rule}")

    def draw(self, count: int, side: int, generator: torch.Generator) -> list[Degradation]:
        """Draw the degradations of `count` faces of `side` pixels."""
        # The kinds: light, blur, resolution, JPEG; then the strengths.
        chosen = (torch.rand(4, count, generator=generator) < self.prob).T.tolist()
        strengths = torch.rand(5, count, generator=generator).T.tolist()
        drawn = []
        for (light, blurred, reduced, packed), (gain, gamma, blur, size, quality) in zip(
            chosen, strengths, strict=True
        ):
            drawn.append(
                Degradation(
                    gain=self.gain ** (2 * gain - 1) if light else 1.0,
                    gamma=self.gamma ** (2 * gamma - 1) if light else 1.0,
                    blur=self.blur * blur if blurred else 0.0,
                    # Most faces of the web were packed at a smaller size than the model's.
                    side=round(self.side + size * max(0, side - self.side)) if reduced or packed else None,
                    quality=round(self.quality + quality * (95 - self.quality)) if packed else None,
                )
            )
        return drawn


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
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    faces_BHWC = pixels_BCHW.float().permute(0, 2, 3, 1).cpu().numpy() * std + mean
    faces_BHWC_u8 = np.clip(np.rint(faces_BHWC), 0, 255).astype(np.uint8)
    drawn = config.draw(len(faces_BHWC_u8) * world_size, pixels_BCHW.shape[3], generator)[rank::world_size]
    degraded = [change(face) for change, face in zip(drawn, faces_BHWC_u8, strict=True)]
    return torch.from_numpy(preprocessing.normalise(np.stack(degraded))).to(pixels_BCHW)
