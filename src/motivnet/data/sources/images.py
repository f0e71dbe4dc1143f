"""Images without labels: every image below a folder, for pre-training."""

from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import images_in
from motivnet.data.sources.records import Rows
from motivnet.errors import DataError
from motivnet.images import IMAGE_SUFFIXES
from motivnet.labels import LabelSet

UNLABELLED = "unlabelled"
# A label set needs two names. No row has the second, so nothing that learns from labels or scores them begins.
NO_LABELS = LabelSet((UNLABELLED, "labelled"))


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
