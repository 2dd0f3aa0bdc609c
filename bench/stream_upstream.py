"""An upstream that streams as it is told: `python -m bench.stream_upstream PORT`.

The field `bench` of a call's body says how: `{"chunks": 2000}` at full speed, `{"chunks": 30, "every_ms": 1000}` one
by one. Every chunk of the second kind carries the moment at which it was due (seconds of the monotonic clock).
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any, cast

import httptools
import uvloop

from bench.nginx import COMPLETION_TOKENS, PROMPT_TOKENS

BACKLOG = 16_384
BLOCK_CHUNKS = 20
# What may wait unread: less than a socket holds, so that nothing piles up here.
HIGH_WATER = 64 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def event(data: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    text = b"data: " + data + b"\n\n"
    return f"{len(text):x}\r\n".encode() + text + b"\r\n"


def chunk(content: str | None, **fields: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": "stop" if content is None else None,
    }
    body = {
        "id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "bench",
        "service_tier": "default", "system_fingerprint": "fp_bench", "choices": [choice], "usage": None,
    }  # fmt: skip
    return event(json.dumps(body | fields, separators=(",", ":")).encode())


def timed_chunk(due: float) -> bytes:
    return BEFORE + f"{due:014.6f}".encode() + AFTER


BLOCK = chunk(" entangled") * BLOCK_CHUNKS
# The moment has a fixed width, so that the length of the chunk is known before.
BEFORE, _, AFTER = chunk("@" + "0" * 14).partition(b"0" * 14)
TOTAL_TOKENS = PROMPT_TOKENS + COMPLETION_TOKENS
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": TOTAL_TOKENS}
END = chunk(None) + chunk(None, choices=[], usage=USAGE) + event(b"[DONE]") + b"0\r\n\r\n"


class Streamer(asyncio.Protocol):
    """One connection, one stream at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._body: list[bytes] = []
        self._left = 0
        self._every = 0.0
        self._due = 0.0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if not body:
            self._transport.write(OK)
            return
        told = json.loads(body).get("bench") or {}
        self._left = int(told.get("chunks", BLOCK_CHUNKS))
        self._every = float(told.get("every_ms", 0)) / 1000
        self._transport.write(HEAD)
        if self._every:
            self._due = time.monotonic()
            self._next()
        else:
            self._pour()

    def _pour(self) -> None:
        if self._paused or self._transport.is_closing():
            return
        self._transport.write(BLOCK)
        self._left -= BLOCK_CHUNKS
        if self._left > 0:
            self._loop.call_soon(self._pour)  # the others' turn
        else:
            self._transport.write(END)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(timed_chunk(self._due))
        self._left -= 1
        self._due += self._every
        wait = max(0.0, self._due - time.monotonic())
        self._loop.call_later(wait, self._next if self._left else self._end)

    def _end(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(END)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._left > 0 and not self._every:
            self._pour()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Streamer, "127.0.0.1", port, backlog=BACKLOG)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))
