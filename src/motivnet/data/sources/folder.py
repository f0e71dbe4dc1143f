"""Image folders: `ROOT/SPLIT/EMOTION/*.png`, `ROOT/EMOTION/*.png` as one split `all`, or images without labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import Rows
from motivnet.errors import DataError, require
from motivnet.image_files import HIDDEN, IMAGE_SUFFIXES, Skipped, no_images, skip_reason, walk_images
from motivnet.labels import WITH_CONTEMPT, LabelSet

UNLABELLED = "unlabelled"
# Folders of these names are no labels.
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "dev")
# A label set needs two names. No row has the second, so training and evaluation refuse it.
NO_LABELS = LabelSet((UNLABELLED, "labelled"))


def read_folder(root: Path, *, labels: LabelSet | None = None) -> Manifest:
    """Read a tree with one folder per label; synonyms such as `happy` or `angry` are understood.

    Args:
        root: the tree.
        labels: the allowed names of folders; None: the seven emotions, and contempt if there is such an image; or the
            names of all folders, if they hold the images themselves and none of them is an emotion.

    Raises:
        DataError: if a folder is not named after a label, or there are no images.
    """
    labels = labels or _own_labels(root)
    rows = Rows(root, labels)
    for split, label, file in labelled_files(root, labels or WITH_CONTEMPT, rows.dropped):
        rows.add(path=str(file), label=label, split=split)
    return rows.manifest()


def labelled_files(root: Path, labels: LabelSet, dropped: Skipped) -> Iterator[tuple[str, str, Path]]:
    """Yield split, label and file of every image, in the order of their names; `dropped` counts what is passed over.

    Raises:
        DataError: if a folder is not named after a label, or there are no images.
    """
    refuse_loose_images(root)
    empty = True
    for split, label, folder in _label_folders(root, labels):
        for file in images_in(folder, dropped):
            empty = False
            yield split, label, file
    if empty:
        raise no_images(root, dropped, "SPLIT/EMOTION/* or EMOTION/*, of ")


def images_in(folder: Path, dropped: Skipped | None = None, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the images, or files with other suffixes, below a folder, as `walk_images`; `dropped` counts all others.

    Raises:
        DataError: if there is no such folder.
    """
    require_folder(folder)
    images, skipped = walk_images(folder, suffixes)
    if dropped is not None:
        dropped.update(skipped)
    return images


def require_folder(folder: Path) -> None:
    """Check that a folder exists.

    Raises:
        DataError: if it does not.
    """
    require(folder.is_dir(), f"{folder}: no such folder", DataError)


def folders_in(folder: Path) -> list[Path]:
    """List the direct subfolders, sorted, without hidden ones, those of macOS's archives, and links upwards."""
    return sorted(
        inside
        for inside in folder.iterdir()
        if inside.is_dir()
        and skip_reason(inside.name) != HIDDEN
        and not folder.resolve().is_relative_to(inside.resolve())
    )


def refuse_loose_images(folder: Path) -> None:
    """Check that no image lies directly in a folder whose subfolders are the labels.

    Raises:
        DataError: naming the first one, or if there is no such folder.
    """
    require_folder(folder)
    loose = sorted(file for file in folder.iterdir() if not skip_reason(file.name) and not file.is_dir())
    if loose:
        raise DataError(f"{loose[0]}: an image in no folder of a label")


def _label_folders(root: Path, labels: LabelSet) -> list[tuple[str, str, Path]]:
    folders = folders_in(root)
    if any(labels.find(folder.name) for folder in folders):
        return [("all", _label(folder, labels), folder) for folder in folders]
    for split in folders:
        refuse_loose_images(split)
    return [(split.name, _label(folder, labels), folder) for split in folders for folder in folders_in(split)]


def _own_labels(root: Path) -> LabelSet | None:
    """Return the names of the folders as labels, unless they are emotions, splits, or folders of labels."""
    require_folder(root)
    names = tuple(folder.name for folder in folders_in(root))
    other = any(WITH_CONTEMPT.find(name) or name.lower() in SPLITS for name in names)
    holding = all(any(not skip_reason(file.name) for file in (root / name).iterdir()) for name in names)
    return LabelSet(names) if len(names) > 1 and holding and not other else None


def _label(folder: Path, labels: LabelSet) -> str:
    label = labels.find(folder.name)
    if label is None:
        own = "; or your own, as in folder:PATH?labels=calm,tense" if labels == WITH_CONTEMPT else ""
        raise DataError(f"{folder}: is not a label. Allowed: {', '.join(labels)}{own}")
    return label


def read_images(root: Path) -> Manifest:
    """List every image below a folder without labels, as one split `all`, sorted by path.

    Args:
        root: the folder.

    Raises:
        DataError: if there is no such folder, or no image in it.
    """
    rows = Rows(root, NO_LABELS)
    for file in images_in(root, rows.dropped):
        rows.add(path=str(file), label=UNLABELLED, split="all")
    if not rows.columns["path"]:
        raise no_images(root, rows.dropped)
    return rows.manifest()
