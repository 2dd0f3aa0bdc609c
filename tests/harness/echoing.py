"""An upstream that tells whatever it was told: in its answers, its errors, its headers and its breaches of protocol."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """One call as it came: its credential, its body, and what is to be answered."""

    credential: str
    body: str
    answer: str

    @property
    def everything(self) -> str:
        return f"{self.credential} {self.body} {self.answer}".replace("\n", " ")


def http(status: str, body: str, *headers: str, kind: str = "application/json") -> bytes:
    length = len(body.encode())
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {length}", *headers, "", body]
    return "\r\n".join(lines).encode()


def error(told: Told) -> str:
    return json.dumps(
        {"error": {"message": told.everything, "type": told.credential, "code": told.credential}}
    )


def completion(told: Told, **changed: Any) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": told.answer}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    return json.dumps({"id": "1", "model": "m", "choices": [choice], "usage": usage, **changed})


def events(told: Told, *last: str) -> bytes:
    """A stream that gives the answer in two pieces."""
    half = len(told.answer) // 2
    pieces = [
        json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
        for text in (told.answer[:half], told.answer[half:])
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head + b"".join(f"data: {event}\n\n".encode() for event in (*pieces, *last))


def answers(told: Told) -> bytes:
    if not json.loads(told.body).get("stream"):
        return http("200 OK", completion(told))
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    return events(told, json.dumps({"choices": [], "usage": usage}), "[DONE]")


BEHAVIOURS: dict[str, Callable[[Told], bytes]] = {
    "answers": answers,
    "waits": answers,
    "refuses": lambda told: http(f"400 {told.credential}", error(told), f"X-Echo: {told.credential}"),
    "fails": lambda told: http(f"500 {told.credential}", error(told), f"X-Echo: {told.credential}"),
    "is-busy": lambda told: http("429 Later", error(told), f"Retry-After: {told.credential}"),
    "unauthorised": lambda told: http("401 No", error(told), f"WWW-Authenticate: {told.credential}"),
    "redirects": lambda told: http("302 Found", "", f"Location: http://127.0.0.1:1/?key={told.credential}"),
    "of-no-status": lambda told: f"HTTP/1.1 {told.credential} OK\r\n\r\n".encode(),
    "of-no-protocol": lambda told: f"{told.everything}\r\n\r\n".encode(),
    "of-no-header": lambda told: f"HTTP/1.1 200 OK\r\n{told.credential}\r\n\r\n".encode(),
    "of-no-length": lambda told: f"HTTP/1.1 200 OK\r\nContent-Length: {told.credential}\r\n\r\n".encode(),
    "of-another-kind": lambda told: http("200 OK", told.everything, kind=told.credential),
    "garbage": lambda told: http("200 OK", completion(told)[:-9] + told.everything),
    "of-no-type": lambda told: http("200 OK", completion(told, choices=told.everything)),
    "of-no-usage": lambda told: http("200 OK", completion(told, usage={"prompt_tokens": told.credential})),
    "fails-late": lambda told: events(told, error(told)),
    "garbage-late": lambda told: events(told, "{" + told.everything),
    "of-no-type-late": lambda told: events(told, json.dumps({"choices": told.everything})),
    "ends-early": lambda told: events(told),
}  # fmt: skip
#: Which of them are streams.
LATE = ("fails-late", "garbage-late", "of-no-type-late", "ends-early")


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            line = self.rfile.readline().decode("latin-1")
            headers = {}
            while (header := self.rfile.readline().decode("latin-1").strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", "0"))).decode()
            credential = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
            self.answer(line.split("/")[1], credential, body)

    def answer(self, behaviour: str, credential: str, body: str) -> None:
        upstream: Any = self.server
        told = Told(credential, body, upstream.answer)
        upstream.told.append(told)
        if behaviour == "waits":
            upstream.reached.set()
            upstream.may_answer.wait(10)
        self.wfile.write(BEHAVIOURS[behaviour](told))


class EchoingUpstream(socketserver.ThreadingTCPServer):
    """At ``url``; what it was ``told``. Its first answer to a path ``waits/…`` comes when it ``may_answer``."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.told: list[Told] = []
        self.reached, self.may_answer = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def echoing_upstream(answer: str) -> Iterator[EchoingUpstream]:
    server = EchoingUpstream(answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
