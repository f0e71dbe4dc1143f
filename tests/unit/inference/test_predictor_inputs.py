"""Inputs beyond files and arrays: URLs, data URLs, tensors, named images."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet import remote
from motivnet.errors import ImageError
from motivnet.images import NamedImage
from motivnet.inference import predictor
from motivnet.inference.predictor import Predictor
from motivnet.remote import FetchLimits

BRIGHT, DARK = np.full((48, 64, 3), 255, np.uint8), np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def whole(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, detector="whole")


@pytest.fixture
def png(tmp_path: Path) -> bytes:
    Image.fromarray(BRIGHT).save(tmp_path / "bright.png")
    return (tmp_path / "bright.png").read_bytes()


class TestUrls:
    def test_urls_are_fetched_within_the_limits(self, tiny_bundle, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def fetch(url: str, limits: FetchLimits | None) -> bytes:
            asked.append((url, limits))
            if "bad" in url:
                raise ImageError("cannot be fetched: there is no host bad.test")
            return png

        monkeypatch.setattr(predictor, "fetch", fetch)
        limits = FetchLimits(public_only=True)
        reader = Predictor.load(tiny_bundle.path, detector="whole", fetch_limits=limits, workers=1)
        good, bad, last = reader.predict(["https://me:secret@x.test/a.png?b", "http://bad.test/", "HTTP://x.test/"])
        assert asked == [
            (url, limits) for url in ("https://me:secret@x.test/a.png?b", "http://bad.test/", "HTTP://x.test/")
        ]
        assert (good.source, good.faces[0].emotion) == ("https://x.test/a.png?b", "happiness")
        assert (bad.source, bad.status) == ("http://bad.test/", "unreadable")
        assert bad.error == "cannot be fetched: there is no host bad.test"
        assert last.status == "ok"
        np.testing.assert_array_equal(good.picture(), BRIGHT)

    def test_one_url_alone_is_one_input(self, whole: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote.socket, "getaddrinfo", lambda *_, **__: [])
        (only,) = whole.predict("http://nowhere.test/a.jpg")
        assert (only.status, "nowhere.test" in str(only.error)) == ("unreadable", True)

    def test_a_path_object_is_a_path_whatever_it_looks_like(self, whole: Predictor) -> None:
        (only,) = whole.predict(Path("http://nowhere.test/a.jpg"))
        assert only.error == "no such file"


def test_data_urls_are_images_and_named_by_position(whole: Predictor, png: bytes) -> None:
    url = f"data:image/png;base64,{b64encode(png).decode()}"
    good, bad = whole.predict([url, "data:image/png;base64,****"])
    assert (good.source, good.faces[0].emotion) == ("<data URL 0>", "happiness")
    assert (bad.source, bad.status) == ("<data URL 1>", "unreadable")
    assert whole.predict(url)[0].faces == good.faces


def test_a_tensor_is_one_image(whole: Predictor) -> None:
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(BRIGHT).permute(2, 0, 1)
    (only,) = whole.predict(image)
    assert (only.source, only.width, only.height) == ("<tensor 0>", 64, 48)
    assert only.faces[0].emotion == "happiness"
    (batch,) = whole.predict(image[None])
    assert batch.status == "unreadable"
    assert "list(batch)" in str(batch.error)
    assert [each.status for each in whole.predict(list(torch.stack([image, image])))] == ["ok", "ok"]


def test_named_images_carry_their_names_and_their_errors(whole: Predictor) -> None:
    (good, bad) = whole.predict([NamedImage("x", BRIGHT), NamedImage("y", ImageError("out of film"))])
    assert (good.source, good.status) == ("x", "ok")
    assert (bad.source, bad.status, bad.error) == ("y", "unreadable", "out of film")
    assert whole.predict(NamedImage("z", DARK))[0].source == "z"
