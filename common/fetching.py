"""Fetching a small document from a server of others, or giving it a file; bounded in bytes and in time, DNS and TLS
included.

Who is connected to is an address that was judged, resolved once (``common.upstream_networks``): over TLS any that an
upstream may have, without it only those in ``UPSTREAM_ALLOWED_NETWORKS``. Redirects lead nowhere, and no proxy that the
environment names is asked.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO
from urllib.parse import SplitResult, urlsplit

from common.upstream_networks import addresses_of, is_listed, may_connect

#: The resolver has no deadline, so nobody waits for it by itself: who does not get one of these in time goes without.
_resolving = ThreadPoolExecutor(2, thread_name_prefix="resolve")


class NotFetched(Exception):
    """Why, in words that show nothing of what was sent or came."""


def fetch(url: str, *, most_bytes: int, seconds: float) -> bytes:
    """The body of a 200. Raises ``NotFetched``, after ``seconds`` at the latest."""
    deadline = time.monotonic() + seconds
    try:
        parts = _split(url)
        with _connected(parts, deadline) as connection, _cut_at(deadline, connection.sock):
            body = _asked(connection, parts, most_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotFetched(f"the server does not answer as it should ({type(error).__name__})") from error
    # What was cut may look complete.
    if time.monotonic() >= deadline:
        raise NotFetched("the server takes too long")
    return body


def put(url: str, file: BinaryIO, *, headers: Mapping[str, str], seconds: float) -> None:
    """Give a file, whose length is in the headers, to a server that answers 200. Raises ``NotFetched``, after
    ``seconds`` at the latest; the server may have taken the file then."""
    deadline = time.monotonic() + seconds
    try:
        parts = _split(url)
        with _connected(parts, deadline) as connection, _cut_at(deadline, connection.sock):
            connection.request("PUT", parts.path or "/", body=file, headers=dict(headers))
            answer = connection.getresponse()
            if answer.status != 200:
                raise NotFetched(f"the server answers {answer.status}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotFetched(f"the server does not answer as it should ({type(error).__name__})") from error


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise NotFetched("this is no address of a document")
    return parts


def _asked(connection: http.client.HTTPConnection, parts: SplitResult, most_bytes: int) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise NotFetched(f"the server answers {answer.status}")
    body = answer.read(most_bytes + 1)
    if len(body) > most_bytes:
        raise NotFetched(f"the document has more than {most_bytes} bytes")
    if answer.length:
        raise NotFetched("the document ended early")
    return body


@contextlib.contextmanager
def _connected(parts: SplitResult, deadline: float) -> Iterator[http.client.HTTPConnection]:
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    # It connects by itself where it has no socket, to whatever the name means then: it has one.
    with contextlib.closing(kind(host, port)) as connection:
        connection.sock = _socket(_judged(host, port, tls, deadline), port, deadline)
        connection.sock.settimeout(_left(deadline))
        if tls:
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
        yield connection


def _judged(host: str, port: int, tls: bool, deadline: float) -> list[str]:
    found = _resolving.submit(addresses_of, host, port).result(timeout=_left(deadline))
    allowed = [each for each in found if (may_connect(each) if tls else is_listed(each))]
    if not allowed:
        raise NotFetched("the server has no address that may be connected to")
    return allowed


def _socket(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """To the first address that answers; each may take its part of the time that is left."""
    for number, address in enumerate(addresses):
        part = _left(deadline) / (len(addresses) - number)
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout=part)
    raise NotFetched("the server cannot be connected to")


@contextlib.contextmanager
def _cut_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """A server that sends a byte now and then is within every timeout of a socket, so the whole has one of its own."""
    timer = threading.Timer(_left(deadline), _cut, (sock,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not by the method of a TLS socket, which is no longer one after that: the other thread is reading.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    """Raises ``TimeoutError`` where nothing is left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
