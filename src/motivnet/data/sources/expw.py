"""ExpW, the Expression in-the-Wild data set: photographs with one or more marked faces.

```
label/label.lst                 "angry_actor_104.jpg 0 28 113 226 141 22.9362 0"
image/origin/angry_actor_104.jpg
```

The cells of `label.lst` are name, face in the image, top, left, right, bottom, confidence of the detector, and
expression: 0 to 6 in FER-2013's order. Neither splits nor subjects are published.

Zhang et al., "From Facial Expression Recognition to Interpersonal Relation Prediction", IJCV 126, 2018.
"""

from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources import records
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, FER2013_ORDER

CELLS = ("name", "face", "top", "left", "right", "bottom", "confidence", "expression")
LIST_NAMES = ("label/label.lst", "label.lst")
IMAGE_FOLDERS = ("image/origin", "data/image/origin", "origin", "image")


def read_expw(path: Path, *, min_confidence: float | None = None, root: Path | None = None) -> Manifest:
    """Read ExpW, as one split `all`, with one row per face and its box.

    Args:
        path: the folder of the data set, or its `label.lst`.
        min_confidence: faces of a lower detector confidence are left out and counted; None: none.
        root: the folder that image names are relative to; None: `image/origin`, found next to the list.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    file, folder = path, path.parent.parent if path.parent.name == "label" else path.parent
    if path.is_dir():
        file, folder = next((path / name for name in LIST_NAMES if (path / name).is_file()), path / LIST_NAMES[0]), path
    images = records.absolute(root or records.first_folder(folder, *IMAGE_FOLDERS) or folder)
    rows = records.Rows(file, EMOTIONS)
    for row, cells in records.read_lines(file):
        where = f"{file}, row {row}"
        if len(cells) != len(CELLS):
            raise DataError(f"{where}: {len(cells)} cells. Allowed: {', '.join(CELLS)}")
        name, _, top, left, right, bottom, score, code = cells
        label = records.label_of_code(code, FER2013_ORDER, where, "expression")
        confidence = records.number(score, where, "confidence")
        if min_confidence is not None and confidence < min_confidence:
            rows.dropped[f"confidence below {min_confidence:g}"] += 1
            continue
        rows.add(
            path=records.image_path(images, name, where),
            label=label,
            split="all",
            box=records.make_box((left, top, right, bottom), records.EDGES, where),
            groups=[records.WILD],
            row=row,
        )
    return rows.manifest()
