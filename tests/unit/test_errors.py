import inspect
import pickle
import re

import pytest

from motivnet import errors
from motivnet.errors import MissingExtraError, MotivNetError, unknown_name

ALL = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, MotivNetError)]


def test_the_tree_in_the_docstring_is_the_whole_tree():
    drawn = set(re.findall(r"\w+Error", errors.__doc__))
    assert drawn == {cls.__name__ for cls in ALL}


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not MissingExtraError])
def test_one_base_catches_every_error_and_the_message_is_kept(cls):
    with pytest.raises(MotivNetError, match=r"^what was wrong$"):
        raise cls("what was wrong")


def test_a_missing_extra_says_how_to_install_it():
    assert str(MissingExtraError("pyarrow", "parquet")) == (
        "this needs pyarrow, which is not installed: pip install 'motivnet[parquet]'"
    )


@pytest.mark.parametrize("cls", ALL)
def test_errors_survive_the_way_out_of_a_worker_process(cls):
    error = cls("pyarrow", "parquet") if cls is MissingExtraError else cls("message")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)


def test_unknown_name_suggests_and_lists_in_order():
    message = unknown_name("detector", "whol", ["yunet", "whole", "libfacedetection"])
    assert message == ("unknown detector 'whol'; did you mean 'whole'? Allowed: libfacedetection, whole, yunet")


def test_unknown_name_does_not_suggest_what_is_far_off():
    assert unknown_name("model", "zzz", ["nano"]) == "unknown model 'zzz'. Allowed: nano"


def test_unknown_name_takes_any_iterable_once():
    assert unknown_name("model", "b", (name for name in "ca")) == "unknown model 'b'. Allowed: a, c"


def test_reraised_keeps_the_message_and_lets_other_exceptions_pass():
    with pytest.raises(errors.DataError, match=r"^a\.csv: cannot be read: no number$"):  # noqa: SIM117
        with errors.reraised(errors.DataError, "a.csv: cannot be read", OSError, ValueError):
            raise ValueError("no number")
    with pytest.raises(KeyError), errors.reraised(errors.DataError, "a.csv", OSError):
        raise KeyError
