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

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources.records import ACTED, WILD, Rows, first_folder, label_of_code, label_of_name, read_lines
from motivnet.errors import DataError, require
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet

DFEW_ORDER = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
DFEW_CLIPS = {"aligned": "clip_224x224/{}", "16-frames": "clip_224x224_16f/{}", "original": "original/{}.mp4"}
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
    rows, lists = Rows(path, EMOTIONS), path / "EmoLabel_DataSplit"
    lists = first_folder(lists, "test(single_labeled)") or lists / "test(single-labeled)"
    for fold in FOLDS:
        for name, code, where in _pairs(lists / f"set_{fold}.csv"):
            label = label_of_code(code, DFEW_ORDER, where, "label", first=1)
            clip = path / "Clip" / DFEW_CLIPS[clips].format(name.zfill(5))
            rows.add_clip(clip, label, fold=str(fold), groups=[ACTED])
    return rows.manifest()


def read_mafw(path: Path) -> Manifest:
    """Read the clips of MAFW with a single label, one of eleven, as one split `all`, in the five published folds.

    Args:
        path: the folder with `data` and `Train & Test Set`; videos come before frames, where it has both.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    rows = Rows(path, MAFW_LABELS)
    folder = first_folder(path, "data/clips", "clips", "data/frames", "frames") or path / "data/clips"
    for fold in FOLDS:
        for name, word, where in _pairs(path / f"Train & Test Set/single/no_caption/set_{fold}/test.txt"):
            clip = folder / (Path(name).stem if folder.name == "frames" else name)
            label = label_of_name(word, where, MAFW_LABELS)
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
        for name, word, where in _pairs(path / f"4_setups/All_scenes/{split}_All.csv"):
            groups, label = [("scene", name.partition("/")[0]), WILD], label_of_name(word, where, EMOTIONS)
            rows.add_clip(path / "2_ClipsforFaceCrop" / name, label, split=split, groups=groups)
    return rows.manifest()


def _pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield a clip, its label, and file and row, of each line of a list; commas may separate them."""
    for row, cells in read_lines(file):
        pair = " ".join(cells).replace(",", " ").split()
        require(len(pair) == 2, f"{file}, row {row}: {len(pair)} values. Allowed: clip and label", DataError)
        if pair != ["video_name", "label"]:
            yield pair[0], pair[1], f"{file}, row {row}"
