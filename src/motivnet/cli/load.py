"""Load a predictor as the commands want it."""

import os
from typing import TYPE_CHECKING, Any

from motivnet.cli.inputs import parse_size, parse_threshold

if TYPE_CHECKING:
    from motivnet.inference.predictor import Predictor


def load_predictor(
    model: str, *, size: str | None = None, abstain_below: str | None = None, **settings: Any
) -> "Predictor":
    """Load a model and a detector for work in threads.

    Args:
        model: as `Predictor.load` takes it, whose errors this has.
        size: as it was typed, such as 512x384.
        abstain_below: as it was typed: a probability, or `stored`.
        settings: other arguments of `Predictor.load`.
    """
    from motivnet.inference.predictor import Predictor

    calm_opencv()
    threshold = None if abstain_below is None else parse_threshold(abstain_below)
    image_size = parse_size(size) if size else None
    return Predictor.load(model, abstain_below=threshold, image_size=image_size, **settings)


def calm_opencv() -> None:
    """Leave OpenCV one thread, and silence it."""
    # Read when OpenCV is loaded; the function for it has another name in each version.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    # Our own threads work on one image each; OpenCV's would only get in their way.
    cv2.setNumThreads(1)
