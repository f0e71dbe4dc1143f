import asyncio
import re

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.inference.predictor import Predictor
from motivnet.labels import EU_NOTICE
from motivnet.server.app import PAGE as FOLDER
from motivnet.server.app import create_app
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import SECURITY_HEADERS

HEADERS = SECURITY_HEADERS | {"Cache-Control": "no-cache"}
FILES = sorted(path.name for path in FOLDER.iterdir())
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")
CODE = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}


@pytest.fixture(scope="module")
def ask(tiny_bundle):
    predictor = Predictor.load(tiny_bundle.path)

    def go(method: str, path: str, **request) -> httpx.Response:
        async def inside() -> httpx.Response:
            app = create_app(predictor, ServerSettings(token="s3cret"))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                return await client.request(method, path, **request)

        return asyncio.run(inside())

    return go


class TestServed:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_index_without_a_token(self, ask, method):
        answer = ask(method, "/")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert (answer.text == HTML) is (method == "GET")

    @pytest.mark.parametrize("name", FILES)
    def test_files_with_headers(self, ask, name):
        answer = ask("GET", f"/page/{name}")
        assert answer.content == (FOLDER / name).read_bytes()
        assert {header: answer.headers[header] for header in HEADERS} == HEADERS
        kinds = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
        assert answer.headers["Content-Type"].partition(";")[0] == kinds[name.rpartition(".")[2]]

    def test_policy(self):
        policy = HEADERS["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "camera=(self)" in HEADERS["Permissions-Policy"]

    def test_unchanged(self, ask):
        tag = ask("GET", "/page/app.js").headers["ETag"]
        answer = ask("GET", "/page/app.js", headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        "path", ["/page/", "/page/nothing.js", "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/app.js"]
    )
    def test_nothing_else(self, ask, path):
        assert ask("GET", path).status_code == 404

    def test_other_methods_and_routes_stay_as_they_were(self, ask):
        assert ask("POST", "/").status_code == 405
        assert ask("GET", "/v1/predict").status_code == 405
        assert ask("GET", "/v1/models").status_code == 401
        assert "/" not in ask("GET", "/openapi.json").json()["paths"]


class TestDocs:
    def test_swagger_ui_is_served_from_here(self, ask):
        answer = ask("GET", "/docs")
        assert answer.text == (FOLDER / "docs.html").read_text(encoding="utf-8")
        for name in re.findall(r'(?:href|src)="([^"#]+)"', answer.text):
            assert ask("GET", f"/{name}").status_code == (401 if name == "v1/models" else 200), name
        assert "SwaggerUIBundle" in ask("GET", "/docs/files/swagger-ui-bundle.js").text
        assert "/docs" not in ask("GET", "/openapi.json").json()["paths"]

    def test_its_policy_allows_no_other_host_and_no_inline_code(self, ask):
        policy = ask("GET", "/docs").headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "script-src" not in policy
        assert "http" not in policy
        assert ask("GET", "/").headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]

    def test_it_can_be_switched_off(self, tiny_bundle):
        app = create_app(Predictor.load(tiny_bundle.path), ServerSettings(docs=False))
        assert not [route for route in app.routes if getattr(route, "path", "").startswith("/docs")]


class TestNotice:
    @pytest.mark.parametrize("notice", [None, EU_NOTICE])
    def test_the_page_gets_it_with_the_model(self, tiny_bundle, notice):
        async def asked() -> httpx.Response:
            app = create_app(Predictor.load(tiny_bundle.path), ServerSettings(notice=notice))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                return await client.get("/v1/models")

        assert asyncio.run(asked()).json()["notice"] == notice


class TestFiles:
    def test_addresses_are_relative_and_exist(self):
        named = re.findall(r'(?:href|src)="([^"#]+)"', HTML)
        assert {name.removeprefix("page/") for name in named} <= set(FILES)
        for name, code in CODE.items():
            imported = re.findall(r'from "([^"]+)"', code)
            assert all(path.startswith("./") and path[2:] in FILES for path in imported), name

    def test_no_other_host(self):
        for path in FOLDER.iterdir():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            # In a sentence, to people.
            assert not re.search(r"(?:https?:)?//[\w.-]+\.\w", text), path.name

    def test_nothing_inline_and_no_markup_from_text(self):
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", HTML)
        for name, code in CODE.items():
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code), name

    def test_ids_that_code_asks_for_exist_once(self):
        found = re.findall(r'\bid="([\w-]+)"', HTML)
        assert len(found) == len(set(found))
        asked = {name for code in CODE.values() for name in re.findall(r'byId\("([\w-]+)"\)', code)}
        assert asked <= set(found)

    def test_small(self):
        for name, code in CODE.items():
            assert len(code.splitlines()) < 400, name
