"""What a prediction is: one result per image, with one entry per face. Nothing is ever dropped."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from motivnet.errors import ImageError
from motivnet.images import ImageLimits, decode_image
from motivnet.inference.rows import face_columns
from motivnet.preprocess import Box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Kept = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray

Status = Literal["ok", "no_face", "unreadable"]

# Below this many pixels there is little to see: such a face is reported all the same, and marked.
TINY_SIDE_PX = 24
# Of numbers in JSON; all others have four.
DECIMALS = {"x": 2, "y": 2, "width": 2, "height": 2, "prob": 6}


@dataclasses.dataclass(frozen=True, slots=True)
class FaceResult:
    """One face and its emotion.

    Args:
        box: the face, in pixels of the upright image; may reach beyond it.
        face_score: the detector's confidence, 0 to 1.
        emotion: the most probable label.
        probs: probability of every label, in label order; they sum to 1.
        abstained: the emotion's probability is below the threshold that was asked for: take it for no answer.
        valence: how pleasant the feeling is, from -1 to 1; None if the model does not tell.
        arousal: how excited, from -1 to 1; None if the model does not tell.
    """

    box: Box
    face_score: float
    emotion: str
    probs: dict[str, float]
    abstained: bool = False
    valence: float | None = None
    arousal: float | None = None

    @property
    def prob(self) -> float:
        """The probability of `emotion`."""
        return self.probs[self.emotion]

    @property
    def tiny(self) -> bool:
        """Whether the face is so small that its emotion is little more than a guess."""
        return min(self.box.width, self.box.height) < TINY_SIDE_PX

    def top(self, k: int) -> list[tuple[str, float]]:
        """Give the `k` most probable labels with their probabilities, best first."""
        return sorted(self.probs.items(), key=lambda item: -item[1])[:k]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, named like the columns of a table; valence and arousal may be None."""
        columns = {
            name: round(value, DECIMALS.get(name, 4)) if isinstance(value, float) else value
            for name, value in face_columns(self).items()
        }
        return columns | {"probs": {label: round(prob, DECIMALS["prob"]) for label, prob in self.probs.items()}}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """What became of one input.

    Args:
        source: its path or URL, or `<kind position>` for what has none, such as `<bytes 3>`.
        status: `ok`: at least one face; `no_face`: a good image without one; `unreadable`: see `error`.
        error: why it could not be read; None otherwise.
        model: name of the model.
        preprocessing: fingerprint of the preprocessing that the faces went through.
        width: of the upright image, in pixels; None if unreadable.
        height: of the upright image, in pixels; None if unreadable.
        faces: largest first.
        image: where the pixels can be had again, for `picture`: the path, the bytes of the file, or an RGB array; None
            if the predictor was not asked to keep it. Neither compared nor written anywhere.
    """

    source: str
    status: Status
    error: str | None = None
    model: str
    preprocessing: str
    width: int | None = None
    height: int | None = None
    faces: tuple[FaceResult, ...] = ()
    image: "Kept | None" = dataclasses.field(default=None, repr=False, compare=False)

    def picture(self) -> np.ndarray:
        """Decode the image again.

        Returns:
            The upright RGB image, uint8 (height, width, 3), in whose pixels the boxes of the faces are.

        Raises:
            ImageError: if it was not kept, could not be read, or the file has gone or changed since.
        """
        if self.image is None or self.width is None or self.height is None:
            raise ImageError(f"{self.source}: {self.error or 'its image was not kept; stream(keep_images=True) does'}")
        # What has been decoded once is not too large now.
        image_hwc_u8 = decode_image(self.image, limits=ImageLimits(max_pixels=self.width * self.height))
        if image_hwc_u8.shape[:2] != (self.height, self.width):
            raise ImageError(f"{self.source}: has changed since it was read")
        return image_hwc_u8

    def plot(self) -> "Figure":
        """Draw the image with its faces, and bars of their probabilities; see `motivnet.inference.plot`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        from motivnet.inference.plot import plot_results

        return plot_results([self])

    def _repr_html_(self) -> str:
        from motivnet.inference.html import to_html

        return to_html([self])

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {
            "source": self.source,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "preprocessing": self.preprocessing,
            "faces": [{"face": number, **face.to_dict()} for number, face in enumerate(self.faces)],
        }
