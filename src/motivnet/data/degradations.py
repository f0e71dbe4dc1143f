"""What cameras, networks and light do to a face: blur, low resolution, JPEG, gain and gamma.

By OpenCV and not torchvision or albumentations, since it is part of the core.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses

import cv2
import numpy as np

# Blur is stated in pixels of a face of this side, so that it means the same for faces of all sizes.
REFERENCE_SIDE = 48


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """A degradation of one face; the defaults change nothing.

    Args:
        gain: factor of all values, which are clipped at white.
        gamma: exponent of all values, on a scale from 0 to 1, after the gain.
        blur: standard deviation of a Gaussian, in pixels of a face that is 48 pixels wide.
        side: longer side that the face is reduced to, in pixels; faces that are smaller stay. None: its own.
        quality: of JPEG, at the reduced size, from 1 to 100; None: no JPEG.
    """

    gain: float = 1.0
    gamma: float = 1.0
    blur: float = 0.0
    side: int | None = None
    quality: int | None = None

    def __call__(self, face_hwc_u8: np.ndarray, face_px: float | None = None) -> np.ndarray:
        """Degrade a face, uint8 (h, w, c) with one or three channels; the result has the same shape.

        Args:
            face_hwc_u8: the face, possibly with a margin.
            face_px: longer side of the face without the margin, in pixels; None: there is no margin.
        """
        height, width, _ = face_hwc_u8.shape
        face: np.ndarray = face_hwc_u8
        side_px = face_px or max(height, width)
        if (self.gain, self.gamma) != (1.0, 1.0):
            scale = np.clip(np.arange(256) / 255 * self.gain, 0, 1) ** self.gamma
            face = cv2.LUT(face, np.rint(255 * scale).astype(np.uint8))
        if self.blur:
            face = cv2.GaussianBlur(face, (0, 0), self.blur * side_px / REFERENCE_SIDE)
        small = self.side is not None and self.side < side_px
        if self.side is not None and small:
            reduced = [max(1, round(length * self.side / side_px)) for length in (width, height)]
            face = cv2.resize(face, reduced, interpolation=cv2.INTER_AREA)
        if self.quality is not None:
            # Its order of colours is OpenCV's; of a single channel, OpenCV's results have two axes.
            swapped = face[..., ::-1] if face.ndim == 3 else face
            _, encoded = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            face = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
            face = face[..., ::-1] if face.ndim == 3 else face
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
