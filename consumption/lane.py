"""The fast lane: paid calls straight from the server's protocol, past the framework.

The same calls through Django are ``consumption.views.ConsumeView``; the contract tests run over both.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from common.errors import Malformed, Problem, TooLarge
from consumption.answers import refusal
from consumption.call import Call
from consumption.dialects.base import Answer
from consumption.gateway import Gateway
from consumption.paid_call import Stream
from consumption.transport import CONSUME, DIALECTS, MARKETPLACE, bearer_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


def takes(scope: Scope) -> bool:
    """Whether this is a call for the lane."""
    path: str = scope["path"]
    return path.startswith(CONSUME) or path in DIALECTS


async def serve(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> int:
    """Answer one call; returns the HTTP status."""
    answer = await _answer(gateway, scope, receive)
    if isinstance(answer, Stream):
        await _send_stream(answer, receive, send)
        return 200
    await _send(answer, send)
    return answer.status


def _call(scope: Scope, body: bytes = b"") -> Call:
    path: str = scope["path"]
    dialect = DIALECTS.get(path)
    if dialect is not None:
        return Call(dialect, _bearer(scope), _address(scope), body=body)
    service_id = path[len(CONSUME) :].rstrip("/")
    return Call(MARKETPLACE, _bearer(scope), _address(scope), service_id, body)


async def _answer(gateway: Gateway, scope: Scope, receive: Receive) -> Answer | Stream:
    if scope["method"] != "POST":
        return refusal(_call(scope), MethodNotAllowed())
    try:
        body = await _read(receive, gateway.most_body_bytes)
    except (TooLarge, Malformed) as error:
        return refusal(_call(scope), error)
    # A call begins when it is whole. A slow client's upload is no latency of the service, and admission refuses ids
    # that are seconds old.
    return await gateway.answer(_call(scope, body))


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer_of(value.decode("latin-1"))
    return None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


async def _read(receive: Receive, most_bytes: int) -> bytes:
    """The whole body. Raises ``TooLarge`` as soon as it is, ``Malformed`` where the client left before its end."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > most_bytes:
            raise TooLarge()
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("The body was cut short")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most_bytes:
            raise TooLarge()
    return b"".join(parts)


async def _send_stream(stream: Stream, receive: Receive, send: Send) -> None:
    """Send events as they come; a client that goes away cancels the call, and with it the upstream."""
    headers = [(name.encode(), value.encode()) for name, value in stream.headers]

    async def write(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    await send({"type": "http.response.start", "status": 200, "headers": headers})
    relaying = asyncio.ensure_future(stream.run(write))
    watching = asyncio.ensure_future(_gone(receive))
    watching.add_done_callback(lambda _: relaying.cancel())
    try:
        await relaying
        await send({"type": "http.response.body", "body": b""})
    except asyncio.CancelledError:
        if not watching.done():
            raise
    finally:
        watching.cancel()


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(answer: Answer, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
