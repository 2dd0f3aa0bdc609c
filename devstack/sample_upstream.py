"""The sample upstream: a server of OpenAI's and Anthropic's protocols to try the marketplace with, and count against.

It answers from `sample_model`, and before it answers it puts a line about the call into its own log, so that
what the marketplace recorded can be held against what was really answered. `SAMPLE_UPSTREAM_LOG` names the
log, `SAMPLE_UPSTREAM_LATENCY_MS` makes it think.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from devstack import sample_messages, sample_texts
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
            case "POST", "/v1/completions":
                await self.complete_text(scope, receive, send)
            case "POST", "/v1/embeddings":
                await self.embed(scope, receive, send)
            case "POST", "/v1/messages":
                await self.speak(scope, receive, send)
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
            reply = reply_to(request)
            await self.work(scope, reply.usage)
        except InvalidRequest as error:
            await refuse(send, 400, str(error))
        except OSError as error:
            await refuse(send, 500, f"the call could not be logged: {error.strerror}")
        else:
            if request.stream:
                await stream(send, events(request, reply))
            else:
                await answer(send, 200, completion(request, reply))

    async def complete_text(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = sample_texts.parse_completion(await read_body(receive))
            reply = sample_texts.completed(request)
            await self.work(scope, reply.usage)
        except InvalidRequest as error:
            await refuse(send, 400, str(error))
        except OSError as error:
            await refuse(send, 500, f"the call could not be logged: {error.strerror}")
        else:
            if request.stream:
                await stream(send, sample_texts.events(request, reply))
            else:
                await answer(send, 200, sample_texts.whole(request, reply))

    async def embed(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            told, usage = sample_texts.embedded(sample_texts.parse_embedding(await read_body(receive)))
            await self.work(scope, usage)
        except InvalidRequest as error:
            await refuse(send, 400, str(error))
        except OSError as error:
            await refuse(send, 500, f"the call could not be logged: {error.strerror}")
        else:
            await answer(send, 200, told)

    async def work(self, scope: Scope, usage: dict[str, Any]) -> None:
        """Think, and log the call before it is answered. Raises ``OSError`` where it cannot be logged."""
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        await self.log.append(log_line(request_id(scope), usage))

    async def speak(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Anthropic's protocol. Like Anthropic's own server it wants to know which version of it is spoken."""
        try:
            if header(scope, b"anthropic-version") is None:
                raise InvalidRequest("anthropic-version: header is required")
            request = sample_messages.parse(await read_body(receive))
            reply, usage = sample_messages.answer_to(request)
            await self.work(scope, usage.logged)
        except InvalidRequest as error:
            await answer(send, 400, sample_messages.error(400, str(error)))
        except OSError as error:
            text = f"the call could not be logged: {error.strerror}"
            await answer(send, 500, sample_messages.error(500, text))
        else:
            if request.stream:
                await stream(send, sample_messages.events(request, reply, usage))
            else:
                await answer(send, 200, sample_messages.whole(request, reply, usage))


def header(scope: Scope, wanted: bytes) -> str | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)


def request_id(scope: Scope) -> str:
    return (header(scope, b"x-request-id") or "")[:LONGEST_REQUEST_ID]


def log_line(request_id: str, usage: dict[str, Any]) -> bytes:
    return encode({"request_id": request_id, **usage, "time": time.time()})


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
            "message": said(request, reply),
            "logprobs": None,
            "finish_reason": finish_reason(request, reply),
        }
        for index in range(request.choices)
    ]
    return envelope(request, "chat.completion") | {"choices": choices, "usage": reply.usage}


def said(request: ChatRequest, reply: Reply) -> dict[str, Any]:
    if request.tool is None:
        return {"role": "assistant", "content": reply.text}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call(request.tool, reply)]}


def tool_call(tool: str, reply: Reply) -> dict[str, Any]:
    function = {"name": tool, "arguments": encode({"text": reply.text}).decode()}
    return {"index": 0, "id": f"call_{os.urandom(12).hex()}", "type": "function", "function": function}


def finish_reason(request: ChatRequest, reply: Reply) -> str:
    return reply.finish_reason if request.tool is None else "tool_calls"


def deltas(request: ChatRequest, reply: Reply) -> list[dict[str, Any]]:
    """Words one by one; a tool's name first and its arguments then."""
    if request.tool is None:
        spaced = [word if position == 0 else f" {word}" for position, word in enumerate(reply.words)]
        pieces: list[dict[str, Any]] = [{"content": text} for text in spaced]
    else:
        call = tool_call(request.tool, reply)
        arguments = {"index": 0, "function": {"arguments": call["function"]["arguments"]}}
        begun = {**call, "function": {"name": request.tool, "arguments": ""}}
        pieces = [{"tool_calls": [begun]}, {"tool_calls": [arguments]}]
    return [{"role": "assistant", **pieces[0]}, *pieces[1:]]


def chunks(request: ChatRequest, reply: Reply) -> list[dict[str, Any]]:
    """A chunk for each word of each choice, one that ends it, and the usage where it was asked for."""
    base = envelope(request, "chat.completion.chunk")
    made: list[dict[str, Any]] = []
    for index in range(request.choices):
        made += [base | {"choices": [choice(index, delta, None)]} for delta in deltas(request, reply)]
        made.append(base | {"choices": [choice(index, {}, finish_reason(request, reply))]})
    if request.wants_usage_chunk:
        made = [chunk | {"usage": None} for chunk in made]
        made.append(base | {"choices": [], "usage": reply.usage})
    return made


def choice(index: int, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def events(request: ChatRequest, reply: Reply) -> Iterator[bytes]:
    for chunk in chunks(request, reply):
        yield b"data: " + encode(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


async def stream(send: Send, sent: Iterator[bytes]) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in sent:
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


def main() -> None:
    """Serve until SIGTERM; then answer what has come."""
    parser = argparse.ArgumentParser(prog="devstack.sample_upstream", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    # uvicorn stops in peace and then sends itself the signal once more: an end like any other, with exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        SampleUpstream(
            log=CallLog(Path(os.environ["SAMPLE_UPSTREAM_LOG"])),
            latency_seconds=float(os.environ.get("SAMPLE_UPSTREAM_LATENCY_MS", "0")) / 1000,
        ),
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        loop="uvloop",
        backlog=4096,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
