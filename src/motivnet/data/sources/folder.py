"""Image folders: `ROOT/SPLIT/EMOTION/*.png`, or `ROOT/EMOTION/*.png` as one split named `all`."""

from pathlib import Path

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import DataError
from motivnet.images import IMAGE_SUFFIXES
from motivnet.labels import EMOTIONS, LabelSet


def read_folder(root: Path, labels: LabelSet = EMOTIONS) -> Manifest:
    """Read a tree of one folder a label; synonyms such as `happy` or `angry` are understood.

    Raises:
        DataError: at a folder that is no label, or a tree without images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    columns: dict[str, list[str]] = {"path": [], "label": [], "split": []}
    for split, folder in _label_folders(root, labels):
        label = labels.names[labels.index(folder.name)]
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                columns["path"].append(str(file))
                columns["label"].append(label)
                columns["split"].append(split)
    if not columns["path"]:
        raise DataError(f"{root}: no images. Allowed: SPLIT/EMOTION/* or EMOTION/*, of {', '.join(IMAGE_SUFFIXES)}")
    return make_manifest(columns, labels)


def _label_folders(root: Path, labels: LabelSet) -> list[tuple[str, Path]]:
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    if any(_is_label(folder.name, labels) for folder in folders):
        _check(folders, labels)
        return [("all", folder) for folder in folders]
    pairs = [(split.name, folder) for split in folders for folder in sorted(split.iterdir()) if folder.is_dir()]
    _check([folder for _, folder in pairs], labels)
    return pairs


def _check(folders: list[Path], labels: LabelSet) -> None:
    for folder in folders:
        if not _is_label(folder.name, labels):
            raise DataError(f"{folder}: is no label. Allowed: {', '.join(labels)}")


def _is_label(name: str, labels: LabelSet) -> bool:
    try:
        labels.index(name)
    except DataError:
        return False
    return True
