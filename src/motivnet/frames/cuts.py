"""Find cuts: frames at which the picture of a video becomes another one.

Each decoded frame is reduced to 16 x 16 grey pixels and correlated with the frame before. Correlation ignores
brightness and contrast, so flashes and fades are no cuts; and movement, which lasts, is told from a cut by the
correlation just before. A blank picture, as between two fades, is passed over: the one after it is compared with the
one before it. A dissolve from one shot into another is not found.

PySceneDetect, the known package, thresholds the difference of colours, which a flash exceeds; and it brings a second
build of OpenCV.
"""

import math
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from av import VideoFrame

# What a frame is after those before it: the same shot, one in which faces have to be searched again, or a new shot.
SAME, UNCERTAIN, CUT = range(3)

SIDE = 16
# A picture whose grey values deviate less from their mean is blank.
BLANK_DEVIATION = 3.0
# One minus the correlation at a cut, as a minimum, and as a multiple of that at the frame before.
MIN_CHANGE, MIN_RATIO = 0.3, 3.0
# What stands for the frame before where there is none in the same shot, as the shot may begin with much movement.
FIRST_CHANGE = 0.2


class Picture(NamedTuple):
    """A frame, as the next one is compared with it; plain data.

    Attributes:
        thumbnail: grey values of the last frame that was not blank, less their mean, of length 1.
        change: how much it differed from the one before.
        blank: whether the frame is blank.
        jump: `SAME`, `UNCERTAIN` or `CUT`.
    """

    thumbnail: list[float] | None = None
    change: float = FIRST_CHANGE
    blank: bool = False
    jump: int = SAME


def compare(before: Picture | None, frame: "VideoFrame") -> Picture:
    """Compare a frame with the one before.

    Args:
        before: of the frame before; None for the first.
        frame: any.
    """
    small: Any = frame.reformat(SIDE, SIDE, "gray", interpolation="AREA")
    grey = small.to_ndarray().ravel()
    grey = grey - grey.mean()
    length = math.sqrt(grey @ grey)
    before = before or Picture()
    if length < BLANK_DEVIATION * SIDE:
        return before._replace(blank=True, jump=UNCERTAIN)
    thumbnail = (grey / length).tolist()
    if before.thumbnail is None:
        return Picture(thumbnail, jump=UNCERTAIN)
    change = 1 - sum(map(operator.mul, thumbnail, before.thumbnail))
    if change > max(MIN_CHANGE, MIN_RATIO * before.change):
        return Picture(thumbnail, jump=CUT)
    return Picture(thumbnail, change, jump=UNCERTAIN if before.blank else SAME)
