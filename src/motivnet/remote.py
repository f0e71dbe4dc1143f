"""Fetch a file over http or https, within limits. Own code, as HTTP libraries do not pin addresses that were checked.

They resolve a host name again when they connect, so that it can lead to another address than the one that was checked,
and have no limit on the time or size of an answer as a whole. Here one deadline covers everything, bytes are counted as
they arrive, and a connection goes to exactly the checked addresses. Proxies of the environment are not used: behind
one, fetch the file by other means and pass its bytes.

Used by `Predictor`, `motivnet predict` and the server; `motivnet bulk` opens many more kinds of URLs, by fsspec.
"""

import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from motivnet.errors import ImageError, require
from motivnet.input_limits import FetchLimits

SCHEMES = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
READ_BYTES = 65_536
# Global unicast IPv6. IPv4 within IPv6 (mapped, NAT64) has other prefixes.
PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Where Azure and Oracle serve the keys of their virtual machines; Python considers them public.
METADATA_V4 = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
# Not escaped again in the path or query of a URL.
URL_SAFE = "%/:;=&?~+!$,'@()*[]|"
# User name and password behind the scheme: up to the last @ of the authority; of the whole URL, if what follows the
# first colon is no port, such as a password with a slash.
_USER = re.compile(
    r"^(\s*(?:[a-z][a-z0-9+.-]*:(?=[/\\]))?[/\\]*)(?:[^/\\?#]*|[^][/\\?#:@]+:(?!:|\d*(?:[/\\?#]|$)).*)@", re.I | re.S
)


def is_url(text: object) -> bool:
    """Tell whether this is a URL that `fetch` accepts."""
    return isinstance(text, str) and text[:8].lower().startswith(("http://", "https://"))


def without_password(url: str) -> str:
    """Return a URL without its user name and password, to be shown and stored, also one that is not well-formed."""
    return _USER.sub(r"\1", url, count=1)


def host_of(url: str) -> str:
    """Return the host of a URL as `fetch` reads it; ImageError if it is none."""
    return _parse(url).host


def fetch(url: str, limits: FetchLimits | None = None) -> bytes:
    """Fetch a file with GET.

    Args:
        url: of http or https, without a user name or password.
        limits: None takes the defaults.

    Returns:
        The body of an answer with status 200; compressed ones are refused.

    Raises:
        ImageError: if it cannot be fetched within the limits. The message names hosts, never the rest of a URL, which
            may contain a secret.
    """
    limits = limits or FetchLimits()
    end_s = time.monotonic() + limits.timeout_s
    seen: set[str] = set()
    while True:
        target = _parse(url)
        require(url not in seen, f"cannot be fetched: {target.host} redirects in a loop", ImageError)
        seen.add(url)
        with _explained(target, limits), contextlib.closing(_Connection(target, limits, end_s)) as connection:
            connection.request("GET", target.path, headers={"Accept-Encoding": "identity", "User-Agent": "motivnet"})
            with connection.getresponse() as response:
                if response.status not in REDIRECTS:
                    return _body(response, target, limits)
                location = response.headers.get("Location")
        if location is None:
            raise ImageError(f"cannot be fetched: {target.host} redirects without saying where to")
        if len(seen) > limits.max_redirects:
            raise ImageError(f"cannot be fetched: too many redirects, the limit is {limits.max_redirects}")
        # Headers are read as Latin-1; servers mean UTF-8.
        location = quote(location.partition("#")[0].encode("latin-1", "replace"), URL_SAFE)
        try:
            url = urljoin(url, location)
        except ValueError:
            raise ImageError("cannot be fetched: redirected to a URL that is not well-formed") from None


