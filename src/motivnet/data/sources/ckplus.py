"""CK+, the Extended Cohn-Kanade data set: as published, and the two 48x48 forms in circulation.

As published: sequences from the neutral face to the peak of an expression; 327 of 593 have an emotion:

```
cohn-kanade-images/S005/001/S005_001_00000001.png ... S005_001_00000011.png
Emotion/S005/001/S005_001_00000011_emotion.txt        "   3.0000000e+00", named after the peak frame
```

The archives unpack to `extended-cohn-kanade-images/cohn-kanade-images` and `Emotion_labels/Emotion`; both are found.

In circulation: `ckextended.csv` (`emotion,pixels,Usage`, emotions numbered as in FER-2013, then contempt), without
subjects; and one folder for each of seven emotions with the cropped last three frames of the sequences, whose names
contain subject and sequence: `anger/S010_004_00000017.png`.

Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010.
"""

import re
from pathlib import Path

from motivnet.data.manifest import Manifest
from motivnet.data.sources.fer2013 import encode_pixels
from motivnet.data.sources.folder import folders_in, labelled_files
from motivnet.data.sources.records import POSED, Rows, first_folder, label_of_code, number, read_lines, read_records
from motivnet.errors import DataError, require
from motivnet.labels import CKPLUS_ORDER, FER2013_ORDER, WITH_CONTEMPT

FRAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})")
CSV_ORDER = (*FER2013_ORDER, "contempt")
SPLIT = "all"


def read_ckplus(path: Path, *, peak_frames: int = 1, neutral: bool = True) -> Manifest:
    """Read CK+ in any of its forms, as one split `all`: no splits are published.

    Args:
        path: the folder that contains `cohn-kanade-images` and `Emotion`; or a folder of label folders; or a CSV file.
        peak_frames: published form only: number of last frames of a sequence that get its emotion.
        neutral: published form only: whether the first frame of a sequence is used as a neutral face.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    require(peak_frames >= 1, f"option peak_frames of ckplus: {peak_frames}. Allowed: 1 or more", DataError)
    rows = Rows(path, WITH_CONTEMPT)
    images = first_folder(path, "cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")
    emotions = first_folder(path, "Emotion", "Emotion_labels/Emotion")
    if emotions:
        _add_sequences(rows, images or path / "cohn-kanade-images", emotions, peak_frames, neutral)
        return rows.manifest()
    require(not images, f"{path}: no folder Emotion, which has the labels of {images}", DataError)
    if (peak_frames, neutral) != (1, True):
        raise DataError(f"{path}: options peak_frames and neutral are for the sequences as published, with Emotion")
    if path.is_file():
        _add_csv(rows, path)
    else:
        _add_folders(rows, path)
    return rows.manifest()


def _add_sequences(rows: Rows, images: Path, emotions: Path, peak_frames: int, neutral: bool) -> None:
    names = {
        (subject.name, sequence.name)
        for tree in (images, emotions)
        if tree.is_dir()
        for subject in folders_in(tree)
        for sequence in folders_in(subject)
    }
    for subject, sequence in sorted(names):
        files = sorted((emotions / subject / sequence).glob("*_emotion.txt"))
        if not files:
            rows.dropped["sequence without an emotion"] += 1
            continue
        if len(files) > 1:
            raise DataError(f"{files[1]}: the sequence has a label already, in {files[0].name}")
        label = _read_label(files[0])
        first, peaks = _frames(images / subject / sequence, files[0], peak_frames)
        groups = [("sequence", f"{subject}_{sequence}"), POSED]
        found = [(first, "neutral", ("frame", "first"))] if neutral else []
        for file, name, frame in [*found, *((peak, label, ("frame", "peak")) for peak in peaks)]:
            rows.add(path=str(file), label=name, split=SPLIT, subject=subject, groups=[*groups, frame])


def _read_label(file: Path) -> str:
    cells = [(row, cell) for row, line in read_lines(file) for cell in line]
    require(len(cells) == 1, f"{file}: {len(cells)} values. Allowed: one, the emotion", DataError)
    row, cell = cells[0]
    where = f"{file}, row {row}"
    return label_of_code(f"{number(cell, where, 'emotion'):g}", CKPLUS_ORDER, where, "emotion")


def _frames(folder: Path, emotion: Path, peak_frames: int) -> tuple[Path, list[Path]]:
    """Return the first frame and the last ones, up to the frame that the emotion file is named after."""
    stem = emotion.name.removesuffix("_emotion.txt")
    match = FRAME.fullmatch(stem)
    if not match:
        raise DataError(f"{emotion}: the name is not that of a frame, such as S005_001_00000011_emotion.txt")
    prefix, last = stem[:-8], int(match[3])
    found = {file.stem for file in folder.glob("*.png") if not file.name.startswith(".")}
    # `motivnet data inspect` reports missing images, so the manifest has to name them.
    expected = {f"{prefix}{number:08d}" for number in (1, *range(max(1, last - peak_frames + 1), last))}
    frames = sorted(name for name in (found or expected) | {stem} if name <= stem)
    if len(frames) <= peak_frames:
        raise DataError(f"{emotion}: a sequence of {last} frames, {len(frames)} found, for {peak_frames} at the peak")
    return folder / f"{frames[0]}.png", [folder / f"{name}.png" for name in frames[-peak_frames:]]


def _add_csv(rows: Rows, path: Path) -> None:
    for row, cells in read_records(path, ("emotion", "pixels", "Usage")):
        where = f"{path}, row {row}"
        label = label_of_code(cells["emotion"], CSV_ORDER, where, "emotion")
        rows.add(
            image=encode_pixels(cells["pixels"], where),
            label=label,
            split=SPLIT,
            groups=[("usage", cells["Usage"].strip()), POSED],
            row=row,
        )


def _add_folders(rows: Rows, path: Path) -> None:
    for split, label, file in labelled_files(path, WITH_CONTEMPT, rows.dropped):
        match = FRAME.fullmatch(file.stem)
        if not match:
            raise DataError(f"{file}: the name is not that of a frame, such as S010_004_00000017.png")
        subject, sequence, _ = match.groups()
        groups = [("sequence", f"{subject}_{sequence}"), POSED]
        rows.add(path=str(file), label=label, split=split, subject=subject, groups=groups)
