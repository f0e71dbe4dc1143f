"""Write annotated copies of photographs."""

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motivnet.errors import OutputError
from motivnet.inference.draw import draw_faces
from motivnet.storage import write_bytes

if TYPE_CHECKING:
    from motivnet.inference.results import FaceResult

JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")


def plan_targets(sources: Sequence[Path], folder: Path, *, overwrite: bool) -> list[Path]:
    """Choose a file in `folder` for every photograph, and create the folder.

    JPEG stays JPEG, everything else becomes PNG. Repeated names get their folder's name as a prefix, or a number as a
    suffix.

    Raises:
        OutputError: if a file exists, is one of the photographs, or the folder cannot be created.
    """
    taken: set[str] = set()
    targets = []
    for source in sources:
        extension = source.suffix if source.suffix.lower() in JPEG_EXTENSIONS else ".png"
        target = folder / _unused_name(source, extension, taken)
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already; --overwrite replaces it")
        targets.append(target)
    originals = {source.resolve() for source in sources}
    for target in targets:
        if target.resolve() in originals:
            raise OutputError(f"{target}: is one of the photographs; annotate into another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror}") from None
    return targets


def _unused_name(source: Path, extension: str, taken: set[str]) -> str:
    numbered = (f"{source.stem}-{number}" for number in itertools.count(2))
    stems = itertools.chain([source.stem, f"{source.absolute().parent.name}-{source.stem}"], numbered)
    # Some file systems ignore case.
    name = next(name for stem in stems if (name := f"{stem}{extension}").casefold() not in taken)
    taken.add(name.casefold())
    return name


def write_annotated(image_hwc_u8: Any, faces: Iterable["FaceResult"], target: Path) -> None:
    """Draw the faces on an upright RGB image, uint8 (h, w, 3), and write it, completely or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    from PIL import Image

    is_jpeg = target.suffix.lower() in JPEG_EXTENSIONS
    buffer = io.BytesIO()
    drawn = draw_faces(Image.fromarray(image_hwc_u8), faces)
    drawn.save(buffer, **({"format": "JPEG", "quality": 92} if is_jpeg else {"format": "PNG"}))
    write_bytes(target, buffer.getvalue())
