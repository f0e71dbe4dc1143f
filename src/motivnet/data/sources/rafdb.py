"""RAF-DB, the basic emotions, with the annotated attributes of every face.

```
basic/EmoLabel/list_patition_label.txt                  "train_00001.jpg 5", 1 to 7 in RAFDB_ORDER
basic/Image/aligned/train_00001_aligned.jpg             100x100 faces
basic/Image/original/train_00001.jpg                    the photographs
basic/Annotation/manual/train_00001_manu_attri.txt      5 lines of landmarks, then gender, race and age
basic/Annotation/boundingbox/train_00001_boundingbox.txt  left, top, right, bottom in the photograph
```

Li et al., "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the Wild",
CVPR 2017; the codes are those of the data set's readme.
"""

from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources import records
from motivnet.errors import DataError, require
from motivnet.labels import EMOTIONS, RAFDB_ORDER

LIST_NAME = "EmoLabel/list_patition_label.txt"
NUM_LANDMARKS = 5
ATTRIBUTES = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}


def read_rafdb(path: Path, *, images: Literal["aligned", "original"] = "aligned") -> Manifest:
    """Read RAF-DB's basic emotions, as splits `train` and `test`.

    Gender, race and age become groups if `Annotation/manual` exists, and original photographs get boxes if
    `Annotation/boundingbox` exists.

    Args:
        path: the folder `basic`, or the one that contains it.
        images: aligned faces, or original photographs.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    root = path / "basic" if (path / "basic").is_dir() else path
    file = root / LIST_NAME
    rows = records.Rows(file, EMOTIONS)
    folder = records.absolute(root / "Image" / images)
    manual, boxes = root / "Annotation" / "manual", root / "Annotation" / "boundingbox"
    has_attributes, has_boxes = manual.is_dir(), images == "original" and boxes.is_dir()
    for row, cells in records.read_lines(file):
        where = f"{file}, row {row}"
        require(len(cells) == 2, f"{where}: {len(cells)} cells. Allowed: a file name and a label", DataError)
        name, code = cells
        stem, dot, suffix = name.rpartition(".")
        split = stem.partition("_")[0]
        if split not in ("train", "test") or not dot:
            raise DataError(f"{where}: {name!r}. Allowed: names such as train_00001.jpg and test_0001.jpg")
        rows.add(
            path=records.image_path(folder, f"{stem}_aligned.{suffix}" if images == "aligned" else name, where),
            label=records.label_of_code(code, RAFDB_ORDER, where, "label", first=1),
            split=split,
            box=_read_box(boxes / f"{stem}_boundingbox.txt") if has_boxes else None,
            groups=[*(_read_attributes(manual / f"{stem}_manu_attri.txt") if has_attributes else ()), records.WILD],
            row=row,
        )
    return rows.manifest()


def _read_attributes(file: Path) -> list[tuple[str, str]]:
    lines = list(records.read_lines(file))
    codes = lines[NUM_LANDMARKS:]
    if len(codes) != len(ATTRIBUTES) or any(len(cells) != 1 for _, cells in codes):
        raise DataError(f"{file}: {len(lines)} lines. Allowed: 5 of landmarks, then one code each of gender, race, age")
    return [
        (name, records.label_of_code(code, values, f"{file}, row {row}", name))
        for (name, values), (row, (code,)) in zip(ATTRIBUTES.items(), codes, strict=True)
    ]


def _read_box(file: Path) -> records.Box:
    cells = [cell for _, line in records.read_lines(file) for cell in line]
    require(len(cells) == 4, f"{file}: {len(cells)} numbers. Allowed: left, top, right, bottom", DataError)
    return records.make_box(cells, records.EDGES, str(file))
