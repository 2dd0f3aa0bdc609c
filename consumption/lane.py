"""The fast lane: ``POST /api/v1/consume/{serviceId}`` straight from the server's protocol, past the framework.

The same call through Django is ``consumption.views.ConsumeView``; the contract tests run over both.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from common.errors import Problem, TooLarge
from consumption.answers import Answer, problem
from consumption.call import Call
from consumption.gateway import Gateway
from consumption.transport import bearer_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX = "/api/v1/consume/"


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


def takes(scope: Scope) -> bool:
    """Whether this is a call for the lane."""
    path: str = scope["path"]
    return path.startswith(PREFIX)


async def serve(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> int:
    """Answer one call; returns the HTTP status."""
    call = Call(
        key=_bearer(scope),
        service_id=scope["path"][len(PREFIX) :].rstrip("/"),
        body=b"",
        address=_address(scope),
    )
    if scope["method"] != "POST":
        answer = problem(MethodNotAllowed(), str(call.request_id))
    else:
        try:
            call.body = await _read(receive, gateway.most_body_bytes)
        except TooLarge as error:
            answer = problem(error, str(call.request_id))
        else:
            answer = await gateway.answer(call)
    await _send(answer, send)
    return answer.status


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer_of(value.decode("latin-1"))
    return None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


async def _read(receive: Receive, most_bytes: int) -> bytes:
    """The whole body. Raises ``TooLarge`` as soon as it is."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > most_bytes:
            raise TooLarge()
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most_bytes:
            raise TooLarge()
    return b"".join(parts)


async def _send(answer: Answer, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
