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


# What deployers of an emotion recognition system have to tell the people exposed to it in the European Union since 2
# August 2026: Regulation (EU) 2024/1689, Article 50(3).
EU_NOTICE = (
    "An emotion recognition system is used here: software names the emotion that people would most likely see in each "
    "face. It does not know what anybody feels. Ask the operator what happens to the pictures."
)

# What some data sets and models have in addition to the emotion, each from -1 to 1, in this order.
AFFECT = ("valence", "arousal")

# Words that data sets and other tools use for the same emotions.
SYNONYMS: Mapping[str, str] = {
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "disgusted": "disgust",
    "angry": "anger",
}


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSet:
    """An ordered set of class names: position i is logit i.

    Args:
        names: class names, distinct, at least two.
    """

    names: tuple[str, ...] = tuple(str(emotion) for emotion in Emotion)

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            DataError: if there are fewer than two, or one is repeated.
        """
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise DataError(f"a label set needs at least two distinct names, found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def index(self, name: str) -> int:
        """Return the position of a label; synonyms such as `happy` or `Angry` are understood.

        Raises:
            DataError: if the set has no such label.
        """
        label = self.find(name)
        if label is None:
            raise DataError(unknown_name("label", name, self.names))
        return self.names.index(label)

    def find(self, name: str) -> str | None:
        """Return the label that `name` stands for, also as a synonym; None if the set has no such label."""
        text = name.strip().lower()
        return next((found for found in (name, text, SYNONYMS.get(text)) if found in self.names), None)


def notice_text(text: str) -> str:
    """Return a notice as given, or `EU_NOTICE` for `eu`."""
    return EU_NOTICE if text == "eu" else text


EMOTIONS = LabelSet()

# AffectNet, CK+ and FERPlus also have contempt, which MotivNet does not predict.
WITH_CONTEMPT = LabelSet((*EMOTIONS, "contempt"))

# Kaggle's fer2013.csv and icml_face_data.csv number the emotions in this order.
FER2013_ORDER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
# CK+'s Emotion files number the emotions from 0 in this order.
CKPLUS_ORDER = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
# RAF-DB's list_patition_label.txt numbers the basic emotions from 1 in this order.
RAFDB_ORDER = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
