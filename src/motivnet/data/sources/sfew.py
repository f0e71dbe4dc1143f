"""SFEW 2.0: frames of films, in the folders that its archives unpack to.

```
Train/Angry/Airheads_000519240_00000005.png           frames
Train/Train_Aligned_Faces/Angry/...                   aligned faces, in some copies in the folders of the frames
Val/Val_Aligned_Faces_new/Val_Aligned_Faces/Angry/... the same, one archive inside another's folder
Test_Aligned_Faces/...                                no emotions are published
```

A folder named after an emotion, at any depth, belongs to the split that a folder above it is named after. A frame's
name begins with the film; subjects are not published.

Dhall et al., "Static Facial Expression Analysis in Tough Conditions", ICCV Workshops 2011.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import folders_in, images_in, refuse_loose_images
from motivnet.data.sources.records import ACTED, Rows
from motivnet.errors import DataError, ImageError, require
from motivnet.images import decode_image
from motivnet.labels import EMOTIONS

SPLITS = ("train", "val", "test")
# Aligned faces have 143 x 181 pixels, frames 720 x 576.
MAX_ALIGNED_PX = 256
NAME = re.compile(r"(.+?)_\d+_\d+")
LAYOUT = "Allowed: folders such as Train/Angry or Val_Aligned_Faces/Happy"


def read_sfew(path: Path, *, images: Literal["aligned", "frames"] | None = None) -> Manifest:
    """Read SFEW, as splits `train`, `val` and, if it has emotion folders, `test`; films become a group.

    Args:
        path: the folder that the archives were unpacked in.
        images: aligned faces or whole frames; None: whichever exists.

    Raises:
        DataError: if a folder is neither split nor emotion, or both kinds of images exist and none was chosen.
    """
    refuse_loose_images(path)
    found = [(split, _kind(path, folder), folder) for split, folder in _leaves(path, None)]
    kinds = sorted({kind for _, kind, folder in found if EMOTIONS.find(folder.name)})
    if images is None and len(kinds) > 1:
        raise DataError(f"{path}: both aligned faces and whole frames. Allowed: ?images=aligned or ?images=frames")
    rows = Rows(path, EMOTIONS)
    for split, kind, folder in found:
        if images is not None and kind != images:
            continue
        label = EMOTIONS.find(folder.name)
        if not label:
            rows.dropped["image without an emotion"] += sum(file.parent == folder for file in images_in(folder))
            continue
        for file in images_in(folder, rows.dropped):
            film = NAME.fullmatch(file.stem)
            groups = [("film", film[1]), ACTED] if film else [ACTED]
            rows.add(path=str(file), label=label, split=split, groups=groups)
    return rows.manifest()


def _kind(path: Path, folder: Path) -> str:
    """Tell aligned faces, whose folders may be named as those of frames are, by the first image, which is small."""
    if "aligned" in str(folder.relative_to(path)).lower():
        return "aligned"
    try:
        height, width, _ = decode_image(images_in(folder)[0]).shape
    except (ImageError, IndexError):
        return "frames"
    return "aligned" if max(height, width) <= MAX_ALIGNED_PX else "frames"


def _leaves(folder: Path, split: str | None) -> Iterator[tuple[str, Path]]:
    """Yield every emotion folder, and every other folder with images, with its split."""
    for inside in folders_in(folder):
        named = next((name for name in SPLITS if inside.name.lower().startswith(name)), None)
        if EMOTIONS.find(inside.name):
            if split is None:
                raise DataError(f"{inside}: is not in the folder of a split. {LAYOUT}")
            yield split, inside
            continue
        require(split is None or named in (None, split), f"{inside}: {named} inside {split}. {LAYOUT}", DataError)
        belongs = split or named
        has_images = any(file.parent == inside for file in images_in(inside))
        require(not has_images or belongs == "test", f"{inside}: is not an emotion. {LAYOUT}", DataError)
        if has_images:
            yield "test", inside
        yield from _leaves(inside, belongs)
