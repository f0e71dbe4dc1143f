"""Fetching, against a server on this machine with the API of the hub. Transfers themselves are huggingface_hub's."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="the extra `torch` is not installed")

from huggingface_hub import ModelCard, close_session, constants, file_download

from motivnet.checkpoints.bundle import Bundle, write_config
from motivnet.checkpoints.hub import cached, fetch, locate, verify
from motivnet.errors import CheckpointError
from motivnet.inference.predictor import Predictor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:owner/repo/model.bin"
BODY = bytes(range(256)) * 2**14  # 4 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
URL = "/owner/repo/resolve/main/model.bin"


def is_small(name: str) -> bool:
    return name.endswith((".json", ".md"))


def git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Hub:
    """What the server serves, how it misbehaves, and what it was asked.

    `bodies` are by repository/file; `cuts` are the numbers of bytes after which the next GETs break off; `refusals` are
    status and headers by path; `checksums` replace the true ones in the list of files.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {"owner/repo/model.bin": BODY}
        self.cuts: list[int] = []
        self.checksums: dict[str, str] = {}
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self.headers: dict[str, str] = {}
        self.redirect: str | None = None
        self.commit = COMMIT
        self.tags = ["license:apache-2.0"]
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent: list[int] = []
        self.made: list[dict] = []
        self.address = ""

    def describe(self, path: str, name: str, body: bytes) -> dict:
        """Describe a file as the hub's list does: of large files, which LFS holds, with the SHA-256."""
        plain = {"type": "file", "path": path, "size": len(body)}
        if is_small(name):
            return plain | {"oid": self.checksums.get(name, git_hash(body))}
        lfs = {"oid": self.checksums.get(name, hashlib.sha256(body).hexdigest()), "size": len(body), "pointerSize": 1}
        return plain | {"oid": "0" * 40, "lfs": lfs}

    def asked(self, method: str) -> list[tuple[str, dict[str, str]]]:
        return [(path, headers) for verb, path, headers in self.requests if verb == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_POST(self) -> None:
        """Take a commit, as lines of JSON; no file is large."""
        hub, body = self.hub, self.rfile.read(int(self.headers["Content-Length"]))
        hub.requests.append(("POST", self.path, {key.lower(): value for key, value in self.headers.items()}))
        told: dict = {}
        if self.path == "/api/repos/create":
            hub.made.append(made := json.loads(body))
            told = {"url": f"{hub.address}/{made['organization']}/{made['name']}"}
        elif self.path.endswith("/preupload/main"):
            told = {
                "files": [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            }
        elif commit := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    name = f"{commit[1]}/{line['value']['path']}"
                    hub.bodies[name] = base64.b64decode(line["value"]["content"])
            told = {"commitUrl": f"{hub.address}/{commit[1]}/commit/{COMMIT}", "commitOid": COMMIT}
        self.reply(
            hub.refusals.get(self.path, (200, {}))[0], {"Content-Type": "application/json"}, json.dumps(told).encode()
        )

    def answer(self, *, with_body: bool) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
        status, extra = hub.refusals.get(self.path, (0, {}))
        match = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
        key = f"{match[1]}/{match[3]}" if match else ""
        if status:
            self.reply(status, extra, b"no")
        elif tree := re.fullmatch(r"/api/models/(.+)/tree/.*", self.path):
            bodies = {name.removeprefix(f"{tree[1]}/"): (name, body) for name, body in hub.bodies.items()}
            listed = [hub.describe(path, *about) for path, about in bodies.items() if path != about[0]]
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(listed).encode())
        elif self.path.startswith("/api/models/"):
            repo = self.path.removeprefix("/api/models/")
            files = [{"rfilename": name.removeprefix(repo + "/")} for name in hub.bodies if name.startswith(repo + "/")]
            about = {"id": repo, "sha": hub.commit, "siblings": files, "tags": hub.tags}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(about).encode())
        elif key not in hub.bodies:
            self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"no")
        else:
            self.serve(hub.bodies[key], key, with_body=with_body)

    def serve(self, body: bytes, key: str, *, with_body: bool) -> None:
        hub = self.hub
        headers = {
            "X-Repo-Commit": hub.commit,
            "ETag": '"not-the-one"',
            "X-Linked-Etag": f'"{git_hash(body) if is_small(key) else hashlib.sha256(body).hexdigest()}"',
            "X-Linked-Size": str(len(body)),
            "Accept-Ranges": "bytes",
            **hub.headers,
        }
        if hub.redirect:
            self.reply(302, headers | {"Location": hub.redirect + self.path}, b"")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        cut = hub.cuts.pop(0) if with_body and hub.cuts else None
        self.reply(206 if start else 200, headers, body[start:], cut)

    def reply(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        self.hub.sent.append(len(body[:cut]))
        if cut is not None:
            self.close_connection = True


def serve(hub: Hub) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's: no proxy, token, cache or setting; no pause between attempts."""
    for name in list(os.environ):
        if name.startswith(("HF_", "MOTIVNET_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # A proxy that would break every request to this machine which went through it.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    close_session()
    yield
    close_session()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub of these tests, named by the environment as the mirror."""
    hub = Hub()
    running = serve(hub)
    monkeypatch.setenv("MOTIVNET_MIRROR", hub.address)
    yield hub
    running.shutdown()
    running.server_close()


def leftovers(folder: Path) -> list[Path]:
    return [*folder.glob("models--*/blobs/*"), *folder.glob("models--*/snapshots/*/*")]


def test_a_file_is_fetched_checked_and_written_down(
    server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(NAME)
    lines = capsys.readouterr().err.splitlines()
    assert path.read_bytes() == BODY
    assert path.is_relative_to(tmp_path / "hub" / "models--owner--repo")
    assert cached(NAME) == path == locate(NAME)
    (line,) = lines
    assert "licence unknown" in line

    record = json.loads((tmp_path / "xdg/motivnet/licences.jsonl").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.pop("fetched"))
    licence = "unknown: see its repository"
    assert record == {"name": NAME, "repo": "owner/repo", "commit": COMMIT, "licence": licence}


def test_a_released_file_shows_and_records_its_licence(
    server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.bodies["facebook/sapiens2-pretrain-0.1b/sapiens2_0.1b_pretrain.safetensors"] = b"weights"
    path = fetch("sapiens2-pretrain-0.1b")
    said = capsys.readouterr()
    assert said.out == ""
    assert "surveillance" in said.err
    assert path.name == "sapiens2_0.1b_pretrain.safetensors"
    record = json.loads((tmp_path / "xdg/motivnet/licences.jsonl").read_text())
    assert "surveillance" in record["licence"]
    # The same file by its long name is the same file.
    assert cached("hf:facebook/sapiens2-pretrain-0.1b/sapiens2_0.1b_pretrain.safetensors") == path


def test_what_is_cached_is_not_asked_for_again(server: Hub) -> None:
    path = fetch(NAME)
    server.requests.clear()
    assert fetch(NAME) == path
    assert server.requests == []


def test_only_the_mirror_is_asked_and_without_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither telemetry (which would name torch) nor the hub's other store of large files."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    server.headers = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{server.address}/api/xet-read-token"}
    assert fetch(NAME).read_bytes() == BODY
    tree = f"/api/models/owner/repo/tree/{COMMIT}?recursive=true&expand=false"
    assert {path for _, path, _ in server.requests} == {URL, tree}
    assert not any("authorization" in headers for _, _, headers in server.requests)
    assert all("torch" not in headers["user-agent"] for _, _, headers in server.requests)
    assert constants.HF_HUB_DISABLE_TELEMETRY is False


def test_a_broken_transfer_resumes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**20)
    server.cuts = [3 * 2**20]
    assert fetch(NAME).read_bytes() == BODY
    (_, first), (_, second) = server.asked("GET")[:2]
    assert "range" not in first
    assert second["range"] == f"bytes={3 * 2**20}-"


def test_a_transfer_that_breaks_off_for_good_is_one_line(server: Hub, tmp_path: Path) -> None:
    server.cuts = [2**21] + [0] * 20
    with pytest.raises(CheckpointError, match=r"broke off: .*run it again, or give another --mirror") as caught:
        fetch(NAME)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path / "hub") == []
    assert cached(NAME) is None
    assert not (tmp_path / "xdg").exists()


def test_a_wrong_checksum_deletes_the_file_and_says_so(server: Hub, tmp_path: Path) -> None:
    server.checksums["owner/repo/model.bin"] = "f" * 64
    with pytest.raises(
        CheckpointError,
        match=rf"^owner/repo/model\.bin: wrong checksum {SHA256}, expected f{{64}}\. The file is deleted",
    ):
        fetch(NAME)
    assert leftovers(tmp_path / "hub") == []
    assert cached(NAME) is None
    assert not (tmp_path / "xdg").exists()


def test_a_damaged_file_in_the_cache_is_found_removed_and_fetched_anew(
    server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(NAME)
    damaged = bytearray(BODY)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    report = verify(NAME)
    assert (report.status, report.expected) == ("damaged", SHA256)
    capsys.readouterr()
    assert fetch(NAME).read_bytes() == BODY
    assert "was damaged" in capsys.readouterr().err.splitlines()[0]
    assert verify(NAME).status == "ok"


def test_a_shortened_file_in_the_cache_is_noticed_without_verifying(server: Hub) -> None:
    path = fetch(NAME)
    path.write_bytes(BODY[:-1])
    assert fetch(NAME).read_bytes() == BODY


@pytest.mark.parametrize("variable", ["MOTIVNET_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_nothing_is_asked(server: Hub, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CheckpointError, match=r"not in the cache .*hub.*forbids the network\. Unset it and run: "):
        fetch(NAME)
    with pytest.raises(CheckpointError, match="not in the cache"):
        locate("hf:owner/repo")
    assert server.requests == []


def test_offline_the_cached_file_is_given(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(NAME)
    server.requests.clear()
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    assert fetch(NAME) == locate(NAME) == cached(NAME) == path
    assert server.requests == []


def test_offline_0_is_online(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIVNET_OFFLINE", "0")
    assert fetch(NAME).read_bytes() == BODY


def test_what_is_in_the_cache_is_checked_and_used(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(NAME)
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    assert fetch(NAME) == path
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not in the cache"):
        fetch(NAME)


def test_the_mirror_of_the_call_comes_before_that_of_the_environment(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTIVNET_MIRROR", "http://127.0.0.1:9")
    assert fetch(NAME, mirror=server.address + "/").read_bytes() == BODY


@pytest.mark.parametrize("mirror", ["example.org", "ftp://example.org", "https://", "file:///etc"])
def test_a_mirror_that_is_no_address_is_refused(mirror: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no address\. Allowed: https://"):
        fetch(NAME, mirror=mirror)


def test_another_cache(server: Hub, tmp_path: Path) -> None:
    path = fetch(NAME, cache=tmp_path / "elsewhere")
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert cached(NAME) is None
    assert cached(NAME, cache=tmp_path / "elsewhere") == path


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {"X-Error-Code": "EntryNotFound"}, "has no such file"),
        (404, {"X-Error-Code": "RepoNotFound"}, "has no such file"),
        (401, {}, "no such repository, or it is private"),
        (401, {"X-Error-Code": "GatedRepo"}, "restricts access"),
        (403, {"X-Error-Code": "GatedRepo"}, "restricts access"),
        (500, {}, r"refused \(status 500\)\. Try again later"),
    ],
)
def test_refusals_say_what_to_do(
    server: Hub, tmp_path: Path, status: int, headers: dict[str, str], message: str
) -> None:
    server.refusals[URL] = (status, headers)
    with pytest.raises(CheckpointError, match=rf"^hf:owner/repo/model\.bin: http://127.*{message}"):
        fetch(NAME)
    assert leftovers(tmp_path / "hub") == []


def test_no_connection() -> None:
    # Bound as long as the test runs, so that no other test gets the port.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:\d+ cannot be reached.*Check the network"):
            fetch(NAME, mirror=f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.mark.parametrize(
    "headers",
    [{"X-Linked-Etag": '"../../../evil"'}, {"X-Repo-Commit": "../../evil"}, {"X-Repo-Commit": ""}],
)
def test_an_answer_that_would_lead_out_of_the_cache_is_refused(
    server: Hub, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.headers = headers
    with pytest.raises(CheckpointError, match="does not answer as the hub does"):
        fetch(NAME)
    assert list(tmp_path.rglob("*evil*")) == []
    assert server.asked("GET") == []


def test_a_cache_that_is_no_folder(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="hf:owner/repo"):
        fetch(NAME, cache=tmp_path / "file")


def test_what_is_on_no_hub_says_where_it_comes_from() -> None:
    assert cached("motivnet-1b") is None
    with pytest.raises(CheckpointError, match=r"MotivNet\.pth comes from its authors; not on a hub.*give its path"):
        locate("motivnet-1b")
    with pytest.raises(CheckpointError, match="comes from its authors"):
        verify("motivnet-1b")


def test_unknown_names_are_refused() -> None:
    for function in (fetch, cached, locate):
        with pytest.raises(CheckpointError, match="did you mean 'sapiens-pose-1b'"):
            function("sapiens-pose-1")


class TestBundles:
    """`hf:owner/repo`, a repository that is a bundle."""

    @pytest.fixture
    def bundle(self, server: Hub) -> Hub:
        files = [
            "config.json",
            "model.safetensors",
            "model.onnx",
            "model.onnx.data",
            "README.md",
            "preprocessor_config.json",
        ]
        unwanted = [".gitattributes", "evil.py", "deep/model.safetensors", "../x.safetensors", "optimizer.pt"]
        server.bodies = {f"owner/bundle/{file}": file.encode() for file in files + unwanted}
        return server

    def test_its_own_files_come_and_no_other(
        self, bundle: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = fetch("hf:owner/bundle")
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md",
            "config.json",
            "model.onnx",
            "model.onnx.data",
            "model.safetensors",
            "preprocessor_config.json",
        ]
        assert capsys.readouterr().err.splitlines() == ["hf:owner/bundle: licence apache-2.0"]
        assert json.loads((tmp_path / "xdg/motivnet/licences.jsonl").read_text())["licence"] == "apache-2.0"

    def test_it_is_found_again(self, bundle: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = fetch("hf:owner/bundle")
        bundle.requests.clear()
        monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
        assert fetch("hf:owner/bundle") == cached("hf:owner/bundle") == folder
        assert bundle.requests == []

    def test_small_files_are_verified_by_the_hash_of_git(self, bundle: Hub) -> None:
        bundle.checksums["owner/bundle/config.json"] = "0" * 40
        with pytest.raises(CheckpointError, match=r"owner/bundle/config\.json: wrong checksum \w{40}, expected 0{40}"):
            fetch("hf:owner/bundle")
        assert cached("hf:owner/bundle") is None

    def test_with_a_damaged_file_it_is_not_found(self, bundle: Hub) -> None:
        bundle.checksums["owner/bundle/model.safetensors"] = "f" * 64
        with pytest.raises(CheckpointError, match=r"model\.safetensors: wrong checksum"):
            fetch("hf:owner/bundle")
        assert cached("hf:owner/bundle") is None

    def test_one_that_is_not_all_there_is_not_found(self, bundle: Hub) -> None:
        bundle.refusals["/owner/bundle/resolve/main/model.safetensors"] = (404, {"X-Error-Code": "EntryNotFound"})
        with pytest.raises(CheckpointError, match="has no such file"):
            fetch("hf:owner/bundle")
        assert cached("hf:owner/bundle") is None

    def test_a_repository_without_bundle(self, server: Hub) -> None:
        with pytest.raises(CheckpointError, match=r"no bundle.*hf:owner/repo/FILE"):
            fetch("hf:owner/repo")

    def test_an_answer_that_is_no_hub_s(self, server: Hub) -> None:
        server.refusals["/api/models/owner/bundle"] = (200, {})
        with pytest.raises(CheckpointError, match="does not answer as the hub does"):
            fetch("hf:owner/bundle")


class TestVerify:
    """Checksums of files on disk."""

    def test_a_fetched_file_by_name_and_by_path(self, server: Hub) -> None:
        path = fetch(NAME)
        for place in (NAME, path, str(path)):
            report = verify(place)
            assert (report.path, report.size_bytes, report.status) == (path, len(BODY), "ok")
            assert report.sha256 == report.expected == SHA256

    def test_a_file_of_which_nothing_is_known(self, tmp_path: Path) -> None:
        (tmp_path / "x.pth").write_bytes(b"abc")
        report = verify(tmp_path / "x.pth")
        assert (report.status, report.expected) == ("unknown", None)
        assert report.sha256 == hashlib.sha256(b"abc").hexdigest()

    def test_a_name_that_is_not_fetched(self) -> None:
        with pytest.raises(CheckpointError, match="not fetched yet"):
            verify("sapiens-pose-1b")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no such file"):
            verify(tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="a folder"):
            verify(tmp_path)


def test_the_endpoint_gets_the_token_and_where_it_sends_us_does_not(server: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN are read when huggingface_hub is imported: a process of its own."""
    elsewhere = Hub()
    running = serve(elsewhere)
    # The name differs, so that it is another origin even to a reader who overlooks ports.
    server.redirect = elsewhere.address.replace("127.0.0.1", "localhost")
    own = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
    code = f"from motivnet.checkpoints.hub import fetch; print(fetch({NAME!r}))"
    environment = {key: value for key, value in os.environ.items() if key != "MOTIVNET_MIRROR"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | own | {"no_proxy": "127.0.0.1,localhost"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        running.shutdown()
        running.server_close()
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.read_bytes() == BODY
    assert path.is_relative_to(tmp_path / "home" / "hub")
    assert {headers.get("authorization") for _, _, headers in server.requests} == {"Bearer hf_secret"}
    assert [("authorization" in headers) for _, headers in elsewhere.asked("GET")] == [False]


class TestPushed:
    @pytest.fixture
    def hub(self, server: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
        """The hub itself, not a mirror: with a token."""
        monkeypatch.delenv("MOTIVNET_MIRROR")
        # As HF_ENDPOINT sets them when huggingface_hub is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        return server

    def test_what_is_pushed_is_loaded_by_its_name(self, hub: Hub, tiny_bundle: Bundle, astronaut: object) -> None:
        address = tiny_bundle.push_to_hub("lab/tiny", private=True)
        assert address == f"{hub.address}/lab/tiny/commit/{COMMIT}"
        assert {"name": "tiny", "organization": "lab", "visibility": "private"}.items() <= hub.made[0].items()
        pushed = {name for name in hub.bodies if name.startswith("lab/tiny/")}
        assert pushed == {f"lab/tiny/{name}" for name in ("config.json", "model.onnx", "README.md")}
        assert all(headers["authorization"] == "Bearer hf_secret" for _, headers in hub.asked("POST"))
        found = Predictor.from_pretrained("lab/tiny", detector="whole")
        own = Predictor.from_pretrained(tiny_bundle.path, detector="whole")
        assert found.predict(astronaut)[0].faces[0].probs == own.predict(astronaut)[0].faces[0].probs
        assert not (tiny_bundle.path / "README.md").exists()

    def test_its_card_states_the_scores_and_the_law(self, hub: Hub, tiny_bundle: Bundle) -> None:
        tiny_bundle.push_to_hub("lab/tiny")
        card = ModelCard(hub.bodies["lab/tiny/README.md"].decode())
        (war, uar) = card.data.eval_results
        assert (war.dataset_name, war.metric_type, war.metric_value) == ("fer2013/PrivateTest", "accuracy", 0.25)
        assert (uar.metric_type, uar.metric_value) == ("uar", 0.125)
        assert card.data.model_name == "tiny"
        for said in ("Article 5(1)(f)", "Article 50(3)", "not an inner state", "war 0.25"):
            assert said in " ".join(card.text.split())

    def test_a_card_that_exists_is_kept_below_the_metadata(self, hub: Hub, tiny_bundle: Bundle, tmp_path: Path) -> None:
        bundle = write_config(tmp_path / "own", tiny_bundle.config)
        (bundle.path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
        bundle.push_to_hub("lab/tiny")
        card = ModelCard(hub.bodies["lab/tiny/README.md"].decode())
        assert (card.text.strip(), card.data.license, len(card.data.eval_results)) == ("# Mine", "other", 2)

    def test_a_refusal_is_one_line(self, hub: Hub, tiny_bundle: Bundle) -> None:
        hub.refusals["/api/models/lab/tiny/commit/main"] = (403, {})
        with pytest.raises(CheckpointError, match=r"^lab/tiny: .* restricts access to it\."):
            tiny_bundle.push_to_hub("lab/tiny")

    def test_offline_nothing_is_sent(self, hub: Hub, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
        with pytest.raises(CheckpointError, match="forbids the network"):
            tiny_bundle.push_to_hub("lab/tiny")
        assert hub.requests == []
