"""An upstream that misbehaves, over a real socket. The first part of the path says how."""

import contextlib
import gzip
import json
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Connection = socket.socket

#: How long what has no end goes on: longer than any deadline that a test sets, and than it takes to keep it.
LONG_SECONDS = 30


def completion(usage: Any) -> bytes:
    document: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": "a few words here"}}]
    }
    if usage is not None:
        document["usage"] = usage
    return json.dumps(document).encode()


#: What closes its connections says so: a call on one that is closed just then is not repeated, and fails.
CLOSES = "Connection: close"


def ok(body: bytes, *headers: str) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        CLOSES,
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def longer(answer: bytes, by: int) -> bytes:
    """An answer that tells another length than it has."""
    return re.sub(rb"Length: (\d+)", lambda told: b"Length: %d" % (int(told[1]) + by), answer)


def head_of_stream() -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


END_OF_CHUNKS = b"0\r\n\r\n"


def chunked(*pieces: bytes) -> bytes:
    """A stream whose end HTTP tells."""
    head = head_of_stream().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + END_OF_CHUNKS


def event(text: str, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


FINISH = event("", finish_reason="stop")


def messages_stream(*more: bytes) -> bytes:
    """A stream in Anthropic's protocol that has begun and goes on with ``more``."""
    message = {"type": "message", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one "}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    events = [{"type": "message_start", "message": message}, block, *[text] * 8]
    begun = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return head_of_stream() + begun + b"".join(b"data: " + event + b"\n\n" for event in more)


def message() -> bytes:
    """A whole answer in Anthropic's protocol."""
    document = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "one"}],
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }  # fmt: skip
    return json.dumps(document).encode()


def reset(connection: Connection) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(connection: Connection) -> None:
    time.sleep(LONG_SECONDS)


def drip(connection: Connection) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(LONG_SECONDS * 4):
        connection.sendall(b" ")
        time.sleep(0.25)


def reset_in_the_body(connection: Connection) -> None:
    connection.sendall(ok(completion({}) + b" " * 1000)[:-500])
    time.sleep(0.1)
    reset(connection)


def endless_body(connection: Connection) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(400):
        connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")


def stream_then_reset(connection: Connection) -> None:
    connection.sendall(head_of_stream() + event("one ") * 8)
    time.sleep(0.2)
    reset(connection)


def stream_then_hang(connection: Connection) -> None:
    connection.sendall(head_of_stream() + event("one ") * 8)
    time.sleep(LONG_SECONDS)


