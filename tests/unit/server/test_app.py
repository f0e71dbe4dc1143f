import asyncio
import base64
import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import face_columns
from motivnet.preprocess import Box

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.server import ServerSettings, create_app
from motivnet.server.batching import Batcher
from motivnet.server.schemas import Answer, Base64Request

TOKEN = {"Authorization": "Bearer s3cret"}


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def flat(value: int, side: int = 20) -> bytes:
    return png(np.full((side, side, 3), value, np.uint8))


def form(*files: tuple[str, bytes]) -> list:
    return [("files", file) for file in files]


@pytest.fixture
def predictor(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path)


@pytest.fixture
def whole(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, detector="whole")


class Held:
    """Stands for a predictor that answers when it is let; `fails` are images at which it breaks."""

    def __init__(self, real: Predictor, fails: bytes = b"") -> None:
        self.config, self.real, self.fails = real.config, real, fails
        self.limits, self.workers, self.submit = None, real.workers, real.submit
        self.let, self.began = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def finish(self, images):
        self.began.set()
        assert self.let.wait(60)
        self.batches.append(len(images))
        if self.fails in [result.image for result, _, _ in images]:
            raise RuntimeError("the runtime broke")
        yield from self.real.finish(images)


@contextlib.asynccontextmanager
async def serving(predictor, attention=None, **settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(predictor, ServerSettings(**settings), attention=attention)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        client.app = app
        yield client


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def ask(predictor, method: str, path: str, **request) -> httpx.Response:
    settings = request.pop("settings", {})

    async def go() -> httpx.Response:
        async with serving(predictor, **settings) as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


class TestAnswers:
    def test_they_are_the_predictors(self, predictor, astronaut, grace_hopper):
        images = [png(astronaut), b"not an image", png(grace_hopper), flat(90)]
        names = ["astronaut.png", "notes.txt", "a/h\N{LATIN SMALL LETTER O WITH DIAERESIS}pper.png", "grey.png"]
        got = ask(predictor, "POST", "/v1/predict", files=form(*zip(names, images, strict=True)))
        assert got.status_code == 200
        wanted = [result.to_dict() for result in predictor.predict(images)]
        assert got.json() == {"results": [row | {"source": name} for row, name in zip(wanted, names, strict=True)]}
        assert [row["status"] for row in got.json()["results"]] == ["ok", "unreadable", "ok", "no_face"]
        assert Answer.model_validate(got.json())

    def test_landmarks_if_the_server_has_them(self, tiny_bundle, astronaut):
        predictor = Predictor.load(tiny_bundle.path, landmarks=True)
        got = ask(predictor, "POST", "/v1/predict", files=form(("a.png", png(astronaut)))).json()
        (face,) = got["results"][0]["faces"]
        assert face["right_eye_x"] < face["nose_x"]
        assert Answer.model_validate(got).results[0].faces[0].model_dump()["yaw"] == face["yaw"]

    def test_base64(self, predictor, astronaut):
        data = base64.b64encode(png(astronaut)).decode()
        images = [{"data": data, "name": "a"}, {"data": "data:image/png;base64," + data}, {"data": "?"}, {"data": ""}]
        got = ask(predictor, "POST", "/v1/predict/base64", json={"images": images})
        assert got.status_code == 200
        first, second, third, fourth = got.json()["results"]
        assert (first["source"], second["source"], third["source"]) == ("a", "<bytes 1>", "<bytes 2>")
        assert first["faces"] == second["faces"]
        assert len(first["faces"]) == 1
        assert third["error"].startswith("not base64: ")
        assert (fourth["status"], fourth["error"]) == ("unreadable", "the file is empty")

    def test_large_files_stay_in_memory(self, whole, monkeypatch):
        def rollover(self):
            raise AssertionError("an image was written to disk")

        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
        noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
        got = ask(whole, "POST", "/v1/predict", files=form(("noise.png", png(noise))))
        assert got.json()["results"][0]["status"] == "ok"

    def test_too_large_an_image_is_unreadable(self, whole):
        files = form(("big", flat(1, 300)), ("long", flat(1) + bytes(5000)), ("small", flat(1)))
        settings = {"max_pixels": 1000, "max_image_bytes": 4000}
        got = ask(whole, "POST", "/v1/predict", files=files, settings=settings)
        rows = got.json()["results"]
        assert [row["status"] for row in rows] == ["unreadable", "unreadable", "ok"]
        assert "the limit is 1000" in rows[0]["error"]
        assert "the limit is 4000" in rows[1]["error"]
        assert whole.limits is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "status", "detail"),
        [
            ({"files": form(*[("x", b"x")] * 3)}, 413, "the limit is 2 per request"),
            ({"files": form(("x", bytes(5000)))}, 413, "the limit is 4000 bytes"),
            ({"content": b"x"}, 415, "multipart/form-data"),
            ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
            ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 422, "form"),
            ({"files": [("file", ("x", b"x"))]}, 422, "file field 'file'"),
            ({"files": [("files", (None, b"x"))]}, 422, "text field 'files'"),
        ],
    )
    def test_of_forms(self, whole, request_, status, detail):
        settings = {"max_images": 2, "max_request_bytes": 4000}
        got = ask(whole, "POST", "/v1/predict", settings=settings, **request_)
        assert got.status_code == status, got.text
        assert detail in got.json()["detail"]

    @pytest.mark.parametrize(
        ("content", "status", "detail"),
        [
            (b"{", 422, "Invalid JSON"),
            (b'{"images": []}', 422, "at least one image"),
            (b'{"image": []}', 422, "images"),
            (b'{"images": [{"data": 1}]}', 422, "images.0.data"),
            (b'{"images": [{"data": ""}, {"data": ""}, {"data": ""}]}', 413, "the limit is 2 per request"),
            (b" " * 5000, 413, "the limit is 4000 bytes"),
            # Counted before they become objects; the rest is not even JSON.
            (b"," * 3990, 413, "the limit is 2 per request"),
            (b"\\" * 3990, 422, "too many escaped characters"),
        ],
    )
    def test_of_text(self, whole, content, status, detail, monkeypatch):
        settings = {"max_images": 2, "max_request_bytes": 4000}
        monkeypatch.setattr("motivnet.server.limits.MAX_TEXT", 1000)
        got = ask(whole, "POST", "/v1/predict/base64", content=content, settings=settings)
        assert got.status_code == status, got.text
        assert detail in got.json()["detail"]

    def test_of_a_body_that_does_not_say_its_length(self, whole):
        async def chunks():
            for _ in range(50):
                yield bytes(100)

        got = ask(whole, "POST", "/v1/predict/base64", content=chunks(), settings={"max_request_bytes": 4000})
        assert got.status_code == 413

    def test_of_a_slow_body(self, whole):
        async def chunks():
            yield b"{"
            await asyncio.sleep(60)

        got = ask(whole, "POST", "/v1/predict/base64", content=chunks(), settings={"body_timeout_s": 0.05})
        assert got.status_code == 408

    @pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer other"}, {"Authorization": "Basic s3cret"}])
    def test_without_the_token(self, whole, given):
        settings = {"token": "s3cret"}
        for method, path in (("POST", "/v1/predict"), ("GET", "/v1/models"), ("GET", "/metrics")):
            got = ask(whole, method, path, headers=given, settings=settings)
            assert (got.status_code, got.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ask(whole, "GET", "/healthz", settings=settings).status_code == 200

    def test_of_methods_and_paths_that_are_not_there(self, whole):
        assert ask(whole, "HEAD", "/v1/predict").status_code == 405
        assert ask(whole, "OPTIONS", "/v1/predict").status_code == 405
        assert ask(whole, "GET", "/v1/predict").status_code == 405
        assert ask(whole, "POST", "/v1/nothing").json() == {"detail": "Not Found"}

    def test_not_with_the_token(self, whole):
        files = form(("x", flat(1)))
        got = ask(whole, "POST", "/v1/predict", files=files, headers=TOKEN, settings={"token": "s3cret"})
        assert got.status_code == 200


class TestUrls:
    def test_off_unless_asked_for(self, whole):
        got = ask(whole, "POST", "/v1/predict/urls", json={"urls": ["http://example.org/a.jpg"]})
        assert (got.status_code, "--allow-urls" in got.json()["detail"]) == (403, True)

    @pytest.mark.parametrize(
        "url",
        [
            *("http://127.0.0.1:1/a.png", "http://169.254.169.254/latest/meta-data", "http://[::1]/a.png"),
            *("http://10.0.0.1/", "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/", "http://2130706433/"),
            *("http://localhost/a", "file:///etc/passwd", "ftp://example.org/a", "nonsense", "http://u:p@example.org/"),
        ],
    )
    def test_private_hosts_and_other_schemes_are_unreadable(self, whole, url):
        settings = {"allow_urls": True}
        got = ask(whole, "POST", "/v1/predict/urls", json={"urls": [url]}, settings=settings)
        (row,) = got.json()["results"]
        assert (got.status_code, row["status"], row["source"]) == (200, "unreadable", url.replace("u:p@", ""))
        assert row["error"].startswith("cannot be fetched")

    def test_those_that_are_fetched_are_predicted(self, whole, monkeypatch):
        asked = []

        def fetch(url, limits):
            asked.append((url, limits.public_only, limits.max_bytes, limits.timeout_s))
            return flat(255)

        monkeypatch.setattr("motivnet.server.service.fetch", fetch)
        settings = {"allow_urls": True, "max_image_bytes": 1000, "fetch_timeout_s": 3.0}
        urls = ["https://a.example/1.png", "https://a.example/2.png"]
        got = ask(whole, "POST", "/v1/predict/urls", json={"urls": urls}, settings=settings)
        assert [(row["source"], row["status"]) for row in got.json()["results"]] == [(url, "ok") for url in urls]
        assert sorted(asked) == [(url, True, 1000, 3.0) for url in urls]

    def test_slow_hosts_do_not_keep_the_threads_from_others(self, whole, monkeypatch):
        let, asked = threading.Event(), []

        def fetch(url, limits):
            asked.append(url)
            if "slow" in url:
                assert let.wait(60)
            return flat(255)

        monkeypatch.setattr("motivnet.server.service.fetch", fetch)

        async def go() -> None:
            async with serving(whole, allow_urls=True, max_queue_images=200, max_wait_ms=1e9) as client:
                slow = [
                    asyncio.create_task(
                        client.post(
                            "/v1/predict/urls", json={"urls": [f"http://slow{n}.example/{i}" for i in range(32)]}
                        )
                    )
                    for n in (0, 0, 0, 1, 1)
                ]
                # Four of a host, or of a request.
                await until(lambda: len(asked) == 8)
                got = await client.post("/v1/predict/urls", json={"urls": ["http://quick.example/1.png"]})
                assert (got.status_code, len(asked)) == (200, 9)
                let.set()
                assert [(await post).status_code for post in slow] == [200] * 5

        asyncio.run(go())

    def test_what_is_fetched_is_counted(self, whole, monkeypatch):
        monkeypatch.setattr("motivnet.server.service.fetch", lambda url, limits: bytes(600))
        settings = {"allow_urls": True, "max_held_bytes": 1000, "max_request_bytes": 1000}
        urls = ["https://a.example/1.png", "https://b.example/1.png"]
        got = ask(whole, "POST", "/v1/predict/urls", json={"urls": urls}, settings=settings)
        assert (got.status_code, "bytes are in progress" in got.json()["detail"]) == (429, True)

    @pytest.mark.parametrize(("urls", "status"), [([], 422), (["x"] * 3, 413), ([1], 422), ("x", 422)])
    def test_bodies_that_are_refused(self, whole, urls, status):
        settings = {"allow_urls": True, "max_images": 2}
        assert ask(whole, "POST", "/v1/predict/urls", json={"urls": urls}, settings=settings).status_code == status


class TestExplain:
    def test_501_where_the_model_offers_none(self, whole, tiny_bundle):
        from motivnet.server.attention import find_attention

        # Its weights are those of ONNX alone.
        assert find_attention(whole, tiny_bundle.path) is None
        got = ask(whole, "POST", "/v1/explain", files=form(("x", flat(1))))
        assert got.status_code == 501
        assert ask(whole, "GET", "/v1/models").json()["models"][0]["attention"] is False

    def test_a_map_a_face(self, astronaut):
        pytest.importorskip("timm", reason="the extra 'torch' is not installed")
        from motivnet.server.attention import find_attention
        from motivnet.server.schemas import Explanations

        predictor = Predictor.load("nano", threads=1)
        attention = find_attention(predictor, "nano")

        async def go() -> tuple[httpx.Response, ...]:
            async with serving(predictor, attention) as client:
                return (
                    await client.post("/v1/explain", files=form(("a.png", png(astronaut)))),
                    await client.post("/v1/explain", files=form(("n.png", flat(90, 200)))),
                    await client.post("/v1/explain", files=form(("t.txt", b"no image"))),
                    await client.post("/v1/explain", files=form(*[("x", flat(1))] * 2)),
                    await client.get("/v1/models"),
                )

        face, none, broken, two, models = asyncio.run(go())
        assert Explanations.model_validate(face.json())
        (row,) = face.json()["results"]
        (found,) = row["faces"]
        shown = found.pop("attention")
        assert row == predictor.predict(png(astronaut))[0].to_dict() | {"source": "a.png"}
        assert shown["emotion"] == found["emotion"]
        assert np.shape(shown["values"]) == (shown["rows"], shown["columns"])
        assert min(shown["rows"], shown["columns"]) >= 4
        assert 0 <= np.min(shown["values"]) < np.max(shown["values"]) <= 1
        x, y, width, height = shown["seen"]
        assert x <= found["x"] + found["width"] / 2 <= x + width
        assert y <= found["y"] + found["height"] / 2 <= y + height
        assert (none.json()["results"][0]["status"], broken.json()["results"][0]["status"]) == ("no_face", "unreadable")
        assert two.status_code == 413
        assert models.json()["models"][0]["attention"] is True


@pytest.fixture
def batchers(monkeypatch) -> list[Batcher]:
    """Those of the applications that a test creates."""
    created = []

    def create(*settings) -> Batcher:
        created.append(Batcher(*settings))
        return created[-1]

    monkeypatch.setattr("motivnet.server.service.Batcher", create)
    return created


async def post_behind_one(client, held, batchers, shades) -> list[httpx.Response]:
    """Answers to requests of one image each, of which all but the first wait for the model together."""
    posts = []
    for number, shade in enumerate(shades):
        posts.append(asyncio.create_task(client.post("/v1/predict", files=form(("x", flat(shade))))))
        if number == 0:
            await until(held.began.is_set)
    await until(lambda: batchers[0]._num_ready() == len(shades) - 1)
    held.let.set()
    return [await post for post in posts]


class TestUnderLoad:
    def test_requests_share_batches_and_each_gets_its_own(self, whole, batchers):
        async def go() -> None:
            held = Held(whole)
            async with serving(held, batch_images=4) as client:
                shades = [0, 40, 80, 120, 160, 200, 240, 255, 20]
                got = [got.json()["results"] for got in await post_behind_one(client, held, batchers, shades)]
            assert got == [[whole.predict(flat(shade))[0].to_dict() | {"source": "x"}] for shade in shades]
            assert held.batches == [1, 4, 4]

        asyncio.run(go())

    def test_a_full_queue_and_a_full_house_say_when_to_come_again(self, whole):
        async def go() -> None:
            held = Held(whole)
            limits = {"max_images": 2, "max_queue_images": 2, "max_requests": 3, "retry_after_s": 7, "batch_wait_ms": 0}
            async with serving(held, **limits) as client:
                gauge = client.app.state.metrics.queue_images._value
                two = form(("x", flat(1)), ("y", flat(2)))
                first = asyncio.create_task(client.post("/v1/predict", files=two))
                await until(held.began.is_set)
                second = asyncio.create_task(client.post("/v1/predict", files=two))
                await until(lambda: gauge.get() == 2)
                full = await client.post("/v1/predict", files=two)
                assert (full.status_code, full.headers["Retry-After"]) == (429, "7")
                held.let.set()
                assert (await first).status_code == (await second).status_code == 200
                text = (await client.get("/metrics")).text
                assert 'motivnet_errors_total{reason="queue_full"} 1.0' in text

            held = Held(whole)
            async with serving(held, max_requests=1) as client:
                first = asyncio.create_task(client.post("/v1/predict", files=form(("z", flat(3)))))
                await until(held.began.is_set)
                full = await client.post("/v1/predict", files=form(("z", flat(3))))
                assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
                held.let.set()
                assert (await first).status_code == 200
                assert (await client.post("/v1/predict", files=form(("z", flat(3))))).status_code == 200

        asyncio.run(go())

    def test_bytes_that_are_held_are_bounded(self, whole):
        async def go() -> None:
            held = Held(whole)
            async with serving(held, max_request_bytes=1000, max_held_bytes=1000) as client:
                first = asyncio.create_task(client.post("/v1/predict", files=form(("z", flat(3)))))
                await until(held.began.is_set)
                full = await client.post("/v1/predict", files=form(("z", flat(3) + bytes(600))))
                assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
                held.let.set()
                assert (await first).status_code == 200

        asyncio.run(go())

    def test_whoever_leaves_is_not_predicted(self, whole):
        """A client that breaks off while it waits gives its place in the queue to others."""
        sent = httpx.Request("POST", "http://localhost/v1/predict", files=form(("x", flat(7))))
        scope = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/predict", "query_string": b""},
            "headers": [(name.lower(), value) for name, value in sent.headers.raw],
        }

        async def go() -> None:
            held = Held(whole)
            async with serving(held) as client:
                first = asyncio.create_task(client.post("/v1/predict", files=form(("x", flat(1)))))
                await until(held.began.is_set)
                leaves = asyncio.Event()
                messages = [{"type": "http.request", "body": sent.read(), "more_body": False}]

                async def receive():
                    if messages:
                        return messages.pop()
                    await leaves.wait()
                    return {"type": "http.disconnect"}

                async def send(message):
                    pass

                gone = asyncio.create_task(client.app(scope, receive, send))
                await until(lambda: client.app.state.metrics.queue_images._value.get() == 1)
                leaves.set()
                await gone
                held.let.set()
                assert (await first).status_code == 200
                assert (await client.post("/v1/predict", files=form(("x", flat(2))))).status_code == 200
                assert 'motivnet_errors_total{reason="client_left"} 1.0' in (await client.get("/metrics")).text
            assert held.batches == [1, 1]

        asyncio.run(go())

    def test_a_slow_model(self, whole):
        async def go() -> None:
            held = Held(whole)
            async with serving(held, predict_timeout_s=0.05) as client:
                got = await client.post("/v1/predict", files=form(("x", flat(1))))
                assert got.status_code == 504
                held.let.set()

        asyncio.run(go())

    def test_a_request_at_which_the_model_breaks_fails_alone(self, whole, batchers, caplog):
        async def go() -> None:
            held = Held(whole, fails=flat(99))
            async with serving(held, batch_images=3) as client:
                got = await post_behind_one(client, held, batchers, (2, 1, 99, 3))
                assert [each.status_code for each in got] == [200, 200, 500, 200]
                assert held.batches == [1, 3, 1, 1, 1]

        asyncio.run(go())
        assert "the runtime broke" in caplog.text

    def test_shutdown_finishes_what_was_accepted(self, whole):
        async def go() -> None:
            held = Held(whole)
            app = create_app(held, ServerSettings(batch_images=1))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                assert (await client.get("/readyz")).status_code == 503
                lifespan = app.router.lifespan_context(app)
                await lifespan.__aenter__()
                assert (await client.get("/readyz")).status_code == 200
                posts = [
                    asyncio.create_task(client.post("/v1/predict", files=form(("x", flat(shade))))) for shade in (1, 2)
                ]
                await until(lambda: held.began.is_set() and app.state.metrics.queue_images._value.get() == 1)
                closing = asyncio.create_task(lifespan.__aexit__(None, None, None))
                await asyncio.sleep(0)
                assert (await client.get("/readyz")).status_code == 503
                assert (await client.post("/v1/predict", files=form(("x", flat(1))))).status_code == 503
                held.let.set()
                await closing
                assert [(await post).status_code for post in posts] == [200, 200]

        asyncio.run(go())


