"""The seven emotions, their order, and how the labels of data sets map onto them."""

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from motivnet.errors import DataError, unknown_name


class Emotion(enum.StrEnum):
    """One of the seven emotions, in the order of the released MotivNet weights."""

    NEUTRAL = "neutral"
    HAPPINESS = "happiness"
    SADNESS = "sadness"
    SURPRISE = "surprise"
    FEAR = "fear"
    DISGUST = "disgust"
    ANGER = "anger"


# What some data sets and models give beside the emotion, each from -1 to 1, in this order.
AFFECT = ("valence", "arousal")

# Words that data sets and other tools use for the same seven things.
SYNONYMS: Mapping[str, Emotion] = {
    "happy": Emotion.HAPPINESS,
    "joy": Emotion.HAPPINESS,
    "sad": Emotion.SADNESS,
    "surprised": Emotion.SURPRISE,
    "fearful": Emotion.FEAR,
    "afraid": Emotion.FEAR,
    "disgusted": Emotion.DISGUST,
    "angry": Emotion.ANGER,
}


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSet:
    """An ordered set of class names: position i is logit i.

    Args:
        names: class names, distinct, at least two.
    """

    names: tuple[str, ...] = tuple(str(emotion) for emotion in Emotion)

    def __post_init__(self) -> None:
        """Refuse a set that cannot be classified into.

        Raises:
            DataError: at fewer than two names, or one named twice.
        """
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise DataError(f"a label set needs at least two distinct names, found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def index(self, name: str) -> int:
        """Give the position of a label; synonyms such as `happy` or `Angry` count.

        Raises:
            DataError: if the set has no such label.
        """
        if name in self.names:
            return self.names.index(name)
        text = name.strip().lower()
        text = text if text in self.names else str(SYNONYMS.get(text, text))
        if text not in self.names:
            raise DataError(unknown_name("label", name, self.names))
        return self.names.index(text)


EMOTIONS = LabelSet()

# AffectNet, CK+ and FERPlus know contempt as well, which MotivNet does not.
WITH_CONTEMPT = LabelSet((*EMOTIONS, "contempt"))

# Kaggle's fer2013.csv and icml_face_data.csv number the emotions in this order.
FER2013_ORDER = (
    Emotion.ANGER,
    Emotion.DISGUST,
    Emotion.FEAR,
    Emotion.HAPPINESS,
    Emotion.SADNESS,
    Emotion.SURPRISE,
    Emotion.NEUTRAL,
)

# CK+'s Emotion files number the emotions from 0 in this order.
CKPLUS_ORDER = (
    Emotion.NEUTRAL,
    Emotion.ANGER,
    "contempt",
    Emotion.DISGUST,
    Emotion.FEAR,
    Emotion.HAPPINESS,
    Emotion.SADNESS,
    Emotion.SURPRISE,
)

# RAF-DB's list_patition_label.txt numbers the basic emotions from 1 in this order.
RAFDB_ORDER = (
    Emotion.SURPRISE,
    Emotion.FEAR,
    Emotion.DISGUST,
    Emotion.HAPPINESS,
    Emotion.SADNESS,
    Emotion.ANGER,
    Emotion.NEUTRAL,
)
