"""Find cuts: frames at which the picture of a video becomes another one.

Each decoded frame is reduced to 16 x 16 grey pixels and correlated with the frame before. Correlation ignores
brightness and contrast, so flashes and fades are no cuts; and movement, which lasts, is told from a cut by the
correlation just before. A blank picture, as between two fades, is passed over: the one after it is compared with the
one before it. A dissolve from one shot into another is not found.

PySceneDetect, the known package, thresholds the difference of colours, which a flash exceeds; and it brings a second
build of OpenCV.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame

# What a frame is after those before it: the same shot, one in which faces have to be searched again, or a new shot.
SAME, UNCERTAIN, CUT = range(3)

SIDE = 16
# A picture whose grey values deviate less from their mean is blank.
BLANK_DEVIATION = 3.0
# One minus the correlation at a cut, as a minimum, and as a multiple of that at the frame before.
MIN_CHANGE, MIN_RATIO = 0.3, 3.0


class Picture(NamedTuple):
    """A frame, as the next one is compared with it; plain data.

    Attributes:
        thumbnail: grey values of the last frame that was not blank.
        change: how much it differed from the one before.
        blank: whether the frame is blank.
        jump: `SAME`, `UNCERTAIN` or `CUT`.
    """

    thumbnail: list[int] | None = None
    change: float = 0.0
    blank: bool = False
    jump: int = SAME


def compare(before: Picture | None, frame: "VideoFrame") -> Picture:
    """Compare a frame with the one before.

    Args:
        before: of the frame before; None for the first.
        frame: any.
    """
    small: Any = frame.reformat(SIDE, SIDE, "gray", interpolation="AREA")
    thumbnail = small.to_ndarray()
    before = before or Picture()
    if thumbnail.std() < BLANK_DEVIATION:
        return before._replace(blank=True, jump=UNCERTAIN)
    listed = thumbnail.ravel().tolist()
    if before.thumbnail is None:
        return Picture(listed, jump=UNCERTAIN)
    change = 1 - float(np.corrcoef(listed, before.thumbnail)[0, 1])
    if change > max(MIN_CHANGE, MIN_RATIO * before.change):
        return Picture(listed, jump=CUT)
    return Picture(listed, change, jump=UNCERTAIN if before.blank else SAME)
