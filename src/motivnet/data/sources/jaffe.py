"""JAFFE: 213 photographs of ten Japanese women, with subject and emotion in the file names.

`KA.AN1.39.tiff` is subject KA, anger, her first photograph of it, number 39 of all. Copies as .jpg or .png are read,
too.

Lyons et al., "Coding Facial Expressions with Gabor Wavelets", FG 1998, arXiv 2009.05938.
"""

import re
from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import images_in
from motivnet.data.sources.records import POSED, Rows
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS

NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d+\.\d+")
CODES = {label[:2].upper(): label for label in sorted(EMOTIONS)}


def read_jaffe(path: Path) -> Manifest:
    """Read JAFFE, as one split `all`: no splits are published.

    Args:
        path: the folder of the images.

    Raises:
        DataError: if an image's name differs from the published form.
    """
    rows = Rows(path, EMOTIONS)
    for file in images_in(path, rows.dropped):
        match = NAME.fullmatch(file.stem)
        if not match or match[2] not in CODES:
            example = f"such as KA.AN1.39.tiff, EMOTION one of {', '.join(CODES)}"
            raise DataError(f"{file}: the name is not SUBJECT.EMOTION.NUMBER, {example}")
        rows.add(path=str(file), label=CODES[match[2]], split="all", subject=match[1], groups=[POSED])
    return rows.manifest()
