import pytest

from motivnet.experiments.data_sets import DataName, parse_data


@pytest.mark.parametrize(
    ("text", "name", "source", "split"),
    [
        ("fer2013:/a/fer.parquet@PrivateTest", "FER-2013", "fer2013:/a/fer.parquet", "PrivateTest"),
        ("ckplus:/a/ck?neutral=false", "CK+", "ckplus:/a/ck?neutral=false", None),
        ("folder:/a/faces", "faces", "folder:/a/faces", None),
        ("manifest:own.parquet@test", "own", "manifest:own.parquet", "test"),
        ("FERPlus=manifest:own.parquet@test", "FERPlus", "manifest:own.parquet", "test"),
        ("My set=csv:a.csv?root=/x&split=y", "My set", "csv:a.csv?root=/x&split=y", None),
        ("csv:/home/me@work/a.csv", "a", "csv:/home/me@work/a.csv", None),
        ("csv:/home/me@work/a.csv@val", "a", "csv:/home/me@work/a.csv", "val"),
        ("folder:/a/x@y@", "x@y", "folder:/a/x@y", None),
        ("nonsense", "nonsense", "nonsense", None),
    ],
)
def test_names(text, name, source, split):
    assert parse_data(text) == DataName(name=name, source=source, split=split)


def test_titles():
    assert parse_data("fer2013:x@PublicTest").title == "FER-2013 PublicTest"
    assert parse_data("fer2013:x").title == "FER-2013"