class _Target(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str


def _parse(url: str) -> _Target:
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        # As in a certificate; this also limits the length of messages.
        ascii_host = (host or "").encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        raise ImageError("cannot be fetched: the URL is not well-formed") from None
    if parts.scheme not in SCHEMES:
        raise ImageError(f"cannot be fetched: scheme {parts.scheme[:20]!r}. Allowed: http, https")
    if not ascii_host or not ascii_host.isprintable() or " " in ascii_host:
        raise ImageError("cannot be fetched: the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise ImageError("cannot be fetched: the URL holds a user name or password. Allowed: URLs without")
    query = f"?{quote(parts.query, URL_SAFE)}" if parts.query else ""
    path = (quote(parts.path, URL_SAFE) or "/") + query
    return _Target(parts.scheme, ascii_host, SCHEMES[parts.scheme] if port is None else port, path)


@contextlib.contextmanager
def _explained(target: _Target, limits: FetchLimits) -> Iterator[None]:
    host = target.host
    try:
        yield
    except TimeoutError:
        raise ImageError(f"cannot be fetched: {host} took too long, the limit is {limits.timeout_s:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise ImageError(f"cannot be fetched: the certificate of {host}: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise ImageError(f"cannot be fetched: no secure connection to {host}: {error.reason}") from None
    except socket.gaierror:
        raise ImageError(f"cannot be fetched: there is no host {host}") from None
    except OSError as error:
        raise ImageError(f"cannot be fetched: no connection to {host}: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError):  # whose messages repeat what the server sent
        raise ImageError(f"cannot be fetched: {host} does not answer as a web server does") from None


def _body(response: http.client.HTTPResponse, target: _Target, limits: FetchLimits) -> bytes:
    if response.status != 200:
        raise ImageError(f"cannot be fetched: {target.host} answered with status {response.status}")
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ImageError(f"cannot be fetched: {target.host} sent it compressed, which was not asked for")
    data = bytearray()
    while chunk := response.read(READ_BYTES):
        data += chunk
        if len(data) > limits.max_bytes:
            raise ImageError(f"cannot be fetched: more than {limits.max_bytes} bytes, which is the limit")
    if response.length:
        raise ImageError(f"cannot be fetched: {target.host} ended after {len(data)} bytes, too early")
    return bytes(data)


class _Connection(http.client.HTTPConnection):
    """A connection to checked addresses, all of whose waiting ends at the deadline."""

    def __init__(self, target: _Target, limits: FetchLimits, end_s: float) -> None:
        super().__init__(target.host, target.port)
        self.default_port = SCHEMES[target.scheme]
        self._target, self._public_only, self._end_s = target, limits.public_only, end_s

    def connect(self) -> None:
        addresses = _look_up(self._target, self._end_s)
        if self._public_only and not all(_is_public(address[0]) for *_, address in addresses):
            host = self._target.host
            raise ImageError(f"cannot be fetched: {host} is not on the public internet. Allowed: public hosts")
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(_connect(addresses, self._end_s))
            if self._target.scheme == "https":
                sock.settimeout(_left_s(self._end_s))
                name = self._target.host.rstrip(".")
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=name)
            undo.pop_all()
        self.sock = _TimedSocket(sock, self._end_s)


class _TimedSocket:
    """The part of a socket that `http.client` uses. Python's timeouts restart at every byte; this one does not."""

    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self._sock, self._end_s = sock, end_s

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left_s(self._end_s))
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._end_s))

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self._sock, self._end_s = sock, end_s
        # Keeps the socket open until this is closed: `http.client` closes sockets before it has read them.
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._sock.settimeout(_left_s(self._end_s))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _look_up(target: _Target, end_s: float) -> list[tuple[Any, ...]]:
    """Resolve the host, in a thread of its own, as the system's resolver has no timeout."""
    answer: Future[list[tuple[Any, ...]]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="motivnet-look-up", daemon=True).start()
    return answer.result(_left_s(end_s))


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        # These two are tunnels to any IPv4 address.
        allowed = address in PUBLIC_V6 and not (address.sixtofour or address.teredo)
    else:
        allowed = not any(address in network for network in METADATA_V4)
    return allowed and address.is_global and not address.is_multicast and not address.is_reserved


def _connect(addresses: list[tuple[Any, ...]], end_s: float) -> socket.socket:
    """Connect to the first address that answers; each gets an equal share of the remaining time."""
    failure: OSError = OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            with contextlib.ExitStack() as undo:
                sock = undo.enter_context(socket.socket(family, kind, protocol))
                sock.settimeout(_left_s(end_s) / (len(addresses) - number))
                sock.connect(address)
                undo.pop_all()
                return sock
        except OSError as error:  # also of a family that this machine does not support
            failure = error
    raise failure
