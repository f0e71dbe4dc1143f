"""AffectNet, the manually annotated part, in both of its releases.

The first release is two lists and a tree of photographs:

```
Manually_Annotated_file_lists/training.csv, validation.csv
Manually_Annotated_Images/689/737db2483489148d783ef278f43f486c0a97e140fc4b6b61b84363ca.jpg
```

with the columns of COLUMNS. `training.csv` has a header, `validation.csv` has none. `expression` is 0 to 7 for the
emotions, 8 none, 9 uncertain, 10 non-face; valence and arousal are from -1 to 1, and -2 if not annotated.

The later release has cropped faces, and a file for every value:

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
from motivnet.data.sources import records
from motivnet.data.sources.folder import require_folder
from motivnet.errors import DataError, require, reraised
from motivnet.image_files import IMAGE_SUFFIXES
from motivnet.labels import EMOTIONS, WITH_CONTEMPT

BOX_COLUMNS = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX_COLUMNS, "facial_landmarks", "expression", "valence", "arousal")
NO_EMOTION = ("expression none", "expression uncertain", "expression non-face")
# AffectNet numbers the emotions from 0 in our order, which is that of the paper.
CODES = (*WITH_CONTEMPT, *NO_EMOTION)

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
        root: first release only: the folder that image names are relative to; None: found next to the lists.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    rows = records.Rows(path, WITH_CONTEMPT)
    lists, sets = _find_lists(path), [name for name in SETS if (path / name).is_dir()]
    if lists and sets:
        raise DataError(f"{path}: both {lists[0]} and {path / sets[0]}. Allowed: one release of AffectNet, by its path")
    if not lists and not sets:
        raise DataError(f"{path}: no AffectNet. Allowed: training.csv or validation.csv, or train_set or val_set")
    if sets and root is not None:
        raise DataError(f"{path}: option root is for the CSV lists, whose images may lie elsewhere")
    for file in lists:
        _add_list(rows, file, records.absolute(root or _image_root(path)))
    for name in sets:
        _add_set(rows, path / name, SETS[name])
    manifest = rows.manifest()
    return manifest if classes == 8 else manifest.restrict(EMOTIONS)


def _find_lists(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    named = ([path / folder / f"{name}.csv" for name in LISTS] for folder in LIST_FOLDERS)
    return next(filter(None, ([*filter(Path.is_file, files)] for files in named)), [])


def _image_root(path: Path) -> Path:
    starts = [path.parent, path.parent.parent] if path.is_file() else [path]
    return next((found for start in starts if (found := records.first_folder(start, *IMAGE_FOLDERS))), starts[0])


def _add_list(rows: records.Rows, file: Path, root: str) -> None:
    split = LISTS.get(file.stem, file.stem)
    groups = [records.WILD]
    for row, cells in records.read_records(file, COLUMNS, header=COLUMNS):
        where = f"{file}, row {row}"
        label = _label(cells["expression"], where)
        if label in NO_EMOTION:
            rows.dropped[label] += 1
            continue
        rows.add(
            path=records.image_path(root, cells["subDirectory_filePath"], where),
            label=label,
            split=split,
            box=_box([cells[name] for name in BOX_COLUMNS], where),
            valence=_affect(cells["valence"], where, "valence"),
            arousal=_affect(cells["arousal"], where, "arousal"),
            groups=groups,
            row=row,
        )


def _label(code: str, where: str) -> str:
    return records.label_of_code(code.strip().removesuffix(".0"), CODES, where, "expression")


def _box(cells: Sequence[str], where: str) -> records.Box | None:
    """Parse x, y, width, height; all are -1 or NULL if no face was detected."""
    if all(cell.strip() in ("-1", "NULL") for cell in cells):
        return None
    return records.make_box(cells, BOX_COLUMNS, where)


def _affect(text: str, where: str, name: str) -> float | None:
    value = records.number(text, where, name)
    return None if value == -2.0 else records.number(text, where, name, -1.0, 1.0)


def _add_set(rows: records.Rows, folder: Path, split: str) -> None:
    annotations, groups = folder / "annotations", [records.WILD]
    require_folder(annotations)
    names = {name.rpartition(".")[0]: name for name in _files(folder / "images", IMAGE_SUFFIXES)}
    marked = {name.removesuffix("_exp.npy") for name in _files(annotations, ("_exp.npy",))}
    unmarked = sorted(names.keys() - marked)
    if unmarked:
        raise DataError(f"{folder / 'images' / names[unmarked[0]]}: no {annotations / unmarked[0]}_exp.npy for it")
    for stem in sorted(marked, key=lambda stem: (len(stem), stem)):
        file = f"{annotations}/{stem}_exp.npy"
        label = _label(_value(file), file)
        if label in NO_EMOTION:
            rows.dropped[label] += 1
            continue
        valence, arousal = (f"{annotations}/{stem}_{name}.npy" for name in ("val", "aro"))
        rows.add(
            path=f"{folder}/images/{names.get(stem, f'{stem}.jpg')}",
            label=label,
            split=split,
            valence=_affect(_value(valence), valence, "valence"),
            arousal=_affect(_value(arousal), arousal, "arousal"),
            groups=groups,
        )


def _files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """List the file names of a folder, as text because there may be a million."""
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 text, since there may be a million
    return [name for name in names if name.lower().endswith(endings) and name[0] != "."]


def _value(file: str) -> str:
    """Read an array of one value, which AffectNet stores as text."""
    with reraised(DataError, f"{file}: cannot be read", OSError, ValueError, EOFError), Path(file).open("rb") as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False).astype(str)
    require(array.size == 1, f"{file}: {array.size} values. Allowed: one", DataError)
    return str(array.item()).strip()
