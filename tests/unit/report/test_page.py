import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from motivnet.evaluation.resampling import Interval
from motivnet.report.page import (
    Block,
    facts,
    figure,
    heat_map,
    new_figure,
    percent,
    table,
    text,
    thumbnail,
    thumbnails,
    to_html,
)

EVIL = '<script>alert("x")</script>&amp;'
VOID = {"meta", "img", "br", "link", "input"}


class Balanced(HTMLParser):
    """Collects tags, attributes and text, and fails where a tag is closed that was not open."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def assert_self_contained(page):
    """Nothing is loaded, nothing runs."""
    parsed = Balanced(page)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), value
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def draw(label):
    with new_figure() as drawn:
        axes = drawn.subplots()
        axes.bar([0, 1], [1, 2], label=label)
        axes.set_xticks([0, 1], [label, "b"])
        axes.legend()
        return figure(drawn, label, caption=label)


def test_whatever_comes_from_data_is_escaped_everywhere():
    image = np.zeros((4, 4, 3), np.uint8)
    parts = [
        text(EVIL),
        facts({EVIL: EVIL}),
        table([{EVIL: EVIL}]),
        heat_map(np.eye(2), [EVIL, "b"], [EVIL, "b"], caption=EVIL),
        thumbnails([thumbnail(image, EVIL)]),
        draw(EVIL),
    ]
    page = to_html(EVIL, [Block(EVIL, html="".join(parts))])
    assert_self_contained(page)
    # Once in each place, as text.
    assert "".join(Balanced(page).words).count(EVIL) >= 10


def test_a_page_has_its_sections_in_order():
    page = to_html("Title", [Block("One", ("first",)), Block("", notes=("second",))])
    assert page.startswith("<!doctype html>")
    assert page.index("<h1>Title</h1>") < page.index("<h2>One</h2>") < page.index("first") < page.index("second")
    assert page.count("<h2>") == 1
    assert "<title>Title</title>" in page


def test_helpers_can_be_put_together_and_into_each_other():
    html = text("a < b") + facts({"inner": table([{"x": 1}])})
    assert "a &lt; b" in html
    assert html.count("<table>") == 2


def test_cells_are_written_by_their_kind():
    rows = [
        {"name": "a", "count": 12345, "score": 0.69162, "share": "69.2 % [67.7, 70.6]", "flag": True},
        {"name": "b", "count": np.int64(7), "score": float("nan"), "share": "\N{EN DASH}"},
    ]
    html = table(rows)
    for cell in ("12,345", "0.692", "True", "7"):
        assert f">{cell}</td>" in html
    assert '<td class="num">\N{EN DASH}</td>' in html
    assert html.count('<th class="num">') == 3
    assert "<th>name</th>" in html


def test_a_table_without_rows_says_so():
    assert "None." in table([])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.69162,), "69.2 %"),
        ((0.69162, Interval(0.677, 0.7063)), "69.2 % [67.7, 70.6]"),
        ((float("nan"),), "\N{EN DASH}"),
        ((0.5, Interval(float("nan"), float("nan"))), "50.0 %"),
    ],
)
def test_percent(arguments, expected):
    assert percent(*arguments) == expected


def test_heat_map_shows_share_and_count():
    html = heat_map(np.array([[3, 1, 0], [0, 0, 0]]), ["fear", "anger"], ["fear", "anger", "no answer"])
    assert "75 %<small>3</small>" in html
    assert "25 %<small>1</small>" in html
    assert html.count("\N{EN DASH}<small>0</small>") == 3
    assert html.count('class="right"') == 2
    assert "rgba(var(--blue), 0.75); color: #fff" in html


def test_figures_are_inline_text_that_depends_on_nothing_else():
    svg = draw("$x^{2$")
    assert svg == draw("$x^{2$")
    assert '<svg role="img" aria-label="$x^{2$"' in svg
    assert svg.count("$x^{2$") >= 4
    assert "<metadata>" not in svg
    assert "<?xml" not in svg
    assert ' id="figure' not in svg


def test_thumbnails_are_small_pngs():
    image = np.zeros((300, 200, 3), np.uint8)
    image[:150] = (255, 0, 0)
    html = thumbnail(image, "fear\nrow 3")
    data = re.search(r"base64,([^\"]+)", html)
    assert data
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as small:
        assert (small.format, small.size) == ("PNG", (64, 96))
        assert small.getpixel((5, 5)) == (255, 0, 0)
    assert "fear\nrow 3" in html
