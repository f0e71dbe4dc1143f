"""RAVDESS and CREMA-D: clips of actors, with actor, emotion and intensity in the file names.

```
RAVDESS/Actor_12/01-01-06-01-02-01-12.mp4    modality, channel, emotion, intensity, statement, repetition, actor
CREMA-D/VideoFlash/1001_DFA_ANG_XX.flv       actor, sentence, emotion, intensity
```

Modality 01 has sound, 02 is the same without. No folds are published for either: actors are dealt to folds in the order
of their numbers, in RAVDESS a man and a woman together.

Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 2018. Cao et al.,
"CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset", IEEE Transactions on Affective Computing 2014.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import images_in
from motivnet.data.sources.records import ACTED, Rows
from motivnet.errors import DataError, require
from motivnet.frames.selection import VIDEO_SUFFIXES
from motivnet.labels import EMOTIONS, LabelSet

RAVDESS = re.compile(r"0[12]-(0[12])-(0[1-8])-(0[12])-(0[12])-0[12]-(0[1-9]|1\d|2[0-4])")
RAVDESS_ORDER = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
CALM = {"drop": "", "neutral": "neutral", "own": "calm"}
CHANNELS, STRENGTHS, STATEMENTS = ("speech", "song"), ("normal", "strong"), ("kids", "dogs")
WITH_CALM = LabelSet((*EMOTIONS, "calm"))
CREMAD = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")
CREMAD_CODES = {label[:3].upper(): label for label in EMOTIONS}
CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}


def read_ravdess(path: Path, *, calm: Literal["drop", "neutral", "own"] = "drop", folds: int = 5) -> Manifest:
    """Read RAVDESS, speech and song, as one split `all`.

    Args:
        path: the folder of the videos. Of a recording with and without sound, the one with sound is taken.
        calm: what becomes of clips of calm, which none of the seven emotions is: left out and counted, neutral, or a
            label of its own.
        folds: number of folds, at least 2.

    Raises:
        DataError: if a name differs from the published form, or there are fewer folds.
    """
    rows, seen = Rows(path, WITH_CALM if calm == "own" else EMOTIONS), set()
    for file, codes in _videos(rows, RAVDESS, "01-01-06-01-02-01-12.mp4", folds):
        channel, emotion, strength, statement, actor = (int(code) - 1 for code in codes)
        label, twin = RAVDESS_ORDER[emotion].replace("calm", CALM[calm]), file.stem[3:]
        if twin in seen or not label:
            rows.dropped["the same without sound" if twin in seen else "calm"] += 1
            continue
        seen.add(twin)
        groups = [("channel", CHANNELS[channel]), ("intensity", STRENGTHS[strength])]
        groups += [("statement", STATEMENTS[statement]), ("gender", ("male", "female")[actor % 2]), ACTED]
        rows.add_clip(file, label, subject=codes[-1], fold=str(actor // 2 % folds + 1), groups=groups)
    return rows.manifest()


def read_cremad(path: Path, *, folds: int = 5) -> Manifest:
    """Read CREMA-D, which has no surprise, as one split `all`.

    Args:
        path: the folder of the videos, or of the whole repository.
        folds: number of folds, at least 2.

    Raises:
        DataError: if a name differs from the published form, or there are fewer folds.
    """
    rows = Rows(path, EMOTIONS)
    for file, (actor, sentence, emotion, level) in _videos(rows, CREMAD, "1001_DFA_ANG_XX.flv", folds):
        groups = [("sentence", sentence), ("intensity", CREMAD_LEVELS.get(level, "unspecified")), ACTED]
        fold = str((int(actor) - 1001) % folds + 1)
        rows.add_clip(file, CREMAD_CODES[emotion], subject=actor, fold=fold, groups=groups)
    return rows.manifest()


def _videos(rows: Rows, names: re.Pattern[str], example: str, folds: int) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the videos, those with sound first, and the codes in their names."""
    require(folds >= 2, f"option folds: {folds}. Allowed: 2 or more", DataError)
    for file in sorted(images_in(rows.source, rows.dropped, VIDEO_SUFFIXES), key=lambda file: file.name):
        match = names.fullmatch(file.stem)
        if not match:
            raise DataError(f"{file}: the name is not as published, such as {example}")
        yield file, match.groups()
