"""The page without a server, opened from the disk in a real browser without a network: the answers are Python's."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

from motivnet.inference.predictor import Predictor
from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS
from motivnet.server.static_page import write_page

# The runtime starts once a page, and one core computes.
PATIENCE_MS = 240_000


def encoded(image_hwc_u8: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_hwc_u8).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("static") / "page")


@pytest.fixture(scope="module")
def visit_file(browser: Any, index: Path) -> Iterator[Callable[..., Any]]:
    """Open the page by its file, offline; at the end it asked for nothing but its own files, and nothing failed."""
    seen: list[str] = []
    # The last is what one test is about.
    known = ("Multiple readback operations", "example.org")

    def listen(message: Any) -> None:
        if message.type in ("error", "warning") and not any(remark in message.text for remark in known):
            seen.append(message.text)

    def check(request: Any) -> None:
        if not request.url.startswith((index.parent.as_uri(), "blob:", "data:")):
            seen.append(f"request to {request.url}")

    with contextlib.ExitStack() as stack:

        def open_page(**options: Any) -> Any:
            context = stack.enter_context(browser.new_context(**options))
            context.set_default_timeout(PATIENCE_MS)
            context.set_offline(True)
            page = context.new_page()
            page.on("console", listen)
            page.on("pageerror", lambda error: seen.append(str(error)))
            page.on("request", check)
            page.goto(index.as_uri())
            page.wait_for_selector("#model:not(:empty)", state="attached")
            return page

        yield open_page
    assert seen == []


@pytest.fixture(scope="module")
def photographs(astronaut: np.ndarray, grace_hopper: np.ndarray) -> dict[str, bytes]:
    """Ten photographs: of one and two faces, of several sizes, kinds of files, orientations and scales."""
    collins, hopper = Image.fromarray(astronaut), Image.fromarray(grace_hopper)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    collins.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=92, exif=exif)
    clear = collins.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size).point(lambda value: 255 - value // 8))
    both = np.hstack([astronaut, np.asarray(hopper.resize((433, 512)))])
    return {
        "collins.png": encoded(astronaut),
        "hopper.jpg": encoded(grace_hopper, "JPEG", quality=90),
        "mirrored.png": encoded(astronaut[:, ::-1]),
        "small.png": encoded(np.asarray(collins.resize((200, 200)))),
        "two.jpg": encoded(both, "JPEG", quality=85),
        "face.png": encoded(astronaut[60:170, 170:270]),
        "double.png": encoded(np.asarray(collins.resize((1280, 1280)))),
        "large.webp": encoded(np.asarray(hopper.resize((1300, 1539))), "WEBP", lossless=True),
        "turned.jpg": turned.getvalue(),
        "clear.png": encoded(np.asarray(clear)),
    }


def upload(page: Any, *files: tuple[str, bytes]) -> None:
    kinds = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
    given = [{"name": name, "mimeType": kinds[name.rpartition(".")[2]], "buffer": data} for name, data in files]
    page.set_input_files("#files", given)
    expect(page.locator("#thumbs li")).to_have_count(len(files), timeout=PATIENCE_MS)
    expect(page.locator("#progress")).to_be_hidden()


def saved(page: Any, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_text(encoding="utf-8")


def test_answers_are_those_of_python(visit_file, photographs):
    page = visit_file()
    upload(page, *photographs.items())
    got = json.loads(saved(page, "#json"))["results"]
    wanted = [result.to_dict() for result in Predictor.load("nano").predict(list(photographs.values()))]
    assert sum(len(result["faces"]) for result in wanted) >= 11
    for one, other, name in zip(got, wanted, photographs, strict=True):
        assert one["source"] == name
        assert {key: one[key] for key in ("status", "error", "model", "preprocessing")} == {
            key: other[key] for key in ("status", "error", "model", "preprocessing")
        }
        for face, expected in zip(one["faces"], other["faces"], strict=True):
            assert list(face) == list(expected)
            assert [face[key] for key in ("face", "emotion", "tiny")] == [
                expected[key] for key in ("face", "emotion", "tiny")
            ]
            numbers = ("x", "y", "width", "height")
            assert [face[key] for key in numbers] == pytest.approx([expected[key] for key in numbers], abs=0.05), name
            assert face["face_score"] == pytest.approx(expected["face_score"], abs=1e-3), name
            assert face["probs"] == pytest.approx(expected["probs"], abs=1e-3), name
    rows = list(csv.DictReader(io.StringIO(saved(page, "#csv"), newline="")))
    assert list(rows[0]) == list(all_columns(EMOTIONS))
    assert len(rows) == sum(len(result["faces"]) or 1 for result in wanted)


def test_what_is_no_photograph_is_said(visit_file):
    page = visit_file()
    upload(page, ("broken.jpg", b"not an image"))
    expect(page.locator("#broken-text")).to_contain_text("broken.jpg: not an image that this browser can read")
    page.set_input_files("#files", [{"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"video"}])
    expect(page.locator("#messages")).to_contain_text("takes photographs only")


def test_nothing_can_be_sent(visit_file):
    page = visit_file()
    ask = "fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    # Also with a network: the page's own policy forbids it.
    page.context.set_offline(False)
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        assert page.evaluate(ask) == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_and_says_what_it_is(visit_file, photographs, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = visit_file(color_scheme=scheme, bypass_csp=True)
    upload(page, ("two.jpg", photographs["two.jpg"]))
    # Its preloading of styles is a request, which files do not answer.
    found = axe.Axe().run(page, options={"preload": False})
    assert found.violations_count == 0, found.generate_report()
    expect(page.locator(".local")).to_be_visible()
    assert page.locator(".served:visible").count() == 0
    for words in ("not what a person feels", "2024/1689", "not allowed to send anything"):
        expect(page.locator("main")).to_contain_text(words)


def test_keyboard_alone(visit_file, photographs):
    page = visit_file()
    upload(page, ("two.jpg", photographs["two.jpg"]))
    page.locator("#camera").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#faces button").first).to_have_attribute("aria-pressed", "true")
