"""ExpW, the Expression in-the-Wild data set: photographs with one or more marked faces.

```
label/label.lst                 "angry_actor_104.jpg 0 28 113 226 141 22.9362 0"
image/origin/angry_actor_104.jpg
```

The cells of `label.lst` are name, face in the image, top, left, right, bottom, confidence of the detector, and
expression: 0 to 6 in FER-2013's order. Nothing here marks whole splits or people.

Zhang et al., "From Facial Expression Recognition to Interpersonal Relation Prediction", IJCV 126, 2018.
"""

from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import WILD, Rows, absolute, first_folder, image_path, make_box, number, read_lines
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, FER2013_ORDER

CELLS = ("name", "face", "top", "left", "right", "bottom", "confidence", "expression")
LIST_NAMES = ("label/label.lst", "label.lst")
IMAGE_FOLDERS = ("image/origin", "data/image/origin", "origin", "image")


def read_expw(path: Path, *, min_confidence: float | None = None, root: Path | None = None) -> Manifest:
    """Read ExpW, as one split `all`: a row a face, with its box.

    Args:
        path: the folder of the data set, or its `label.lst`.
        min_confidence: faces that the detector was less sure of are left out, and counted; None: none.
        root: the folder that image names are relative to; None: `image/origin`, found beside the list.

    Raises:
        DataError: naming file and row of what is not as published.
    """
    file, folder = path, path.parent.parent if path.parent.name == "label" else path.parent
    if path.is_dir():
        file, folder = next((path / name for name in LIST_NAMES if (path / name).is_file()), path / LIST_NAMES[0]), path
    images = absolute(root or first_folder(folder, *IMAGE_FOLDERS) or folder)
    rows = Rows(file, EMOTIONS)
    for row, cells in read_lines(file):
        where = f"{file}, row {row}"
        if len(cells) != len(CELLS):
            raise DataError(f"{where}: {len(cells)} cells. Allowed: {', '.join(CELLS)}")
        top, left, right, bottom, confidence = (
            number(cell, where, name) for cell, name in zip(cells[2:7], CELLS[2:7], strict=True)
        )
        code = cells[7]
        if not code.isdecimal() or int(code) >= len(FER2013_ORDER):
            raise DataError(f"{where}: expression {code!r}. Allowed: 0 to {len(FER2013_ORDER) - 1}")
        if min_confidence is not None and confidence < min_confidence:
            rows.dropped[f"confidence below {min_confidence:g}"] += 1
            continue
        rows.add(
            path=image_path(images, cells[0], where),
            label=str(FER2013_ORDER[int(code)]),
            split="all",
            box=make_box(left, top, right - left, bottom - top, where),
            groups=[WILD],
            row=row,
        )
    return rows.manifest()
