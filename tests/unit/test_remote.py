"""Fetching from servers on this machine that behave as badly as servers do."""

import http.server
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from motivnet import remote
from motivnet.errors import ConfigError, ImageError
from motivnet.remote import FetchLimits, fetch, is_url, without_password

PICTURE = bytes(range(256)) * 300  # more than one read


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.close_connection = True
        getattr(self, f"get_{path.strip('/').partition('/')[0]}", self.get_missing)(query)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_picture(self, _: str) -> None:
        self.answer(200, PICTURE)

    def get_unsized(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE)

    def get_chunked(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in (PICTURE[:1000], PICTURE[1000:], b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def get_liar(self, _: str) -> None:
        self.answer(200, PICTURE, Content_Length=str(len(PICTURE) + 5))

    def get_endless(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    def get_drip(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        self._drip()

    def get_dripping_head(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self._drip()

    def _drip(self) -> None:
        while not self.server.stopping.wait(0.02):  # type: ignore[attr-defined]
            self.wfile.write(b"a")

    def get_gzip(self, _: str) -> None:
        self.answer(200, PICTURE, Content_Encoding="gzip")

    def get_noise(self, _: str) -> None:
        self.wfile.write(b"I am no web server, and my secret is 1234\r\n\r\n")

    def get_hangup(self, _: str) -> None:
        pass

    def get_loop(self, _: str) -> None:
        self.answer(302, Location="/loop2")

    def get_loop2(self, _: str) -> None:
        self.answer(307, Location="/loop")

    def get_count(self, query: str) -> None:
        number = int(query)
        self.answer(301, Location=f"?{number - 1}" if number else "/picture")

    def get_to(self, query: str) -> None:
        self.answer(302, **{"Location": query} if query else {})

    def get_missing(self, _: str) -> None:
        self.answer(404, b"no such picture")

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has left, as it should
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # waited for at the end

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.stopping = threading.Event()
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with Server() as server:

        def start(context: ssl.SSLContext | None = None) -> Server:
            if context:
                server.socket = context.wrap_socket(server.socket, server_side=True)
                server.scheme = "https"
            thread.start()
            return server

        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        yield start
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve()


@pytest.mark.parametrize("path", ["/picture", "/unsized", "/chunked", "/picture?token=a b\N{SNOWMAN}#part", "/count?4"])
def test_the_body_comes_as_it_is(server: Server, path: str) -> None:
    assert fetch(server.url(path)) == PICTURE
    assert all(asked.isascii() and "#" not in asked for asked in server.asked)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "answered with status 404"),
        ("/gzip", "sent it compressed"),
        ("/noise", "does not answer as a web server does"),
        ("/hangup", "no connection to 127.0.0.1"),
        ("/liar", "127.0.0.1"),
        ("/endless", "more than 1000000 bytes"),
        ("/loop", "redirects in a loop"),
        ("/count?5", "too many redirects, the limit is 5"),
        ("/to?", "redirects without saying where to"),
        ("/to?file:///etc/passwd", "scheme 'file'. Allowed: http, https"),
        ("/to?ftp://127.0.0.1/x", "scheme 'ftp'. Allowed: http, https"),
        ("/to?http://[half/", "not well-formed"),
        ("/to?http://user:pass@127.0.0.1/", "holds a user name or password"),
    ],
)
def test_what_servers_do_wrong_is_one_line(server: Server, path: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        fetch(server.url(path), FetchLimits(max_bytes=1_000_000, timeout_s=60))
    text = str(caught.value)
    assert message in text
    assert len(text.splitlines()) == 1
    assert not any(secret in text for secret in ("1234", "passwd", "pass@"))


def test_a_file_of_just_the_limit_is_fetched(server: Server) -> None:
    assert len(fetch(server.url("/picture"), FetchLimits(max_bytes=len(PICTURE)))) == len(PICTURE)
    with pytest.raises(ImageError, match=f"more than {len(PICTURE) - 1} bytes"):
        fetch(server.url("/picture"), FetchLimits(max_bytes=len(PICTURE) - 1))


@pytest.mark.parametrize("path", ["/drip", "/dripping_head"])
def test_the_deadline_is_for_everything_however_steadily_bytes_drip(server: Server, path: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ImageError, match=r"took too long, the limit is 0\.3 s"):
        fetch(server.url(path), FetchLimits(timeout_s=0.3))
    # Each drop in time, the whole would take half an hour.
    assert time.monotonic() - begin < 300


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ImageError, match="took too long"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", FetchLimits(timeout_s=0.2))


def test_a_name_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(60) and [])
    with pytest.raises(ImageError, match="took too long"):
        fetch("http://slow.test/", FetchLimits(timeout_s=0.1))
    answered.set()


def test_nobody_listens() -> None:
    # Bound as long as the test runs, so that no other test gets the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match=r"no connection to 127\.0\.0\.1"):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/")


def test_a_name_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ImageError, match=r"there is no host nowhere\.test"):
        fetch("https://nowhere.test/a.jpg?key=secret")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("data:image/png;base64,AAAA", "scheme 'data'"),
        ("picture.jpg", "scheme ''"),
        ("http://", "names no host"),
        ("http:///a.jpg", "names no host"),
        ("http://a\0b/", "names no host"),
        ("http://a b/", "names no host"),
        ("http://host:99999/", "not well-formed"),
        ("http://[::1/", "not well-formed"),
        (f"http://{'a' * 64}.test/", "not well-formed"),
        ("https://me:secret@example.test/", "holds a user name or password. Allowed: URLs without"),
    ],
)
def test_what_is_no_url_to_fetch(url: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        fetch(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "fe80::1", "fe80::1%1", "fec0::1"),
    *("fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1"),
    "2001:db8::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ImageError, match=r"is not on the public internet\. Allowed: public hosts"):
        fetch(f"http://{host}/", FetchLimits(public_only=True))


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "localhost."]
)
def test_other_spellings_of_this_machine(host: str) -> None:
    with pytest.raises(ImageError, match=r"is not on the public internet|there is no host"):
        # A name server may be asked for the last one, and take its time to know nothing.
        fetch(f"http://{host}/", FetchLimits(public_only=True, timeout_s=600))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_addresses_that_are_public(address: str) -> None:
    assert remote._is_public(address)


