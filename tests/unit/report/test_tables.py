import math

import pytest

from motivnet.errors import OutputError
from motivnet.report.page import Block, p_value, points, to_html, to_json, to_markdown

BLOCKS = [
    Block("First", ("A line\nof <text>.",), [{"a|b": "x | y", "n": 1234, "none": None, "empty": ""}], ("Note.",)),
    Block("Second", ("Only words.",)),
]


def test_markdown():
    assert to_markdown("Title", BLOCKS) == (
        "# Title\n\n## First\n\nA line of &lt;text>.\n\n| a\\|b | n | none | empty |\n| --- | --- | --- | --- |\n"
        "| x \\| y | 1,234 | \N{EN DASH} |  |\n\nNote.\n\n## Second\n\nOnly words.\n"
    )


def test_names_are_not_read_as_markup():
    assert "snake\\_case \\*bold\\* \\`code\\` a\\\\b" in to_markdown(
        "T", [Block("B", ("snake_case *bold* `code` a\\b",))]
    )


def test_html_says_the_same():
    page = to_html("Title", BLOCKS)
    for text in ("First", "A line\nof &lt;text&gt;.", "x | y", "1,234", "Note.", "Only words."):
        assert text in page


def test_json_has_no_nan():
    assert to_json({"a": [1, None]}) == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(OutputError, match="not JSON compliant"):
        to_json({"a": math.nan})


def test_points_and_p_values():
    assert points(0.0123, -0.001, 0.025) == "+1.2 [-0.1, +2.5]"
    assert points(-0.5) == "-50.0"
    assert points(None) == points(math.nan) == "\N{EN DASH}"
    assert (p_value(0.0004), p_value(0.0312), p_value(None)) == ("< 0.001", "0.031", None)
