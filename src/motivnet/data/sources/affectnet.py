"""AffectNet, its manually annotated part, in both of its forms.

The first release is two lists and a tree of photographs:

```
Manually_Annotated_file_lists/training.csv, validation.csv
Manually_Annotated_Images/689/737db2483489148d783ef278f43f486c0a97e140fc4b6b61b84363ca.jpg
```

with the columns of COLUMNS. `training.csv` has a header, `validation.csv` has none. `expression` is 0 to 7 for the
emotions, 8 none, 9 uncertain, 10 non-face; valence and arousal are from -1 to 1, and -2 where there are none.

The later release has faces cut out already, and a file for every value:

```
train_set/images/0.jpg, annotations/0_exp.npy, 0_val.npy, 0_aro.npy, 0_lnd.npy
val_set/...
```

Landmarks are not read: the manifest has no place for them.

Mollahosseini et al., "AffectNet", IEEE Transactions on Affective Computing 10(1), 2019, arXiv 1708.03985.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import (
    WILD,
    Box,
    Rows,
    absolute,
    first_folder,
    image_path,
    make_box,
    number,
    read_records,
)
from motivnet.errors import DataError
from motivnet.images import IMAGE_SUFFIXES
from motivnet.labels import EMOTIONS, WITH_CONTEMPT

BOX_COLUMNS = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX_COLUMNS, "facial_landmarks", "expression", "valence", "arousal")
NO_EMOTION = {"8": "expression none", "9": "expression uncertain", "10": "expression non-face"}
# AffectNet numbers the emotions in our order, which is that of the paper.
CODES = {str(code): label for code, label in enumerate(WITH_CONTEMPT)}

LISTS = {"training": "train", "validation": "val"}
LIST_FOLDERS = (".", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists")
IMAGE_FOLDERS = (
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated_compressed/Manually_Annotated_Images",
)
SETS = {"train_set": "train", "val_set": "val"}


def read_affectnet(path: Path, *, classes: Literal[7, 8] = 8, root: Path | None = None) -> Manifest:
    """Read AffectNet, as splits `train` and `val`.

    Args:
        path: the folder of the data set, or one of its CSV files.
        classes: 8 with contempt, or 7, which leaves contempt out and counts it.
        root: of the first release: the folder that image names are relative to; None: found beside the lists.

    Raises:
        DataError: naming file and row of what is not as published.
    """
    rows = Rows(path, WITH_CONTEMPT)
    lists, sets = _find_lists(path), [name for name in SETS if (path / name).is_dir()]
    if lists and sets:
        raise DataError(f"{path}: both {lists[0]} and {path / sets[0]}. Allowed: one release of AffectNet, by its path")
    if not lists and not sets:
        raise DataError(f"{path}: no AffectNet. Allowed: training.csv or validation.csv, or train_set or val_set")
    if sets and root is not None:
        raise DataError(f"{path}: option root is for the CSV lists, whose images may lie elsewhere")
    for file in lists:
        _add_list(rows, file, absolute(root or _image_root(path)))
    for name in sets:
        _add_set(rows, path / name, SETS[name])
    manifest = rows.manifest()
    return manifest if classes == 8 else manifest.restrict(EMOTIONS)


def _find_lists(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return next(
        (
            found
            for folder in LIST_FOLDERS
            if (found := [f for n in LISTS if (f := path / folder / f"{n}.csv").is_file()])
        ),
        [],
    )


def _image_root(path: Path) -> Path:
    starts = [path.parent, path.parent.parent] if path.is_file() else [path]
    return next((found for start in starts if (found := first_folder(start, *IMAGE_FOLDERS))), starts[0])


def _add_list(rows: Rows, file: Path, root: str) -> None:
    split = LISTS.get(file.stem, file.stem)
    groups = [WILD]
    for row, cells in read_records(file, COLUMNS, header=COLUMNS):
        where = f"{file}, row {row}"
        code = cells["expression"].strip().removesuffix(".0")
        if code in NO_EMOTION:
            rows.dropped[NO_EMOTION[code]] += 1
            continue
        rows.add(
            path=image_path(root, cells["subDirectory_filePath"], where),
            label=_label(code, where),
            split=split,
            box=_box([cells[name] for name in BOX_COLUMNS], where),
            valence=_affect(cells["valence"], where, "valence"),
            arousal=_affect(cells["arousal"], where, "arousal"),
            groups=groups,
            row=row,
        )


def _label(code: str, where: str) -> str:
    if code not in CODES:
        raise DataError(f"{where}: expression {code!r}. Allowed: 0 to 10")
    return CODES[code]


def _box(cells: Sequence[str], where: str) -> Box | None:
    """Read x, y, width, height; where no face was found, all are -1 or NULL."""
    if all(cell.strip() in ("-1", "NULL") for cell in cells):
        return None
    x, y, width, height = (number(cell, where, name) for cell, name in zip(cells, BOX_COLUMNS, strict=True))
    return make_box(x, y, width, height, where)


def _affect(text: str, where: str, name: str) -> float | None:
    value = number(text, where, name)
    return None if value == -2.0 else number(text, where, name, -1.0, 1.0)


def _add_set(rows: Rows, folder: Path, split: str) -> None:
    annotations, groups = folder / "annotations", [WILD]
    if not annotations.is_dir():
        raise DataError(f"{annotations}: no such folder")
    names = {name.rpartition(".")[0]: name for name in _files(folder / "images", IMAGE_SUFFIXES)}
    marked = {name.removesuffix("_exp.npy") for name in _files(annotations, ("_exp.npy",))}
    unmarked = sorted(names.keys() - marked)
    if unmarked:
        raise DataError(f"{folder / 'images' / names[unmarked[0]]}: no {annotations / unmarked[0]}_exp.npy for it")
    for stem in sorted(marked, key=lambda stem: (len(stem), stem)):
        file = f"{annotations}/{stem}_exp.npy"
        code = _value(file).removesuffix(".0")
        if code in NO_EMOTION:
            rows.dropped[NO_EMOTION[code]] += 1
            continue
        valence, arousal = (f"{annotations}/{stem}_{name}.npy" for name in ("val", "aro"))
        rows.add(
            path=f"{folder}/images/{names.get(stem, f'{stem}.jpg')}",
            label=_label(code, file),
            split=split,
            valence=_affect(_value(valence), valence, "valence"),
            arousal=_affect(_value(arousal), arousal, "arousal"),
            groups=groups,
        )


def _files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """List a folder's file names; as text, since there are a million of them."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.name.lower().endswith(endings) and entry.name[0] != "."]


def _value(file: str) -> str:
    """Read an array of one value, which AffectNet writes as text."""
    try:
        with Path(file).open("rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False).astype(str)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if array.size != 1:
        raise DataError(f"{file}: {array.size} values. Allowed: one")
    return str(array.item()).strip()
