"""RAF-DB, its basic emotions, with the attributes that its annotators gave every face.

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
from motivnet.data.sources.records import WILD, Box, Rows, absolute, image_path, make_box, number, read_lines
from motivnet.errors import DataError
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

    Gender, race and age become groups where `Annotation/manual` is there, and original photographs get boxes where
    `Annotation/boundingbox` is.

    Args:
        path: the folder `basic`, or the one that holds it.
        images: aligned faces, or original photographs.

    Raises:
        DataError: naming the file and row of what is not as published.
    """
    root = path / "basic" if (path / "basic").is_dir() else path
    file = root / LIST_NAME
    rows = Rows(file, EMOTIONS)
    folder = absolute(root / "Image" / images)
    manual, boxes = root / "Annotation" / "manual", root / "Annotation" / "boundingbox"
    has_attributes, has_boxes = manual.is_dir(), images == "original" and boxes.is_dir()
    for row, cells in read_lines(file):
        where = f"{file}, row {row}"
        if len(cells) != 2:
            raise DataError(f"{where}: {len(cells)} cells. Allowed: a file name and a label")
        name, code = cells
        if not code.isdecimal() or not 1 <= int(code) <= len(RAFDB_ORDER):
            raise DataError(f"{where}: label {code!r}. Allowed: 1 to {len(RAFDB_ORDER)}")
        stem, dot, suffix = name.rpartition(".")
        split = stem.partition("_")[0]
        if split not in ("train", "test") or not dot:
            raise DataError(f"{where}: {name!r}. Allowed: names such as train_00001.jpg and test_0001.jpg")
        rows.add(
            path=image_path(folder, f"{stem}_aligned.{suffix}" if images == "aligned" else name, where),
            label=str(RAFDB_ORDER[int(code) - 1]),
            split=split,
            box=_read_box(boxes / f"{stem}_boundingbox.txt") if has_boxes else None,
            groups=[*(_read_attributes(manual / f"{stem}_manu_attri.txt") if has_attributes else ()), WILD],
            row=row,
        )
    return rows.manifest()


def _read_attributes(file: Path) -> list[tuple[str, str]]:
    lines = list(read_lines(file))
    codes = lines[NUM_LANDMARKS:]
    if len(codes) != len(ATTRIBUTES) or any(len(cells) != 1 for _, cells in codes):
        raise DataError(f"{file}: {len(lines)} lines. Allowed: 5 of landmarks, then one code each of gender, race, age")
    groups = []
    for (name, values), (row, (code,)) in zip(ATTRIBUTES.items(), codes, strict=True):
        if not code.isdecimal() or int(code) >= len(values):
            raise DataError(f"{file}, row {row}: {name} {code!r}. Allowed: 0 to {len(values) - 1}")
        groups.append((name, values[int(code)]))
    return groups


def _read_box(file: Path) -> Box:
    cells = [cell for _, line in read_lines(file) for cell in line]
    if len(cells) != 4:
        raise DataError(f"{file}: {len(cells)} numbers. Allowed: left, top, right, bottom")
    left, top, right, bottom = (number(cell, str(file), "edge of the box") for cell in cells)
    return make_box(left, top, right - left, bottom - top, str(file))
