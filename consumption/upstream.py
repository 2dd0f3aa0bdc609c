"""Calls to upstreams: OpenAI-compatible chat completions over HTTP, by a total deadline, with nothing trusted."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PyreqwestError, RequestTimeoutError
from pyreqwest.response import Response

from catalog.pricing import Tokens
from catalog.snapshot import Offer
from consumption.errors import DeadlineExceeded, UpstreamFailed, UpstreamRejected
from consumption.upstream_clients import NoAddress, UpstreamClients
from metering.journal import UsageSource

log = logging.getLogger(__name__)

#: Tries of one call. Only what cannot have been worked on is tried again: no connection, or 429 and 503.
TRIES = 3
FIRST_PAUSE_SECONDS = 0.1
#: An answer larger than this is nobody's chat completion.
MOST_ANSWER_BYTES = 16 * 1024 * 1024
#: Statuses that say the caller's request is at fault.
_CALLERS_FAULT = frozenset({400, 413, 422})


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one call may cost at most, as it was reserved."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What an upstream answered: choices in the shape of our API, and the tokens to charge."""

    choices: Sequence[dict[str, Any]]
    tokens: Tokens
    usage_source: UsageSource


class Upstream:
    """Calls to all upstreams of one gateway."""

    def __init__(self, *, max_connections: int) -> None:
        self._clients = UpstreamClients(max_connections=max_connections)

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

    async def chat(
        self, offer: Offer, body: bytes, *, request_id: str, deadline: float, bounds: Bounds
    ) -> Reply:
        """One chat completion. ``deadline``: of the event loop's clock, retries included.

        Raises ``UpstreamFailed``, ``UpstreamRejected`` or ``DeadlineExceeded``.
        """
        for attempt in range(TRIES):
            status, answer = await self._post(offer, body, request_id, deadline)
            if status == 200:
                return read_reply(answer, bounds)
            if status in _CALLERS_FAULT:
                raise UpstreamRejected()
            if status not in {0, 429, 503} or attempt == TRIES - 1:
                log.warning("upstream of %s answered %s", offer.name, status or "nothing: no connection")
                break
            await self._pause(attempt, deadline)
        raise UpstreamFailed()

    async def _pause(self, attempt: int, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret
        if asyncio.get_running_loop().time() + pause >= deadline:
            raise DeadlineExceeded()
        await asyncio.sleep(pause)

    async def _post(self, offer: Offer, body: bytes, request_id: str, deadline: float) -> tuple[int, bytes]:
        """Status and body; status 0 where no connection could be made, so that nothing was sent."""
        remaining = deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise DeadlineExceeded()
        try:
            client = await self._clients.of(offer.url)
        except NoAddress:
            return 0, b""
        request = (
            client.post(offer.url)
            .header("content-type", "application/json")
            .header("accept-encoding", "identity")
            .header("x-request-id", request_id)
            .body_bytes(body)
            .timeout(timedelta(seconds=remaining))
        )
        try:
            async with request.build_streamed() as response:
                return response.status, await _read_capped(response)
        except (ConnectError, ConnectTimeoutError):
            return 0, b""
        except RequestTimeoutError as error:
            raise DeadlineExceeded() from error
        except PyreqwestError as error:
            log.warning("upstream of %s: %s", offer.name, type(error).__name__)
            raise UpstreamFailed() from error


async def _read_capped(response: Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (chunk := await response.body_reader.read_chunk()) is not None:
        data = chunk.to_bytes()
        size += len(data)
        if size > MOST_ANSWER_BYTES:
            raise UpstreamFailed()
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_decoder = msgspec.json.Decoder(_Reply)


def read_reply(body: bytes, bounds: Bounds) -> Reply:
    """The reply in a 200's body. Raises ``UpstreamFailed`` where it is no chat completion."""
    try:
        reply = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise UpstreamFailed() from error
    if not reply.choices:
        raise UpstreamFailed()
    tokens, source = meter(reply.usage, bounds)
    if tokens is None:
        tokens = _estimate(reply.choices, bounds)
    return Reply([_choice(choice) for choice in reply.choices], tokens, source)


def _choice(choice: _Choice) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": choice.message.content or "", "finish_reason": choice.finish_reason}
    if choice.message.tool_calls:
        shown["tool_calls"] = choice.message.tool_calls
    return shown


def meter(usage: Any, bounds: Bounds) -> tuple[Tokens | None, UsageSource]:
    """The tokens of an upstream's ``usage`` object. Beyond what was reserved they are clamped, and flagged.

    None where it reports nothing that can be counted.
    """
    if not isinstance(usage, dict):
        return None, "estimated"
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None, "estimated"
    cached = _count(_detail(usage, "prompt_tokens_details", "cached_tokens")) or 0
    reasoning = _count(_detail(usage, "completion_tokens_details", "reasoning_tokens")) or 0
    within = prompt <= bounds.prompt and completion <= bounds.completion
    prompt, completion = min(prompt, bounds.prompt), min(completion, bounds.completion)
    tokens = Tokens(prompt, completion, min(cached, prompt), min(reasoning, completion))
    return tokens, "reported" if within else "clamped"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _detail(usage: dict[str, Any], group: str, name: str) -> Any:
    details = usage.get(group)
    return details.get(name) if isinstance(details, dict) else None


#: Bytes of text that make a token, about, in Latin scripts: the estimate where an upstream reports no usage.
BYTES_PER_TOKEN = 4


def _estimate(choices: list[_Choice], bounds: Bounds) -> Tokens:
    written = sum(len((choice.message.content or "").encode()) for choice in choices)
    return Tokens(
        prompt=-(-bounds.prompt // BYTES_PER_TOKEN),
        completion=min(-(-written // BYTES_PER_TOKEN), bounds.completion),
    )
