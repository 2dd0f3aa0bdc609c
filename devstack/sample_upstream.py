"""The sample upstream: an OpenAI-compatible server to try the marketplace with, and to count against.

It answers from `sample_model`, and before it answers it puts a line about the call into its own log, so that
what the marketplace recorded can be held against what was really answered. `SAMPLE_UPSTREAM_LOG` names the
log, `SAMPLE_UPSTREAM_LATENCY_MS` makes it think.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from devstack.call_log import CallLog
from devstack.sample_model import ChatRequest, InvalidRequest, Reply, parse, reply_to

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LONGEST_BODY = 16 * 1024 * 1024
LONGEST_REQUEST_ID = 128
encode = msgspec.json.Encoder().encode


class SampleUpstream:
    """The ASGI application."""

    def __init__(self, *, log: CallLog, latency_seconds: float = 0.0) -> None:
        self.log = log
        self.latency_seconds = latency_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        match scope["method"], scope["path"]:
            case "POST", "/v1/chat/completions":
                await self.complete(scope, receive, send)
            case "GET", "/v1/models":
                models = [{"id": "sample", "object": "model", "created": 0, "owned_by": "sample"}]
                await answer(send, 200, {"object": "list", "data": models})
            case "GET", "/health":
                await answer(send, 200, {"status": "ok"})
            case _:
                await refuse(send, 404, "there is nothing at this address")

    async def live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self.log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = parse(await read_body(receive))
        except InvalidRequest as error:
            await refuse(send, 400, str(error))
            return
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        reply = reply_to(request)
        try:
            await self.log.append(log_line(request_id(scope), reply))
        except OSError as error:
            await refuse(send, 500, f"the call could not be logged: {error.strerror}")
            return
        if request.stream:
            await stream(send, request, reply)
        else:
            await answer(send, 200, completion(request, reply))


def request_id(scope: Scope) -> str:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("latin-1")[:LONGEST_REQUEST_ID]
    return ""


def log_line(request_id: str, reply: Reply) -> bytes:
    return encode({"request_id": request_id, **reply.usage, "time": time.time()})


async def read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise InvalidRequest("the body ended early")
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > LONGEST_BODY:
            raise InvalidRequest("the body is too long")
        more = event.get("more_body", False)
    return b"".join(parts)


def envelope(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{os.urandom(12).hex()}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
    }


def completion(request: ChatRequest, reply: Reply) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": reply.text},
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        for index in range(request.choices)
    ]
    return envelope(request, "chat.completion") | {"choices": choices, "usage": reply.usage}


def chunks(request: ChatRequest, reply: Reply) -> list[dict[str, Any]]:
    """A chunk for each word of each choice, one that ends it, and the usage where it was asked for."""
    base = envelope(request, "chat.completion.chunk")
    made: list[dict[str, Any]] = []
    for index in range(request.choices):
        for position, word in enumerate(reply.words):
            first = {"role": "assistant", "content": word}
            delta = first if position == 0 else {"content": f" {word}"}
            made.append(base | {"choices": [choice(index, delta, None)]})
        made.append(base | {"choices": [choice(index, {}, reply.finish_reason)]})
    if request.wants_usage_chunk:
        made = [chunk | {"usage": None} for chunk in made]
        made.append(base | {"choices": [], "usage": reply.usage})
    return made


def choice(index: int, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


async def events(request: ChatRequest, reply: Reply) -> AsyncIterator[bytes]:
    for chunk in chunks(request, reply):
        yield b"data: " + encode(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


async def stream(send: Send, request: ChatRequest, reply: Reply) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for event in events(request, reply):
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse(send: Send, status: int, message: str) -> None:
    kind = "invalid_request_error" if status < 500 else "server_error"
    await answer(send, status, {"error": {"message": message, "type": kind, "param": None, "code": None}})


def create() -> SampleUpstream:
    """Granian's `--factory` target."""
    return SampleUpstream(
        log=CallLog(Path(os.environ["SAMPLE_UPSTREAM_LOG"])),
        latency_seconds=float(os.environ.get("SAMPLE_UPSTREAM_LATENCY_MS", "0")) / 1000,
    )
