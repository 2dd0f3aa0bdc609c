"""Requests as the dialects read them, and streams as bytes, for tests that need no gateway."""

from typing import Any

import msgspec

from consumption.call import Call
from consumption.dialects import anthropic, openai
from consumption.dialects.base import Dialect, PaidRequest
from consumption.protocols.base import StreamReader
from consumption.protocols.exchanges import exchange_of
from consumption.replies import Bounds, Chunk

BOUNDS = Bounds(prompt=10_000, completion=1_000)


def read(dialect: Dialect, body: dict[str, Any]) -> PaidRequest:
    call = Call(dialect, None, "", body=msgspec.json.encode(body))
    return dialect.parse(call, most_bytes=1_000_000)


def chat(*messages: Any, **more: Any) -> PaidRequest:
    """A chat completion's request; a text is what a user said."""
    turns = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages or ("Hi",)]
    return read(openai.CHAT, {"model": "m", "messages": turns, **more})


def message(*messages: Any, **more: Any) -> PaidRequest:
    """A message's request; a text is what a user said."""
    turns = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages or ("Hi",)]
    return read(anthropic.MESSAGES, {"model": "m", "max_tokens": 50, "messages": turns, **more})


def upstream_body(request: PaidRequest, protocol: str) -> dict[str, Any]:
    """What an upstream of ``protocol`` is sent."""
    body = exchange_of(request, protocol).upstream_body(model="upstream-model", output_cap=7)
    document: dict[str, Any] = msgspec.json.decode(body)
    return document


def feed(reader: StreamReader, *events: Any) -> list[Chunk]:
    """The chunks of events, which are given as documents or as bytes, and what closes them."""
    data = [event if isinstance(event, bytes) else msgspec.json.encode(event) for event in events]
    chunks = [chunk for event in data if (chunk := reader.read(event)) is not None]
    if reader.done and (closing := reader.closing(reader.reply().tokens)):
        chunks.append(Chunk(raw=closing))
    return chunks


def events_of(chunks: list[Chunk]) -> list[dict[str, Any]]:
    """The events that an Anthropic client reads out of chunks; their names must be their types."""
    found = []
    for event in b"".join(chunk.raw for chunk in chunks).split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        document = msgspec.json.decode(data.removeprefix(b"data: "))
        assert name == b"event: " + document["type"].encode()
        found.append(document)
    return found
