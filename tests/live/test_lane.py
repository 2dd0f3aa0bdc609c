"""The lane's connections, byte by byte: requests behind one another, and what no request may be."""

import json
import socket
from typing import Any

import pytest

from tests import factories
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack


class Wire:
    """A connection to the lane, for a key of a service."""

    def __init__(self, gateway: GatewayProcess, endpoint: str) -> None:
        self.service = factories.make_service(endpoint=endpoint)
        _, self.text = factories.make_key(service=self.service)
        # The service becomes known in one moment, its price in the next.
        warm = {"prompt": "warm up", "max_tokens": 5}
        wait_for(lambda: gateway.consume(self.service.id, self.text, warm).status_code == 200)
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)

    def request(self, body: bytes, *more: str, method: str = "POST", length: int | None = None) -> bytes:
        lines = [
            f"{method} /api/v1/consume/{self.service.id} HTTP/1.1", "Host: here", f"Authorization: Bearer {self.text}",
            f"Content-Length: {len(body) if length is None else length}", *more,
        ]  # fmt: skip
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def read_to_end(self) -> bytes:
        data = b""
        while piece := self.socket.recv(65_536):
            data += piece
        return data


@pytest.fixture
def wire(lane_gateway: GatewayProcess, stack: Stack) -> Any:
    made = Wire(lane_gateway, stack.upstream_url)
    yield made
    made.socket.close()


def prompt(text: str, **more: Any) -> bytes:
    return json.dumps({"prompt": text, "max_tokens": 20, **more}).encode()


def test_calls_behind_one_another_are_answered_in_their_order(wire: Wire) -> None:
    last = wire.request(prompt("three"), "Connection: close")
    wire.socket.sendall(wire.request(prompt("one")) + wire.request(prompt("two")) + last)
    answers = wire.read_to_end()
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert [answers.index(word) for word in (b"one one", b"two two", b"three three")] == sorted(
        answers.index(word) for word in (b"one one", b"two two", b"three three")
    )


def test_a_refusal_waits_for_the_answer_before_it(wire: Wire) -> None:
    too_large = wire.request(b"x" * (1024 * 1024 + 1))
    wire.socket.sendall(wire.request(prompt("first", stream=True)) + too_large)
    answers = wire.read_to_end()
    stream, _, refusal = answers.partition(b"0\r\n\r\nHTTP/1.1 413")
    assert stream.startswith(b"HTTP/1.1 200 OK")
    assert b"[DONE]" in stream
    assert b'"body_too_large"' in refusal


def test_what_follows_a_whole_call_does_not_answer_it(wire: Wire) -> None:
    wire.socket.sendall(wire.request(prompt("first")) + b"\x00 nonsense\r\n\r\n")
    answers = wire.read_to_end()
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert answers.count(b"HTTP/1.1") == 1


def test_a_head_without_end_is_refused(wire: Wire) -> None:
    wire.socket.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX: " + b"y" * 70_000)
    assert wire.read_to_end().startswith(b"HTTP/1.1 400")


def test_a_trailer_is_no_header(wire: Wire) -> None:
    body = prompt("hello")
    head = wire.request(b"", "Transfer-Encoding: chunked", "Connection: close").replace(
        b"Content-Length: 0\r\n", b""
    )
    head = head.replace(f"Authorization: Bearer {wire.text}\r\n".encode(), b"")
    trailer = f"Authorization: Bearer {wire.text}\r\n".encode()
    wire.socket.sendall(head + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + trailer + b"\r\n")
    assert wire.read_to_end().startswith(b"HTTP/1.1 401")


def test_a_client_that_asks_first_is_told_to_go_on(wire: Wire) -> None:
    body = prompt("hello")
    wire.socket.sendall(wire.request(b"", "Expect: 100-continue", "Connection: close", length=len(body)))
    assert wire.socket.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.socket.sendall(body)
    assert wire.read_to_end().startswith(b"HTTP/1.1 200 OK")


def test_other_methods_are_not_allowed_and_the_connection_goes_on(wire: Wire) -> None:
    wire.socket.sendall(wire.request(b"", method="GET") + wire.request(prompt("after"), "Connection: close"))
    answers = wire.read_to_end()
    assert answers.startswith(b"HTTP/1.1 405")
    assert b"HTTP/1.1 200 OK" in answers


def test_http_1_0_gets_its_stream_to_the_end_of_the_connection(wire: Wire) -> None:
    wire.socket.sendall(wire.request(prompt("old", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = wire.read_to_end()
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
