"""RAVDESS and CREMA-D: clips of actors, with actor, emotion and intensity in the file names.

```
RAVDESS/Actor_12/01-01-06-01-02-01-12.mp4    modality, channel, emotion, intensity, statement, repetition, actor
CREMA-D/VideoFlash/1001_DFA_ANG_XX.flv       actor, sentence, emotion, intensity
CREMA-D/VideoDemographics.csv                ActorID,Age,Sex,Race,Ethnicity
```

No folds are published for either: the actors are dealt to folds in the order of their numbers.

Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 2018. Cao et al.,
"CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset", IEEE Transactions on Affective Computing 2014.
"""

import re
from pathlib import Path
from typing import Literal

from motivnet.data.manifest import Manifest
from motivnet.data.sources.folder import images_in
from motivnet.data.sources.records import ACTED, Rows, read_records
from motivnet.errors import DataError
from motivnet.frames.selection import VIDEO_SUFFIXES
from motivnet.labels import EMOTIONS, LabelSet

RAVDESS_NAME = re.compile(r"(0[12])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
RAVDESS_ORDER = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
WITH_CALM = LabelSet((*EMOTIONS, "calm"))
CREMAD_NAME = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")
CREMAD_CODES = {label[:3].upper(): label for label in EMOTIONS}
CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}


def read_ravdess(path: Path, *, calm: Literal["drop", "neutral", "own"] = "drop", folds: int = 5) -> Manifest:
    """Read RAVDESS, speech and song, as one split `all`, in folds of a man and a woman each or several such pairs.

    Args:
        path: the folder of the videos. Of a recording with and without sound, the one with sound is taken.
        calm: what becomes of clips of calm, which none of the seven emotions is: left out and counted, neutral, or a
            label of its own.
        folds: number of folds, from 2 to 12.

    Raises:
        DataError: if a name differs from the published form.
    """
    if not 2 <= folds <= 12:
        raise DataError(f"option folds of ravdess: {folds}. Allowed: from 2 to 12")
    rows, seen = Rows(path, WITH_CALM if calm == "own" else EMOTIONS), set()
    for file in sorted(images_in(path, rows.dropped, VIDEO_SUFFIXES), key=lambda file: (file.stem[3:], file.stem)):
        match = RAVDESS_NAME.fullmatch(file.stem)
        if not match:
            raise DataError(f"{file}: the name is not as published, such as 01-01-06-01-02-01-12.mp4")
        _, channel, emotion, intensity, statement, _, actor = (int(code) for code in match.groups())
        label = RAVDESS_ORDER[emotion - 1]
        reason = "the same without sound" if file.stem[3:] in seen else "calm" if (label, calm) == ("calm", "drop") else ""
        seen.add(file.stem[3:])
        if reason:
            rows.dropped[reason] += 1
            continue
        groups = {"channel": ("speech", "song")[channel - 1], "intensity": ("normal", "strong")[intensity - 1]}
        groups |= {"statement": ("kids", "dogs")[statement - 1], "gender": ("female", "male")[actor % 2]}
        label = "neutral" if (label, calm) == ("calm", "neutral") else label
        fold = (actor - 1) // 2 % folds
        rows.add_clip(file, label, subject=f"{actor:02}", fold=f"{fold + 1}", groups=[*groups.items(), ACTED])
    return rows.manifest()


def read_cremad(path: Path, *, folds: int = 5) -> Manifest:
    """Read CREMA-D, which has no surprise, as one split `all`.

    Args:
        path: the folder of the repository, or of the videos. With `VideoDemographics.csv` in it, sex, race, ethnicity
            and decade of age become groups.
        folds: number of folds, from 2 to 91.

    Raises:
        DataError: if a name differs from the published form.
    """
    if not 2 <= folds <= 91:
        raise DataError(f"option folds of cremad: {folds}. Allowed: from 2 to 91")
    rows, people, about = Rows(path, EMOTIONS), {}, path / "VideoDemographics.csv"
    for _, cells in read_records(about, ("ActorID", "Age", "Sex", "Race", "Ethnicity")) if about.is_file() else ():
        known = [("gender", cells["Sex"]), ("race", cells["Race"]), ("ethnicity", cells["Ethnicity"])]
        people[cells["ActorID"]] = [*known, ("age", f"{cells['Age'][:-1]}0s")]
    for file in images_in(path, rows.dropped, VIDEO_SUFFIXES):
        match = CREMAD_NAME.fullmatch(file.stem)
        if not match:
            raise DataError(f"{file}: the name is not as published, such as 1001_DFA_ANG_XX.flv")
        actor, sentence, emotion, level = match.groups()
        groups = [("sentence", sentence), ("intensity", CREMAD_LEVELS.get(level, "unspecified"))]
        groups += [*people.get(actor, ()), ACTED]
        fold = (int(actor) - 1001) % folds
        rows.add_clip(file, CREMAD_CODES[emotion], subject=actor, fold=f"{fold + 1}", groups=groups)
    return rows.manifest()