class TestTelling:
    def test_the_model(self, whole):
        (model,) = ask(whole, "GET", "/v1/models").json()["models"]
        assert (model["name"], model["labels"]) == ("tiny", list(whole.config.labels))

    def test_request_ids_and_the_log(self, whole, caplog):
        caplog.set_level(logging.INFO, "motivnet.server.access")
        files = form(("secret-name.png", flat(1)))
        got = ask(whole, "POST", "/v1/predict?key=hidden", files=files, headers={"X-Request-ID": "my-1"})
        assert got.headers["X-Request-ID"] == "my-1"
        line = dict(caplog.records[-1].fields)
        assert line.pop("ms") > 0
        assert line == {
            **{"request_id": "my-1", "method": "POST", "path": "/v1/predict"},
            **{"status": 200, "images": 1, "faces": 1},
        }
        bad = ask(whole, "GET", "/nowhere", headers={"X-Request-ID": "a b"})
        assert (bad.status_code, len(bad.headers["X-Request-ID"])) == (404, 32)

    def test_metrics_are_an_applications_own(self, whole):
        async def go() -> str:
            async with serving(whole) as client:
                await client.post("/v1/predict", files=form(("x", flat(255)), ("y", b"x")))
                for path in ("/one", "/two"):
                    await client.get(path)
                return (await client.get("/metrics")).text

        for _ in range(2):
            text = asyncio.run(go())
            for line in (
                'motivnet_images_total{status="ok"} 1.0',
                'motivnet_images_total{status="unreadable"} 1.0',
                'motivnet_faces_total{emotion="happiness"} 1.0',
                'motivnet_requests_total{path="/v1/predict",status="200"} 1.0',
                'motivnet_requests_total{path="other",status="404"} 2.0',
                "motivnet_batch_images_sum 2.0",
                "motivnet_queue_images 0.0",
                "motivnet_active_requests 0.0",
            ):
                assert line in text

    def test_openapi(self, whole):
        api = ask(whole, "GET", "/openapi.json").json()
        jsonschema = pytest.importorskip("jsonschema")
        # Every example is what its schema says, with references into the document itself.
        examples = 0
        for name, schema in api["components"]["schemas"].items():
            for example in schema.get("examples", []):
                root = {"$ref": f"#/components/schemas/{name}", "components": api["components"]}
                jsonschema.Draft202012Validator(root).validate(example)
                examples += 1
        for path in api["paths"].values():
            for body in path.get("post", {}).get("requestBody", {}).get("content", {}).values():
                jsonschema.Draft202012Validator.check_schema(body["schema"])
                for example in body["schema"].get("examples", []):
                    jsonschema.Draft202012Validator(body["schema"]).validate(example)
                    examples += 1
        assert examples >= 4
        face = api["components"]["schemas"]["Face"]["properties"]
        assert list(face) == [
            "face",
            *face_columns(FaceResult(Box(0, 0, 1, 1), 1.0, "a", {"a": 1.0}, valence=0.0, arousal=0.0, landmarks=())),
            "probs",
        ]
        assert set(api["paths"]["/v1/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data"}
        assert api["components"]["schemas"]["Answer"]["examples"]
        assert Base64Request.model_json_schema()

    def test_cors_only_where_it_is_asked_for(self, whole):
        origin = {"Origin": "https://lab.example"}
        assert "Access-Control-Allow-Origin" not in ask(whole, "GET", "/healthz", headers=origin).headers
        settings = {"cors_origins": ("https://lab.example",)}
        got = ask(whole, "GET", "/healthz", headers=origin, settings=settings)
        assert got.headers["Access-Control-Allow-Origin"] == "https://lab.example"
        other = ask(whole, "GET", "/healthz", headers={"Origin": "https://evil.example"}, settings=settings)
        assert "Access-Control-Allow-Origin" not in other.headers