def stream_slowly(connection: Connection) -> None:
    """Whole, with its usage, but not at once."""
    connection.sendall(head_of_stream())
    for _ in range(10):
        connection.sendall(event("one "))
        time.sleep(0.05)
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    last = {"choices": [], "usage": usage}
    connection.sendall(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")


#: Set: streams that are held may end.
MAY_END = threading.Event()


def stream_held(connection: Connection) -> None:
    """Whole, with its usage, but not before the test says so."""
    connection.sendall(head_of_stream() + event("one "))
    for _ in range(LONG_SECONDS * 20):
        if MAY_END.wait(0.05):
            break
        connection.sendall(b": still here\n\n")
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    last = {"choices": [], "usage": usage}
    connection.sendall(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")


def stream_endless_line(connection: Connection) -> None:
    connection.sendall(head_of_stream() + event("one ") * 8 + b"data: ")
    for _ in range(64):
        connection.sendall(b"x" * 65536)


DONE = b"data: [DONE]\n\n"


def usage_event(completion_tokens: int) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": completion_tokens}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


NO_USAGE_EVENT = b'data: {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": true}}\n\n'
USAGE_EVENT, LESSER_USAGE_EVENT = usage_event(4), usage_event(1)


def sends(data: bytes) -> Callable[[Connection], None]:
    return lambda connection: connection.sendall(data)


BLOCK_STOP = b'{"type":"content_block_stop","index":0}'
MESSAGE_DELTA = b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}'
#: Everything that server-sent events may be.
MIXED = (
    b"\xef\xbb\xbf: a comment\r\nretry: 5\r\n\r\n"
    b'event: chunk\rid: 1\rdata:{"choices":[{"index":0,\rdata: "delta":{"content":"one "}}]}\r\r'
    + USAGE_EVENT.replace(b"\n", b"\r\n")
    + b"data:[DONE]\n\r"
)


def stream_finished_and_reset(connection: Connection) -> None:
    connection.sendall(chunked(event("one "), FINISH, USAGE_EVENT).removesuffix(END_OF_CHUNKS))
    time.sleep(0.1)
    reset(connection)


#: Set: what is sent late may be sent.
MAY_GO_ON = threading.Event()


def sends_late(first: bytes, rest: bytes) -> Callable[[Connection], None]:
    """The rest not before the test says so."""

    def behave(connection: Connection) -> None:
        connection.sendall(first)
        MAY_GO_ON.wait(20)
        connection.sendall(rest)

    return behave


USAGES: dict[str, Any] = {
    "absent": None,
    "no-object": "many",
    "negative": {"prompt_tokens": -5, "completion_tokens": 5},
    "fractional": {"prompt_tokens": 1.5, "completion_tokens": 5},
    "boolean": {"prompt_tokens": True, "completion_tokens": 5},
    "half": {"prompt_tokens": 5},
    "huge": {"prompt_tokens": 10**18, "completion_tokens": 10**18},
    "beyond": {"prompt_tokens": 10**30, "completion_tokens": 1},
}
BEHAVIOURS: dict[str, Callable[[Connection], None]] = {
    "hang": hang,
    "drip": drip,
    "reset": reset,
    "reset-in-the-body": reset_in_the_body,
    "endless-body": endless_body,
    "garbage": sends(ok(b"<html>it works</html>")),
    "not-http": sends(b"\x00\x01\x02 hello\r\n\r\n"),
    "empty": sends(ok(b"")),
    "no-choices": sends(ok(b'{"choices": []}')),
    "wrong-types": sends(ok(b'{"choices": [{"message": "hi"}]}')),
    "deep": sends(ok(b'{"choices":' + b"[" * 100_000)),
    "gzip-bomb": sends(ok(gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip")),
    "redirect": sends(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "sse": sends(ok(event("one ") + FINISH + USAGE_EVENT + DONE)),
    "nan-usage": sends(ok(completion({"prompt_tokens": float("nan"), "completion_tokens": 4}))),
    "no-content": sends(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "reset-content": sends(b"HTTP/1.1 205 Reset\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    "not-modified": sends(b"HTTP/1.1 304 No\r\nConnection: close\r\nContent-Length: 9\r\n\r\n"),
    "length-short": sends(longer(ok(completion(None)), -10)),
    "length-long": sends(longer(ok(completion(None)), 10)),
    "many-headers": sends(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000 + b"\r\n"),
    "refuses": sends(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret"),
    "busy": sends(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret"),
    "fails": sends(b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret"),
    "message": sends(ok(message())),
    "works": sends(ok(completion({"prompt_tokens": 7, "completion_tokens": 4}))),
    "waits": sends(ok(completion({"prompt_tokens": 7, "completion_tokens": 4}))),
    "later": sends(
        b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    ),
    "unavailable": sends(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret"),
    "works-late": sends_late(b"", ok(completion({"prompt_tokens": 7, "completion_tokens": 4}))),
    "stream-late": sends_late(b"", head_of_stream() + event("one ") + USAGE_EVENT + DONE),
    "stream-head-first": sends_late(head_of_stream(), event("one ") + USAGE_EVENT + DONE),
    "stream-in-halves": sends_late(
        head_of_stream() + event("one ") + event("two ")[:-20], event("two ")[-20:] + USAGE_EVENT + DONE
    ),
    "stream-done-late": sends_late(head_of_stream() + event("one ") + USAGE_EVENT, DONE),
    "stream-whole": sends(head_of_stream() + event("one ") + USAGE_EVENT + DONE),
    "stream-finished": sends(chunked(event("one "), FINISH, USAGE_EVENT)),
    "stream-finished-uncounted": sends(chunked(event("one "), FINISH)),
    "stream-finished-and-closed": sends(head_of_stream() + event("one ") + FINISH + USAGE_EVENT),
    "stream-totalled": sends(chunked(event("one "), USAGE_EVENT)),
    "stream-half-finished": sends(chunked(event("one "), FINISH, event("two ", 1))),
    "stream-finished-and-cut": sends(chunked(event("one "), FINISH, USAGE_EVENT).removesuffix(END_OF_CHUNKS)),
    "stream-finished-and-reset": stream_finished_and_reset,
    "stream-finished-short": sends(longer(ok(event("one ") + FINISH + USAGE_EVENT), 10)),
    "messages-finished": sends(messages_stream(BLOCK_STOP, MESSAGE_DELTA)),
    "messages-unfinished": sends(
        messages_stream(BLOCK_STOP, MESSAGE_DELTA.replace(b'"stop_reason":"end_turn"', b""))
    ),
    "stream-returns": sends(
        head_of_stream() + (event("one ") + USAGE_EVENT + DONE).replace(b"\n", b"\r") + event("two ")
    ),
    "stream-mixed": sends(head_of_stream() + MIXED),
    "stream-reset": stream_then_reset,
    "stream-slowly": stream_slowly,
    "stream-held": stream_held,
    "stream-error": sends(
        head_of_stream() + event("one ") * 8 + b'data: {"error": {"message": "secret"}}\n\n'
    ),
    "stream-bare-error": sends(
        head_of_stream() + event("one ") * 8 + b'data: {"object": "error", "message": "secret"}\n\n' + DONE
    ),
    "stream-hang": stream_then_hang,
    "stream-endless-line": stream_endless_line,
    "stream-cut": sends(head_of_stream() + event("one ") * 8),
    "stream-garbage": sends(head_of_stream() + event("one ") * 8 + b"data: {nonsense\n\n"),
    "stream-goes-on": sends(
        head_of_stream()
        + event("one ")
        + USAGE_EVENT
        + b"data: [DONE]\n\n"
        + event("two ")
        + LESSER_USAGE_EVENT
    ),
    "stream-unended": sends(
        head_of_stream() + b"\xef\xbb\xbf" + event("one ") + USAGE_EVENT + b"data: [DONE]"
    ),
    "stream-usages": sends(
        chunked(event("one "), usage_event(1), event(""), usage_event(9), USAGE_EVENT, NO_USAGE_EVENT, DONE)
    ),
    "stream-trailing": sends(chunked(event("one "), USAGE_EVENT, DONE, DONE) + b"garbage\r\n\r\n" * 9),
    "stream-done-loosely": sends(chunked(event("one "), USAGE_EVENT, b"data: [DONE] \n\n")),
    "stream-first-usage-alone": sends(chunked(usage_event(0), event("one ") * 8).removesuffix(END_OF_CHUNKS)),
    "stream-nan-usage": sends(
        head_of_stream() + event("one ") * 8 + b'data: {"choices": [], "usage": {"prompt_tokens": NaN}}\n\n'
    ),
    "stream-length-short": sends(longer(ok(event("one ") * 8 + event("two ") + DONE), -len(DONE) - 9)),
    "stream-without-usage": sends(head_of_stream() + event("one ") * 8 + b"data: [DONE]\n\n"),
    "messages-cut": sends(messages_stream()),
    "messages-garbage": sends(messages_stream(b"{nonsense")),
    "messages-error": sends(
        messages_stream(b'{"type":"error","error":{"type":"overloaded_error","message":"secret"}}')
    ),
    "messages-done": sends(messages_stream(b"[DONE]")),
    **{f"usage-{name}": sends(ok(completion(usage))) for name, usage in USAGES.items()},
    **{
        f"stream-usage-{name}": sends(
            chunked(
                event("a few words here"),
                b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n",
                DONE,
            )
        )
        for name, usage in USAGES.items()
    },
}


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        # Whoever misbehaves on purpose does not mind that the other side hangs up.
        with contextlib.suppress(OSError):
            path = self._read_request()
            self.server.calls.append(path)  # type: ignore[attr-defined]
            self.server.heads[path] = self.head  # type: ignore[attr-defined]
            if path == "waits":
                self.server.may_answer.wait(LONG_SECONDS)  # type: ignore[attr-defined]
            BEHAVIOURS[path](self.request)

    def _read_request(self) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.request.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        self.head = head.decode()
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self.request.recv(65536)
        return head.split()[1].decode().split("/")[1]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[str] = []
        self.heads: dict[str, str] = {}
        self.may_answer = threading.Event()


@contextlib.contextmanager
def hostile_upstream() -> Iterator[_Server]:
    """A server at ``server_address``; ``calls``: every request's behaviour; ``heads``: the last head of each.

    What ``waits`` is answered while the server ``may_answer``.
    """
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