class TestPublicOnly:
    """With this machine taken for public: what else is asked of a host."""

    @pytest.fixture(autouse=True)
    def this_machine_is_public(self, monkeypatch: pytest.MonkeyPatch) -> None:
        is_public = remote._is_public
        monkeypatch.setattr(remote, "_is_public", lambda text: text == "127.0.0.1" or is_public(text))

    @pytest.mark.parametrize("to", ["http://169.254.169.254/latest/meta-data/", "http://[::1]:80/", "http://10.0.0.1/"])
    def test_redirects_are_checked_too(self, server: Server, to: str) -> None:
        assert fetch(server.url("/to?/picture"), FetchLimits(public_only=True)) == PICTURE
        with pytest.raises(ImageError, match="is not on the public internet"):
            fetch(server.url(f"/to?{to}"), FetchLimits(public_only=True))

    def test_one_private_address_among_public_ones_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in ("127.0.0.1", "10.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(ImageError, match=r"two\.test is not on the public internet"):
            fetch("http://two.test/", FetchLimits(public_only=True))

    def test_the_connection_goes_to_the_address_that_was_checked(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_port))]]
        # A second look would find nothing to give.
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop())
        assert fetch("http://changing.test/picture", FetchLimits(public_only=True)) == PICTURE
        assert answers == []

    def test_proxies_of_the_environment_are_not_used(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert fetch(server.url("/picture"), FetchLimits(public_only=True)) == PICTURE


class TestSecure:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        if not shutil.which("openssl"):
            pytest.skip("the program openssl is not installed")
        path = tmp_path / "both.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        subprocess.run([*command, "-keyout", path, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
        path.write_bytes(path.read_bytes() + (tmp_path / "cert.pem").read_bytes())
        return path

    @pytest.fixture
    def secure(self, certificate: Path, serve: Callable[..., Server]) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return serve(context)

    def test_a_certificate_that_nobody_vouches_for(self, secure: Server) -> None:
        with pytest.raises(ImageError, match=r"the certificate of 127\.0\.0\.1: self.signed certificate"):
            fetch(secure.url("/picture"))

    def test_a_good_certificate(self, secure: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(secure.url("/picture")) == PICTURE
        assert fetch(secure.url("/chunked")) == PICTURE
        with pytest.raises(ImageError, match="took too long"):
            fetch(secure.url("/drip"), FetchLimits(timeout_s=0.5))
        with pytest.raises(ImageError, match="the certificate of localhost: Hostname mismatch"):
            fetch(secure.url("/picture").replace("127.0.0.1", "localhost"))

    def test_a_server_that_speaks_no_tls(self, server: Server) -> None:
        with pytest.raises(ImageError, match=r"no secure connection to 127\.0\.0\.1"):
            fetch(server.url("/picture").replace("http:", "https:"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"timeout_s": 0},
        {"timeout_s": math.inf},
        {"timeout_s": math.nan},
        {"max_redirects": -1},
    ],
)
def test_limits_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FetchLimits(**wrong)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("http://a", True),
        ("HTTPS://a", True),
        ("ftp://a", False),
        ("http", False),
        ("a.jpg", False),
        (b"http://", False),
    ],
)
def test_is_url(text: object, answer: bool) -> None:
    assert is_url(text) is answer


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host:1/a@b?c#d", "https://host:1/a@b?c#d"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://me:a@b@host", "https://host"),
        ("https://host?user@x", "https://host?user@x"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        # Not well-formed, and named in messages all the same.
        ("me:secret@host/a", "host/a"),
        ("//me:secret@host/a", "//host/a"),
        ("http:/me:secret@host", "http:/host"),
        ("http:\\\\me:secret@host", "http:\\\\host"),
        (" http://me:secret@host", " http://host"),
        ("http://me:sec/ret@host/a", "http://host/a"),
        ("http://me:sec?ret#@host/a", "http://host/a"),
    ],
)
def test_names_and_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
