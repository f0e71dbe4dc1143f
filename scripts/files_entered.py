"""Count the files of the package that a photograph, a video's frame and a training row pass through.

A file counts if one of its functions is called on the way; loading a model or reading a data set is not on the way.

    python scripts/files_entered.py
"""

import contextlib
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import skimage.io
from skimage import data

import motivnet

PACKAGE = Path(motivnet.__file__).parent


@contextlib.contextmanager
def files_entered() -> Iterator[set[str]]:
    """Yield a set that collects the files whose functions are called in the block, in any thread."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_name not in ("<module>", "__del__")
            and code.co_filename.startswith(str(PACKAGE))
        ):
            found.add(str(Path(code.co_filename).relative_to(PACKAGE)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def photograph(path: Path) -> set[str]:
    """Return the files from a photograph to its row."""
    from motivnet.inference.rows import to_rows

    predictor = motivnet.Predictor.load("nano")
    with files_entered() as found:
        for result in predictor.predict(path):
            list(to_rows(result))
    return found


def frame(folder: Path) -> set[str]:
    """Return the files from a frame of a video to its row."""
    from motivnet.frames.reader import Video
    from motivnet.inference.predictor import Predictor
    from motivnet.video.follow import follow
    from motivnet.video.writer import write_video

    with write_video(folder / "clip.mp4", fps=25) as write:
        for number in range(3):
            write(data.astronaut(), number / 25)
    predictor = Predictor.load("nano")
    with files_entered() as found, Video(folder / "clip.mp4") as video:
        for result in follow(predictor, video):
            list(result.rows({"source": "clip.mp4"}))
    return found


def training_row(folder: Path) -> set[str]:
    """Return the files from a row of a manifest to a step of the optimizer, callbacks included."""
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
    from PIL import Image

    from motivnet.data.manifest import make_manifest
    from motivnet.labels import EMOTIONS

    entered: set[str] = set()
    advance = _TrainingEpochLoop.advance

    def watched(loop: Any, fetcher: Any) -> None:
        with files_entered() as found:
            advance(loop, fetcher)
        entered.update(found)

    images = []
    for value in range(56):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(48 * 48, dtype=np.int64).reshape(48, 48).astype(np.uint8) + value).save(buffer, "PNG")
        images.append(buffer.getvalue())
    labels = [label for label in EMOTIONS for _ in range(8)]
    manifest = make_manifest({"image": images, "label": labels, "split": ["Training", "PublicTest"] * 28})
    settings = {"run.epochs": 1, "run.batch_size": 4, "run.accumulate": 1, "run.num_workers": 0}
    _TrainingEpochLoop.advance = watched  # type: ignore[method-assign]
    motivnet.fit("mini-fer2013", manifest, folder / "run", overrides=settings, progress=False)
    return entered


def main() -> None:
    """Print the counts and the files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        skimage.io.imsave(folder / "astronaut.png", data.astronaut())
        ways = {
            "photograph to row": photograph(folder / "astronaut.png"),
            "frame to row": frame(folder),
            "training row to step": training_row(folder),
        }
    for way, found in ways.items():
        print(f"{way}: {len(found)} files: {', '.join(sorted(found))}")


if __name__ == "__main__":
    main()
