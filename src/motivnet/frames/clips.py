"""Clips: stretches of a video, or folders of frames, of which a few evenly spaced frames are read.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.errors import ConfigError, ImageError, needs_extra
from motivnet.frames.reader import Video
from motivnet.frames.selection import Selection, is_video
from motivnet.image_files import IMAGE_SUFFIXES, walk_images
from motivnet.images import ImageLimits, decode_image


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of a video, or a folder of frames in the order of their names.

    Args:
        path: the file, or the folder.
        start_s: start of the stretch, in seconds; 0 for a folder.
        end_s: its end; None: that of the video, and for a folder.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None

    def __str__(self) -> str:
        return f"{self.path} from {self.start_s:g} s" if self.start_s else self.path

    def files(self) -> list[Path]:
        """Return the file of the video, or those of the frames.

        Raises:
            ImageError: if a folder holds no frames.
        """
        if not os.path.isdir(self.path):  # noqa: PTH112 - a name may be too long for Path.is_dir
            return [Path(self.path)]
        if files := walk_images(Path(self.path))[0]:
            return files
        raise ImageError(f"{self.path}: a clip without frames. Allowed: a video, or a folder of images")

    def read(self, num_frames: int, *, limits: ImageLimits | None = None) -> list[np.ndarray]:
        """Read the frames that are shown in the middle of `num_frames` parts of the same length.

        A clip of fewer frames shows some of them several times.

        Args:
            num_frames: how many.
            limits: of a frame; None takes the defaults.

        Returns:
            Upright RGB frames, uint8 (h, w, 3).

        Raises:
            ImageError: if the clip is missing, damaged, or has no frame.
            MissingExtraError: if PyAV is not installed, for a video.
        """
        files, parts = self.files(), np.arange(num_frames) + 0.5
        if files != [Path(self.path)]:
            places = (parts * len(files) / num_frames).astype(int)
            return [decode_image(files[place], limits=limits) for place in places]
        with needs_extra("av", "video"):
            import av  # noqa: F401
        shown: list[np.ndarray] = []
        image: Any = None
        try:
            selection = Selection(start_s=self.start_s, end_s=self.end_s)
            with Video(self.path, selection, limits=limits) as video:
                end_s = self.end_s or video.info.duration_s or 0.0
                end_s = end_s if end_s > self.start_s else max(frame.time_s for frame in video)
            due_s = self.start_s + parts * (end_s - self.start_s) / num_frames
            with Video(self.path, selection, limits=limits) as video:
                for frame in video:
                    while image is not None and len(shown) < num_frames and frame.time_s > due_s[len(shown)]:
                        shown.append(image)
                    image = frame.image_hwc_u8
        except ConfigError as error:
            raise ImageError(str(error)) from None
        return shown + [image] * (num_frames - len(shown))


def is_clip(path: str) -> bool:
    """Tell whether this is a video, by its name, or a folder."""
    return is_video(path) or (not path.lower().endswith(IMAGE_SUFFIXES) and os.path.isdir(path))  # noqa: PTH112
