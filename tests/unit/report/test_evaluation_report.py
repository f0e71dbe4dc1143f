import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from motivnet.data.manifest import make_manifest
from motivnet.evaluation.evaluate import score
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.labels import LabelSet
from motivnet.preprocess import Box
from motivnet.report.evaluation_report import evaluation_report

LABELS = LabelSet(("calm", "<b>joy</b> $x_{", "absent"))
EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, words = [], [], []
        self.handle_data = words.append
        self.feed(page)
        self.text = " ".join(" ".join(words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    handle_startendtag = handle_starttag


@pytest.fixture
def predictions(tmp_path):
    """Six images, the last not on disk: three right answers, two wrong, one without a face; names that are HTML."""
    paths = []
    for row, grey in enumerate((0, 50, 100, 150, 200)):
        paths.append(tmp_path / f"{row}{'<i>' if row == 3 else ''}.png")
        Image.new("L", (40, 20), grey).save(paths[-1])
    paths.append(tmp_path / "gone.png")
    target = [0, 0, 1, 0, 1, 1]
    probs = np.array(
        [[0.7, 0.2, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.9, 0.0], [np.nan] * 3, [0.95, 0.05, 0.0]]
    )
    manifest = make_manifest(
        {
            "path": [str(path) for path in paths],
            "label": [LABELS.names[index] for index in target],
            "split": ["test"] * 6,
            "groups": [[("who", EVIL)], *[[("who", f"g{row}")] for row in range(5)]],
        },
        LABELS,
    )
    protocol = Protocol(
        model=EVIL,
        model_fingerprint="abc",
        data=f"folder:somewhere/{EVIL}?x=1",
        data_fingerprint="def",
        split="test",
        n=6,
        dropped={f"label {EVIL}": 4},
        labels=LABELS.names,
        detection="two: the largest face counts",
    )
    status = ("ok", "ok", "ok", "ok", "no_face", "ok")
    return Predictions(
        manifest=manifest, probs_BC=probs, status=status, protocol=protocol, faces={3: Box(0, 0, 10, 20)}
    )


def test_says_what_was_measured_and_what_came_out(predictions):
    page = Page(evaluation_report(score(predictions)))
    for words in (
        "folder:somewhere/",
        "4 (label <img",
        "1 without a detected face: counted as errors",
        "(no image of absent)",
        "95%, percentiles of 1,000 resamples by image, seed 0",
        "WAR (accuracy) 50.0 % [",
        "no answer",
        "Reliability diagram",
        "calm 95.0 % label: <b>joy</b> $x_{ row 5 gone.png (no such file)",
        "<b>joy</b> $x_{ 90.0 % label: calm row 3 3<i>.png",
        "who g4 1 0.0 %",
        "pass this page on only where its terms allow",
    ):
        assert words in page.text, words
    # The most confident mistake comes first.
    assert page.text.index("row 5 gone") < page.text.index("row 3 3<i>")
    assert page.text.index("Protocol") < page.text.index("Metrics")


def test_is_self_contained_and_escapes_data(predictions):
    html = evaluation_report(score(predictions))
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("data:", "#")) for value in sources)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "b" not in page.tags
    assert "i" not in page.tags
    assert not re.search(r"url\((?!#)", html)
    assert evaluation_report(score(predictions)) == html


def test_without_thumbnails_mistakes_are_named(predictions):
    html = evaluation_report(score(predictions), with_thumbnails=False)
    page = Page(html)
    assert "data:image" not in html
    assert "pass this page on" not in page.text
    assert "gone.png <b>joy</b> $x_{ calm 95.0 %" in page.text


def test_answers_without_probabilities_have_fewer_sections(predictions):
    probs = np.eye(3)[[0, 0, 1, 1, 0, 0]]
    probs[4] = np.nan
    bare = Predictions(
        manifest=predictions.manifest,
        probs_BC=probs,
        status=predictions.status,
        protocol=predictions.protocol,
        has_probs=False,
    )
    page = Page(evaluation_report(score(bare, intervals=False)))
    assert "WAR (accuracy) 50.0 %" in page.text
    assert "mistakes" not in page.text
    assert "trusted" not in page.text
    assert "Log loss \N{EN DASH}" in page.text


def test_many_values_of_a_group_are_cut_short_and_that_is_said():
    num_images = 60
    manifest = make_manifest(
        {
            "image": [b"x"] * num_images,
            "label": ["calm"] * num_images,
            "split": ["test"] * num_images,
            "groups": [[("id", f"{row:02}")] for row in range(num_images)],
        },
        LABELS,
    )
    protocol = Protocol(
        model="m", data="folder:x", data_fingerprint="d", n=num_images, labels=LABELS.names, detection="none"
    )
    predictions = Predictions(
        manifest=manifest,
        probs_BC=np.tile([1.0, 0.0, 0.0], (num_images, 1)),
        status=("ok",) * num_images,
        protocol=protocol,
    )
    page = Page(evaluation_report(score(predictions, intervals=False)))
    assert "id 39" in page.text
    assert "id 40" not in page.text
    assert "Not shown, but in metrics.json: 20 of id." in page.text
    assert "None." in page.text  # no mistakes
