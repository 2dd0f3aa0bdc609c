"""Fetching from others: bounded in bytes and in time, from a judged address, over TLS that is verified."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from common import fetching
from common.fetching import NotFetched, fetch
from tests.harness.certificates import make_certificate, server_context


class Server:
    """Answers every connection with the same pieces, ``pause`` seconds apart."""

    def __init__(self, *pieces: bytes, pause: float = 0.0, tls: ssl.SSLContext | None = None) -> None:
        self.pieces, self.pause, self.tls = pieces, pause, tls
        self.asked: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._answer(self.listening.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                self.asked.append(connection.recv(4096))
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.pause)


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*pieces: bytes, **options: Any) -> Server:
        made.append(Server(*pieces, **options))
        return made[-1]

    yield make
    for each in made:
        each.listening.close()


def fetched(server: Server, host: str = "127.0.0.1", scheme: str = "http", seconds: float = 5.0) -> bytes:
    return fetch(f"{scheme}://{host}:{server.port}/keys?v=1", most_bytes=10, seconds=seconds)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n0123456789",
    ],
)
def test_a_document_of_just_the_size_is_read(server: Any, answer: bytes) -> None:
    one = server(answer)
    assert fetched(one, host="localhost") == b"0123456789"
    assert one.asked[0].startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
    assert f"Host: localhost:{one.port}\r\n".encode() in one.asked[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n0123456789a", "more than 10 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, "more than 10 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n0123", "ended early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01", "IncompleteRead"),
        (b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answers 500"),
        (b"SSH-2.0-OpenSSH\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 200, "HTTPException"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_what_is_none_is_refused_and_nothing_is_asked_twice(server: Any, answer: bytes, said: str) -> None:
    one = server(answer)
    with pytest.raises(NotFetched, match=said):
        fetched(one)
    assert len(one.asked) == 1


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [[b""] * 99, [HEAD, *[b"X: y\r\n"] * 99], [b"HTTP/1.1 100 Continue\r\n\r\n"] * 99, [HEAD + b"\r\n", *[b"a"] * 99]],
    ids=["silent", "in its head", "before its head", "in its body"],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_however_slowly_a_server_speaks_it_is_cut_at_the_deadline(
    scheme: str, server: Any, pieces: list[bytes], own_certificate: ssl.SSLContext
) -> None:
    one = server(*pieces, pause=0.2, tls=own_certificate if scheme == "https" else None)
    began = time.monotonic()
    with pytest.raises(NotFetched):
        fetched(one, host="localhost", scheme=scheme, seconds=0.6)
    assert time.monotonic() - began < 10


def test_nobody_waits_for_a_resolver_that_does_not_answer(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(fetching, "addresses_of", lambda *_: released.wait(30))
    began = time.monotonic()
    with pytest.raises(NotFetched, match="TimeoutError"):
        fetched(server(), seconds=0.2)
    released.set()
    assert time.monotonic() - began < 10


def test_without_tls_only_listed_networks_are_connected_to(server: Any, settings: Any) -> None:
    one = server(HEAD + b"\r\nsecret")
    for networks in ([], ["10.0.0.0/8"]):
        settings.UPSTREAM_ALLOWED_NETWORKS = networks
        for scheme in ("http", "https"):
            with pytest.raises(NotFetched, match="no address that may be connected to"):
                fetched(one, host="localhost", scheme=scheme)
    assert one.asked == []


def test_of_public_addresses_those_alone_over_tls(
    server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    monkeypatch.setattr(fetching, "addresses_of", lambda *_: ["1.1.1.1", "127.0.0.1"])
    with pytest.raises(NotFetched, match="no address that may be connected to"):
        fetch("http://idp.example/keys", most_bytes=10, seconds=1)
    assert fetching._judged("idp.example", 443, True, time.monotonic() + 1) == ["1.1.1.1"]


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "ftp://127.0.0.1/", "http://a@127.0.0.1/", "http://[x/"]
)
def test_what_is_no_address_of_a_document_is_refused(url: str) -> None:
    with pytest.raises(NotFetched):
        fetch(url, most_bytes=10, seconds=1)


def test_no_proxy_of_the_environment_is_asked(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, one = server(HEAD + b"\r\nproxy"), server(HEAD + b"\r\nserver")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert fetched(one) == b"server"


def test_over_tls_the_name_is_verified_though_an_address_is_connected_to(
    server: Any, own_certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = server(HEAD + b"\r\nverified", tls=own_certificate)
    assert fetched(one, host="localhost", scheme="https") == b"verified"
    monkeypatch.setattr(fetching, "addresses_of", lambda *_: ["127.0.0.1"])
    with pytest.raises(NotFetched, match="SSLCertVerificationError"):
        fetched(one, host="another.example", scheme="https")
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(NotFetched, match="SSLCertVerificationError"):
        fetched(one, host="localhost", scheme="https")


@pytest.fixture
def own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context for ``localhost``, which this process trusts."""
    file = make_certificate(tmp_path / "certificate.pem", name="localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return server_context(file)
