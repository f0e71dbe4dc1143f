import pytest

from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, FER2013_ORDER, SYNONYMS, Emotion, LabelSet


def test_the_order_is_that_of_the_released_weights():
    assert EMOTIONS.names == ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
    assert list(EMOTIONS) == [str(emotion) for emotion in Emotion]
    assert len(EMOTIONS) == 7


def test_labels_are_plain_text_to_everything_that_reads_them():
    assert all(type(name) is str for name in EMOTIONS)
    assert Emotion.FEAR == "fear"
    assert f"{Emotion.FEAR}" == "fear"


def test_index_is_the_position():
    assert [EMOTIONS.index(name) for name in EMOTIONS] == list(range(7))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Happy", "happiness"),
        (" ANGRY\n", "anger"),
        ("joy", "happiness"),
        ("Sad", "sadness"),
        ("surprised", "surprise"),
        ("Fearful", "fear"),
        ("afraid", "fear"),
        ("Disgusted", "disgust"),
        ("NEUTRAL", "neutral"),
    ],
)
def test_synonyms_and_case(name, label):
    assert EMOTIONS.names[EMOTIONS.index(name)] == label


def test_no_synonym_is_a_label_or_leads_nowhere():
    assert not set(SYNONYMS) & set(EMOTIONS)
    assert all(emotion in EMOTIONS.names for emotion in SYNONYMS.values())


def test_names_of_other_sets_count_as_they_are_written():
    labels = LabelSet(("Happy", "Sad", "Contempt"))
    assert [labels.index(name) for name in labels] == [0, 1, 2]
    own = LabelSet(("sad", "happy"))
    assert own.index("Happy") == 1


def test_unknown_label_with_a_suggestion():
    with pytest.raises(DataError, match="unknown label 'happines'; did you mean 'happiness'"):
        EMOTIONS.index("happines")
    with pytest.raises(DataError, match=r"unknown label 'contempt'. Allowed: anger, disgust"):
        EMOTIONS.index("contempt")


@pytest.mark.parametrize("names", [(), ("one",), ("a", "b", "a")])
def test_a_set_that_cannot_be_classified_into(names):
    with pytest.raises(DataError, match="at least two distinct names"):
        LabelSet(names)


def test_label_sets_are_values():
    assert LabelSet() == EMOTIONS
    assert hash(LabelSet(("a", "b"))) == hash(LabelSet(("a", "b")))
    assert LabelSet(("a", "b")) != LabelSet(("b", "a"))


def test_fer2013_numbers_every_emotion_once():
    assert set(FER2013_ORDER) == set(Emotion)
    assert len(FER2013_ORDER) == 7
    assert [str(emotion) for emotion in FER2013_ORDER] == [
        "anger",
        "disgust",
        "fear",
        "happiness",
        "sadness",
        "surprise",
        "neutral",
    ]
