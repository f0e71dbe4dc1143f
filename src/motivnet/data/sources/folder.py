"""Image folders: `ROOT/SPLIT/EMOTION/*.png`, `ROOT/EMOTION/*.png` as one split `all`, or images without labels."""

from collections.abc import Iterator
from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import Rows
from motivnet.errors import DataError
from motivnet.images import IMAGE_SUFFIXES
from motivnet.labels import WITH_CONTEMPT, LabelSet

UNLABELLED = "unlabelled"
# A label set needs two names. No row has the second, so nothing that learns from labels or scores them begins.
NO_LABELS = LabelSet((UNLABELLED, "labelled"))


def read_folder(root: Path, labels: LabelSet | None = None) -> Manifest:
    """Read a tree of one folder a label; synonyms such as `happy` or `angry` are understood.

    Args:
        root: the tree.
        labels: what folders may be named; None: the seven emotions, and contempt where there is such an image.

    Raises:
        DataError: at a folder that is no label, or a tree without images.
    """
    rows = Rows(root, labels)
    for split, label, file in labelled_files(root, labels or WITH_CONTEMPT):
        rows.add(path=str(file), label=label, split=split)
    return rows.manifest()


def labelled_files(root: Path, labels: LabelSet) -> Iterator[tuple[str, str, Path]]:
    """Give split, label and file of every image, in the order of their names.

    Raises:
        DataError: at a folder that is no label, or a tree without images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    refuse_loose_images(root)
    empty = True
    for split, folder in _label_folders(root, labels):
        label = labels.names[labels.index(folder.name)]
        for file in images_in(folder):
            empty = False
            yield split, label, file
    if empty:
        raise DataError(f"{root}: no images. Allowed: SPLIT/EMOTION/* or EMOTION/*, of {', '.join(IMAGE_SUFFIXES)}")


def images_in(folder: Path) -> list[Path]:
    """List the image files of a folder and those inside it, sorted; hidden files are none."""
    return sorted(file for file in folder.rglob("*") if _is_image(file))


def is_label(name: str, labels: LabelSet) -> bool:
    """Say whether a folder's name is one of the labels, or a synonym."""
    try:
        labels.index(name)
    except DataError:
        return False
    return True


def folders_in(folder: Path) -> list[Path]:
    """List the folders directly inside, sorted; hidden ones, and what macOS adds to archives, are none."""
    return sorted(
        inside
        for inside in folder.iterdir()
        if inside.is_dir() and not inside.name.startswith(".") and inside.name != "__MACOSX"
    )


def refuse_loose_images(folder: Path) -> None:
    """Refuse images that lie directly in a folder whose subfolders give the labels.

    Raises:
        DataError: naming the first.
    """
    loose = sorted(file for file in folder.iterdir() if _is_image(file))
    if loose:
        raise DataError(f"{loose[0]}: an image in no folder of a label")


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _label_folders(root: Path, labels: LabelSet) -> list[tuple[str, Path]]:
    folders = folders_in(root)
    if any(is_label(folder.name, labels) for folder in folders):
        _check(folders, labels)
        return [("all", folder) for folder in folders]
    pairs = [(split.name, folder) for split in folders for folder in folders_in(split)]
    _check([folder for _, folder in pairs], labels)
    for split in folders:
        refuse_loose_images(split)
    return pairs


def _check(folders: list[Path], labels: LabelSet) -> None:
    for folder in folders:
        if not is_label(folder.name, labels):
            raise DataError(f"{folder}: is no label. Allowed: {', '.join(labels)}")


def read_images(root: Path) -> Manifest:
    """List every image below a folder, as one split named `all`, sorted by path; folders' names mean nothing.

    Args:
        root: the folder.

    Raises:
        DataError: if there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    rows = Rows(root, NO_LABELS)
    for file in images_in(root):
        rows.add(path=str(file), label=UNLABELLED, split="all")
    if not rows.columns["path"]:
        raise DataError(f"{root}: no images. Looked for {', '.join(IMAGE_SUFFIXES)}")
    return rows.manifest()
