"""The page in a real browser, with the real model behind it."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from playwright.sync_api import expect

from motivnet.inference.draw import COLORS
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import all_columns, face_columns
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box
from motivnet.server.schemas import Explanations

TOKEN = "s3cret"
SMALL_BYTES = 200_000
# Machines that test may be slow.
PATIENCE_MS = 120_000
ORANGE = tuple(bytes.fromhex(COLORS["happiness"][1:]))
# Notes when images are sent, and how many at once.
WATCH = """
    window.asked = { now: 0, most: 0, times: [] };
    const ask = window.fetch;
    window.fetch = async (address, options) => {
        if (!String(address).endsWith("v1/predict")) return ask(address, options);
        asked.times.push(performance.now());
        asked.most = Math.max(asked.most, ++asked.now);
        try { return await ask(address, options); } finally { asked.now -= 1; }
    };
"""


def upload(page, *files, finished: int | None = None) -> None:
    """Choose files, and wait until they are answered; `finished` is the length of the history then."""
    page.set_input_files("#files", list(files))
    expect(page.locator("#thumbs li")).to_have_count(len(files) if finished is None else finished, timeout=PATIENCE_MS)
    expect(page.locator("#progress")).to_be_hidden()


def pixel(page, canvas: str, x: float, y: float) -> tuple[int, ...]:
    """Give the colour at a place of a canvas, in shares of its sides."""
    read = """([selector, x, y]) => {
        const canvas = document.querySelector(selector);
        const at = [Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1];
        return [...canvas.getContext("2d").getImageData(...at).data].slice(0, 3);
    }"""
    return tuple(page.evaluate(read, [canvas, x, y]))


def saved(page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    assert re.fullmatch(r"motivnet-\d{8}-\d{6}\.(csv|json)", download.value.suggested_filename)
    return download.value.path().read_text(encoding="utf-8")


class TestPhotographs:
    def test_one_face(self, visit, face):
        page = visit()
        with page.expect_response("**/v1/predict") as answer:
            upload(page, face)
        (found,) = answer.value.json()["results"][0]["faces"]
        expect(page.locator("#status")).to_contain_text("astronaut.jpg: 1 face. Face 0: happiness, 9")
        expect(page.locator("#picture")).to_have_attribute("aria-label", re.compile("astronaut.*1 face.*happiness"))
        item = page.get_by_role("list", name="Faces").get_by_role("listitem")
        expect(item).to_have_count(1)
        expect(item).to_contain_text("Face 0 · upper centre")
        rows = item.get_by_role("row")
        assert [row.get_by_role("rowheader").inner_text() for row in rows.all()] == list(EMOTIONS)
        shown = [row.get_by_role("cell").last.inner_text() for row in rows.all()]
        assert shown == [f"{prob:.0%}" if prob >= 0.005 else "<1%" for prob in found["probs"].values()]
        x, y, height = (found[name] / 512 for name in ("x", "y", "height"))
        assert np.abs(np.subtract(pixel(page, "#picture", x, y + height / 2), ORANGE)).max() < 8

    def test_two_faces_one_brought_out(self, visit, two_faces):
        page = visit()
        upload(page, two_faces)
        first, second = page.locator("#faces button").all()
        expect(first).to_contain_text("Neutral")
        expect(second).to_contain_text("Happiness")
        second.focus()
        page.keyboard.press("Enter")
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(first).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("Enter")
        expect(second).to_have_attribute("aria-pressed", "false")
        page.get_by_text("As a table").click()
        table = page.get_by_role("region", name="Table of the faces").get_by_role("table")
        expect(table.get_by_role("row")).to_have_count(3)
        expect(table.get_by_role("row").nth(2)).to_contain_text("happiness")

    def test_several_good_and_bad(self, visit, face, no_face, no_image):
        page = visit()
        upload(page, face, no_image, no_face)
        expect(page.locator("#status")).to_contain_text("grey.png: no face found.")
        expect(page.locator("#history-note")).to_contain_text("3 photographs, 1 face")
        page.get_by_role("button", name="broken.jpg: cannot be read").click()
        expect(page.locator("#broken")).to_contain_text("broken.jpg: not an image")
        expect(page.locator("#picture")).to_be_hidden()
        expect(page.locator("#faces")).to_be_hidden()
        page.get_by_role("button", name="astronaut.jpg").click()
        expect(page.locator("#picture")).to_be_visible()
        expect(page.locator(".face .emotion")).to_have_text("Happiness")
        expect(page.locator("[aria-current=true]")).to_have_count(1)

    def test_table_has_valence_and_landmarks_where_faces_have_them(self, visit):
        probs = dict.fromkeys(EMOTIONS, 1 / 7)
        eyes_nose_mouth = ((30.0, 40.0), (70.0, 40.0), (50.0, 60.0), (35.0, 80.0), (65.0, 80.0))
        found = FaceResult(Box(0, 0, 99, 99), 0.9, "fear", probs, valence=0.5, arousal=-0.5, landmarks=eyes_nose_mouth)
        table = visit().evaluate(
            """async (face) => {
                const { toCsv } = await import(new URL("page/export.js", document.baseURI));
                return toCsv([{ result: { source: "a.jpg", status: "ok", faces: [face] } }]);
            }""",
            {"face": 0, **face_columns(found), "probs": probs},
        )
        (row,) = csv.DictReader(io.StringIO(table, newline=""))
        assert list(row) == list(all_columns(EMOTIONS, landmarks=True, affect=True))
        assert (row["valence"], row["nose_y"]) == ("0.5", "60")

    def test_downloads_and_clearing(self, visit, face, no_face, no_image, astronaut):
        # As phones store photographs: on the side, with a note.
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.rot90(astronaut[:, 40:440]))).save(buffer, "JPEG", exif=exif)
        turned = {"name": '=a "turned", one.jpg', "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
        page = visit()
        upload(page, face, turned, no_face, no_image)
        results = json.loads(saved(page, "#json"))["results"]
        names = ["astronaut.jpg", '=a "turned", one.jpg', "grey.png", "broken.jpg"]
        assert [result["source"] for result in results] == names
        assert [result["status"] for result in results] == ["ok", "ok", "no_face", "unreadable"]
        rows = list(csv.DictReader(io.StringIO(saved(page, "#csv"), newline="")))
        assert list(rows[0]) == list(all_columns(EMOTIONS))
        # A spreadsheet shows a name that begins like a formula, and does not calculate it.
        assert [row["source"] for row in rows] == [name.replace("=", "'=") for name in names]
        for row, result in zip(rows[:2], results[:2], strict=True):
            (found,) = result["faces"]
            assert all(float(row[name]) == found[name] for name in ("x", "y", "width", "height"))
            assert {label: float(row[f"prob_{label}"]) for label in EMOTIONS} == found["probs"]
            assert (row["face"], row["tiny"], row["abstained"]) == ("0", "False", "False")
        assert [(row["image_width"], row["image_height"]) for row in rows[:2]] == [("512", "512"), ("400", "512")]
        assert rows[3]["error"] == results[3]["error"]
        page.click("#clear")
        expect(page.locator("#history")).to_be_hidden()
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#picture")).to_be_hidden()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]

    def test_names_are_text(self, visit, no_image):
        page = visit()
        name = "<script>alert(1)</script><img src=x onerror=alert(2)>.png"
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        upload(page, no_image | {"name": name})
        expect(page.locator("#broken-text")).to_contain_text(name)
        expect(page.locator("#status")).to_contain_text(name)
        expect(page.locator("script, img")).to_have_count(2)

    def test_paste(self, visit, face):
        page = visit(permissions=["clipboard-read", "clipboard-write"])
        with Image.open(io.BytesIO(face["buffer"])) as image:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
        copy = """async (data) => {
            const blob = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }"""
        page.evaluate(copy, base64.b64encode(buffer.getvalue()).decode())
        page.locator("#choose").focus()
        page.keyboard.press("Control+V")
        expect(page.locator("#thumbs li")).to_have_count(1)
        expect(page.locator(".face .emotion")).to_have_text("Happiness")

    def test_drop(self, visit, face, tmp_path):
        page = visit()
        file = tmp_path / face["name"]
        file.write_bytes(face["buffer"])
        (tmp_path / "holiday").mkdir()
        devtools = page.context.new_cdp_session(page)
        dropped = {"items": [], "files": [str(file), str(tmp_path / "holiday")], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver"):
            devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 500, "data": dropped})
        expect(page.locator("#drop-hint")).to_be_visible()
        devtools.send("Input.dispatchDragEvent", {"type": "drop", "x": 300, "y": 500, "data": dropped})
        expect(page.locator("#drop-hint")).to_be_hidden()
        expect(page.locator("#thumbs li")).to_have_count(1)
        expect(page.locator("#messages")).to_contain_text("holiday: a folder")

    def test_heat_map_below_a_path(self, visit, two_faces):
        page = visit("below/a/path/")
        upload(page, two_faces)
        face = json.loads(saved(page, "#json"))["results"][0]["faces"][0]
        x, y, width, height = (face[name] for name in ("x", "y", "width", "height"))
        hot, cold = ((x + width * share) / 945 for share in (0.2, 0.8))
        level = (y + height * 0.2) / 512
        before = pixel(page, "#picture", hot, level), pixel(page, "#picture", cold, level)
        with page.expect_response("**/v1/explain") as answer:
            page.get_by_role("button", name="Heat map").click()
        assert Explanations.model_validate(answer.value.json())
        expect(page.locator("#legend")).to_be_visible()
        after = pixel(page, "#picture", hot, level), pixel(page, "#picture", cold, level)
        # Towards the ends of the ramp: yellow, and the darkest blue.
        assert np.abs(np.subtract(after[0], (252, 214, 80))).max() < 60
        assert sum(after[1]) < sum(before[1])
        page.get_by_role("button", name="Heat map").click()
        expect(page.locator("#legend")).to_be_hidden()
        assert pixel(page, "#picture", hot, level) == before[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut):
    """Two seconds, at ten frames a second: a face that comes after half a second. In a format of every Chromium."""
    av = pytest.importorskip("av", reason="the extra 'serve' is not installed")
    path = tmp_path_factory.mktemp("clip") / "clip.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.height, stream.width, stream.pix_fmt = 256, 320, "yuv420p"
        for number in range(20):
            image = np.full((256, 320, 3), 90, np.uint8)
            if number >= 5:
                image[:, number : number + 256] = astronaut[::2, ::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


class TestVideos:
    def test_timeline_player_and_table(self, visit, clip, face):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        page = visit("below/a/path/", bypass_csp=True)
        expect(page.locator("#video-note")).to_contain_text("Videos up to 60 s, 100.0 MB and 8.8 megapixels; 10 frames")
        with page.expect_response("**/v1/video") as answer:
            upload(page, clip, finished=1)
        (result,) = answer.value.json()["results"]
        expect(page.locator("#status")).to_contain_text("clip.webm: 1 face.")
        chart = page.get_by_role("img", name=re.compile(r"Timeline. Face #0: seen for 1\.[3-6] s, mostly happiness"))
        expect(chart).to_be_visible()
        expect(chart.locator("path")).to_have_count(len(EMOTIONS))
        expect(page.get_by_role("list", name="Colours of the lines").get_by_role("listitem")).to_have_text(
            list(EMOTIONS)
        )
        # Pressed near its end, where the face is.
        chart.click(position={"x": chart.bounding_box()["width"] * 0.9, "y": 20})
        page.wait_for_function("document.querySelector('#clip').currentTime > 1.5")
        expect(page.locator(".face .emotion")).to_have_text("Happiness")
        expect(page.locator(".face .where")).to_contain_text("Face 0")
        drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        assert page.locator("#clip-overlay").evaluate(drawn)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        upload(page, face, finished=2)
        expect(chart).to_be_hidden()
        expect(page.locator("#history-note")).to_contain_text("2 files, 2 faces")
        rows = list(csv.DictReader(io.StringIO(saved(page, "#csv"), newline="")))
        assert list(rows[0]) == list(all_columns(EMOTIONS))
        assert [row["source"] for row in rows] == ["clip.webm"] * 20 + ["astronaut.jpg"]
        for row, wanted in zip(rows, result["rows"], strict=False):
            assert (row["frame"], row["status"]) == (str(wanted["frame"]), wanted["status"])
            assert row["prob_happiness"] == ("" if wanted["prob"] is None else str(wanted["prob_happiness"]))

    def test_broken_too_long_and_too_large(self, visit, clip):
        page = visit("small/")
        expect(page.locator("#video-note")).to_contain_text("Videos up to 1 s, 200 kB")
        long = {"name": "clip.webm", "mimeType": "video/webm", "buffer": clip.read_bytes()}
        upload(page, {"name": "broken.mp4", "mimeType": "video/mp4", "buffer": b"not a video"}, long)
        expect(page.locator("#broken-text")).to_contain_text("clip.webm: lasts 2 s or more, the limit is 1 s")
        page.get_by_role("button", name="broken.mp4: cannot be read").click()
        expect(page.locator("#broken-text")).to_contain_text("broken.mp4: ")
        large = {"name": "large.mp4", "mimeType": "video/mp4", "buffer": bytes(SMALL_BYTES + 1)}
        upload(page, large, finished=2)
        expect(page.locator("#messages")).to_contain_text(
            "large.mp4 (200 kB): too large for this server (the limit is 200 kB)"
        )


class TestCamera:
    def test_live_then_a_picture(self, visit):
        page = visit(before=lambda page: page.add_init_script(WATCH))
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#status")).to_contain_text("Nothing is sent")
        expect(page.locator("#video")).to_be_visible()
        page.wait_for_timeout(300)
        assert page.evaluate("asked.times") == []
        begun = page.evaluate("performance.now()")
        page.get_by_role("button", name="Live").click()
        expect(page.locator(".face .emotion")).to_have_text("Happiness")
        expect(page.locator("#status")).to_have_text(re.compile("Live: happiness"))
        page.wait_for_function("() => asked.times.length >= 6")
        page.get_by_role("button", name="Live").click()
        asked = page.evaluate("asked")
        assert asked["most"] == 1
        # 250 ms from one to the next at least, counted from before the first: a picture takes time before it is sent.
        assert all(time - begun > 245 * place for place, time in enumerate(asked["times"]))
        page.evaluate("window.tracks = document.querySelector('#video').srcObject.getTracks()")
        page.get_by_role("button", name="Take a picture").click()
        expect(page.locator("#thumbs li")).to_have_count(1)
        expect(page.locator("#caption")).to_contain_text(re.compile(r"camera-\d{6}\.jpg · .* 640 .* 480 pixels"))
        expect(page.locator("#live")).to_be_hidden()
        assert page.evaluate("window.tracks.every((track) => track.readyState === 'ended')")

    def test_refused(self, visit):
        refuse = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
        page = visit(before=lambda page: page.add_init_script(refuse))
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("alert").filter(has_text="The camera was not allowed")).to_be_visible()
        expect(page.locator("#empty")).to_be_visible()


class TestTrouble:
    def test_too_large(self, visit, no_face):
        page = visit("small/")
        large = {"name": "large.png", "mimeType": "image/png", "buffer": b"x" * 3_000_000}
        upload(page, large, no_face, finished=1)
        expect(page.locator("#messages")).to_contain_text("large.png")
        expect(page.locator("#messages")).to_contain_text("too large for this server")
        expect(page.locator("#messages")).to_contain_text("the limit is 200,000 bytes")
        expect(page.locator("#status")).to_contain_text("grey.png: no face found")

    def test_stop(self, visit, face, no_face):
        page = visit()
        # Never answered.
        page.route("**/v1/predict", lambda route: None)
        page.set_input_files("#files", [face, no_face])
        expect(page.locator("#progress")).to_contain_text("1 of 2: astronaut.jpg")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#progress")).to_be_hidden()
        expect(page.locator("#status")).to_contain_text("2 files skipped")
        page.unroute("**/v1/predict")
        upload(page, no_face)
        expect(page.locator("#messages")).to_be_empty()

    def test_token(self, visit, no_face):
        page = visit("locked/")
        form = page.locator("#token-form")
        expect(form).to_be_visible()
        expect(page.get_by_label("access token")).to_be_focused()
        page.set_input_files("#files", [no_face])
        expect(page.locator("#progress")).to_be_hidden()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(form).to_contain_text("did not accept this token")
        page.get_by_label("access token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(form).to_be_hidden()
        # What waited for it goes on by itself.
        expect(page.locator("#status")).to_contain_text("grey.png: no face found")
        assert TOKEN not in page.content()

    def test_busy_then_gone(self, visit, no_face):
        page = visit()
        asked = []

        def busy(route):
            asked.append(route.request.url)
            route.fulfill(status=429, headers={"Retry-After": "0"}, json={"detail": "no room"})

        page.route("**/v1/predict", busy)
        page.set_input_files("#files", [no_face])
        message = page.locator("#messages")
        expect(message).to_contain_text("too busy")
        assert len(asked) == 4
        page.unroute("**/v1/predict")
        for address in ("**/v1/predict", "**/healthz"):
            page.route(address, lambda route: route.abort())
        page.get_by_role("button", name="Try again").click()
        expect(message).to_contain_text("grey.png: the server does not answer")
        for address in ("**/v1/predict", "**/healthz"):
            page.unroute(address)
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#status")).to_contain_text("grey.png: no face found")
        expect(message).to_be_empty()


class TestEverybody:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_accessible(self, visit, two_faces, no_image, scheme):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        # Its script is not the page's, and would be refused.
        page = visit("below/a/path/", color_scheme=scheme, bypass_csp=True)
        upload(page, no_image, two_faces)
        page.get_by_text("As a table").click()
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    def test_keyboard_alone(self, visit, face):
        page = visit()
        upload(page, face)
        order = []
        for _ in range(11):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
            ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", order
        # Without names: the link to what this is, and the table's summary.
        assert order == ["skip", "theme", "", "choose", "camera", "face-head", "", "csv", "json", "clear", "thumb"]

    def test_narrow_long_names(self, visit, two_faces):
        page = visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
        upload(page, two_faces | {"name": "m" * 200 + ".jpg"})
        page.get_by_text("As a table").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight && b.offsetHeight < 44).length"
        assert page.evaluate(small) == 0

    def test_theme_and_motion(self, visit):
        page = visit(color_scheme="dark", reduced_motion="reduce")
        back = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(back)
        toggle = page.get_by_role("button", name="Dark")
        expect(toggle).to_have_attribute("aria-pressed", "true")
        toggle.click()
        expect(toggle).to_have_attribute("aria-pressed", "false")
        assert page.evaluate(back) != dark
        assert page.evaluate("getComputedStyle(document.querySelector('#choose')).transitionDuration") == "0s"

    def test_says_what_it_is(self, visit, site):
        page = visit()
        about = page.get_by_role("region", name="What this is, and what it is not")
        model = page.request.get(f"{site}v1/models").json()["models"][0]
        where, scores = next(iter(model["scores"].items()))
        expect(about).to_contain_text(f"of {where} is {scores['war']:.1%}")
        for words in ("not what a person feels", "2024/1689", "at work and in education", "does not store"):
            expect(page.locator("main")).to_contain_text(words)
