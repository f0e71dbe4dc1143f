"""DFEW, MAFW and FERV39k: clips of films and television, with published lists of labels. Who is shown is not published.

```
DFEW/EmoLabel_DataSplit/test(single-labeled)/set_1.csv       video_name,label: 1,3
DFEW/Clip/clip_224x224/00001/00001_00001.jpg                 aligned faces; clip_224x224_16f: 16 of each clip
DFEW/Clip/original/00001.mp4
MAFW/Train & Test Set/single/no_caption/set_1/test.txt       00151.mp4 anger
MAFW/data/clips/00151.mp4                                    or data/frames/00151/*.png
FERV39k/4_setups/All_scenes/train_All.csv                    Action/Happy/0267 Happy
FERV39k/2_ClipsforFaceCrop/Action/Happy/0267/*.jpg
```

The five test lists of DFEW and MAFW share no clip: they are the folds.

Jiang et al., "DFEW", ACM MM 2020. Liu et al., "MAFW", ACM MM 2022. Wang et al., "FERV39k", CVPR 2022.
"""

from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import images_in
from motivnet.data.sources.records import ACTED, WILD, Rows, first_folder, label_of_code, label_of_name, read_lines, read_records
from motivnet.errors import DataError
from motivnet.frames.selection import VIDEO_SUFFIXES
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet

DFEW_ORDER = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
DFEW_CLIPS = {"aligned": "clip_224x224", "16-frames": "clip_224x224_16f", "original": "original"}
MAFW_LABELS = LabelSet((*WITH_CONTEMPT, "anxiety", "helplessness", "disappointment"))
FOLDS = range(1, 6)


def read_dfew(path: Path, *, clips: Literal["aligned", "16-frames", "original"] = "aligned") -> Manifest:
    """Read the clips of DFEW with a single label, as one split `all`, in the five published folds.

    Args:
        path: the folder with `Clip` and `EmoLabel_DataSplit`.
        clips: aligned faces, 16 of them, or the videos.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    rows, folder, lists = Rows(path, EMOTIONS), path / "Clip" / DFEW_CLIPS[clips], path / "EmoLabel_DataSplit"
    lists = first_folder(lists, "test(single-labeled)", "test(single_labeled)") or lists / "test(single-labeled)"
    videos = {}
    if clips == "original" and folder.is_dir():
        videos = {file.stem: file for file in images_in(folder, rows.dropped, VIDEO_SUFFIXES)}
    for fold in FOLDS:
        file = lists / f"set_{fold}.csv"
        for row, cells in read_records(file, ("video_name", "label")):
            label = label_of_code(cells["label"], DFEW_ORDER, f"{file}, row {row}", "label", first=1)
            name = cells["video_name"].strip().zfill(5)
            clip = videos.get(name, folder / f"{name}.mp4") if clips == "original" else folder / name
            rows.add_clip(clip, label, fold=str(fold), groups=[ACTED])
    return rows.manifest()


def read_mafw(path: Path) -> Manifest:
    """Read the clips of MAFW with a single label, one of eleven, as one split `all`, in the five published folds.

    Args:
        path: the folder with `data` and `Train & Test Set`. Videos are taken where there are videos and frames.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    rows = Rows(path, MAFW_LABELS)
    videos, frames = first_folder(path, "data/clips", "clips"), first_folder(path, "data/frames", "frames")
    folder = videos or frames or path / "data/clips"
    for fold in FOLDS:
        for name, label in _pairs(path / f"Train & Test Set/single/no_caption/set_{fold}/test.txt", MAFW_LABELS):
            clip = folder / (Path(name).stem if frames and not videos else name)
            rows.add_clip(clip, label, fold=str(fold), groups=[WILD])
    return rows.manifest()


def read_ferv39k(path: Path) -> Manifest:
    """Read FERV39k with the lists of all scenes, as splits `train` and `test`; scenes become a group.

    Args:
        path: the folder with `2_ClipsforFaceCrop` and `4_setups`.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    rows = Rows(path, EMOTIONS)
    for split in ("train", "test"):
        for name, label in _pairs(path / f"4_setups/All_scenes/{split}_All.csv", EMOTIONS):
            groups = [("scene", name.partition("/")[0]), WILD]
            rows.add_clip(path / "2_ClipsforFaceCrop" / name, label, split=split, groups=groups)
    return rows.manifest()


def _pairs(file: Path, labels: LabelSet) -> list[tuple[str, str]]:
    """Read lines of a clip's name and its label."""
    found = []
    for row, cells in read_lines(file):
        if len(cells) != 2:
            raise DataError(f"{file}, row {row}: {len(cells)} values. Allowed: clip and label")
        found.append((cells[0], label_of_name(cells[1], f"{file}, row {row}", labels)))
    return found
