"""A caller who speaks Anthropic's protocol, and an upstream that speaks OpenAI's."""

from collections.abc import Sequence
from typing import Any

import msgspec

from catalog.pricing import Tokens
from common.ids import uuid7
from consumption.dialects.base import PaidRequest
from consumption.protocols.anthropic import framed
from consumption.protocols.messages_to_chat import chat_of
from consumption.protocols.openai import ChunkReader
from consumption.replies import (
    UNREADABLE,
    Bounds,
    Choice,
    Chunk,
    Message,
    Reply,
    no_answer,
    read_arguments,
    read_reply,
)

_encode = msgspec.json.encode

#: Tools that one answer may use. A stream that names more wants only our memory.
MOST_TOOL_CALLS = 256
#: Why an answer ended, in Anthropic's words. What is not known here is an ordinary end.
_STOP_REASONS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refusal",
}  # fmt: skip


def stop_reason_of(finish_reason: str | None) -> str:
    """Anthropic's word for why an answer ended."""
    return _STOP_REASONS.get(finish_reason or "", "end_turn")


def usage_beside(tokens: Tokens) -> dict[str, int]:
    """Tokens in Anthropic's convention: what was read from a cache or written to it is beside ``input_tokens``."""
    return {
        "input_tokens": tokens.prompt - tokens.cached - tokens.cache_write,
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.completion,
    }


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    """A call of a tool, or a piece of one. ``index``: which one, in a stream."""

    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Named(msgspec.Struct):
    id: str = ""
    model: str = ""


def _read_calls(message: Message) -> Sequence[_ToolCall]:
    try:
        return msgspec.convert(message.tool_calls or [], list[_ToolCall])
    except UNREADABLE as error:
        raise no_answer() from error


def _read_name(document: bytes) -> _Named:
    try:
        return msgspec.json.decode(document, type=_Named)
    except UNREADABLE as error:
        raise no_answer() from error


def _message(
    named: _Named, content: list[Any], usage: dict[str, int], stop_reason: str | None
) -> dict[str, Any]:
    return {
        "id": named.id or f"msg_{uuid7().hex}",
        "type": "message",
        "role": "assistant",
        "model": named.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


class MessagesOverOpenAi:
    """The exchange. Raises ``NotSupported`` when it is made, so that a request may be refused before it is let in."""

    __slots__ = ("_body", "path")

    headers = b""

    def __init__(self, request: PaidRequest) -> None:
        self.path = "/chat/completions"
        self._body = chat_of(request.upstream_body(model="", output_cap=1))

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        return _encode({"model": model, **self._body, "max_tokens": output_cap})

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        metered = read_reply(body, bounds)
        choice = metered.choices[0] if metered.choices else Choice()
        if choice.message is None:
            raise no_answer()
        content, stop_reason = _content_of(choice.message), stop_reason_of(choice.finish_reason)
        named = _read_name(body)

        def told(tokens: Tokens) -> bytes:
            return _encode(_message(named, content, usage_beside(tokens), stop_reason))

        return Reply((), metered.tokens, metered.usage_source, told(metered.tokens), metered.written, told)

    def reader(self, bounds: Bounds) -> "MessageOfChunks":
        return MessageOfChunks(bounds)


def _content_of(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    return blocks + [_tool_use(call) for call in _read_calls(message)]


def _tool_use(call: _ToolCall) -> dict[str, Any]:
    if call.function is None or call.function.name is None:
        raise no_answer()
    return _tool_block(call, _input_of(call.function.arguments or ""))


def _input_of(arguments: str) -> dict[str, Any]:
    """What a model wrote may be cut off, or no JSON: it is paid for all the same, and told as Anthropic tells it."""
    given = read_arguments(arguments)
    return {"INVALID_JSON": arguments} if given is None else given


def _tool_block(call: _ToolCall, given: dict[str, Any]) -> dict[str, Any]:
    name = call.function.name if call.function else None
    return {"type": "tool_use", "id": call.id or f"toolu_{uuid7().hex}", "name": name, "input": given}


class MessageOfChunks:
    """Makes a message's events of chat chunks. Its last one, ``message_stop``, is told once the call is settled.

    A block of text ends where another block begins. Those of tools end with the message: nothing forbids an upstream
    to write two calls by turns.
    """

    __slots__ = ("_blocks", "_chunks", "_count", "_finish_reason", "_text", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._chunks = ChunkReader(bounds)
        self._finish_reason: str | None = None
        #: Blocks so far; none means that the message may not have begun.
        self._count = -1
        #: The block of text that is being written, and those of tools by their place among the calls.
        self._text: int | None = None
        self._blocks: dict[int, int] = {}
        self.done = False

    def reply(self) -> Reply:
        return self._chunks.reply()

    def read(self, event: bytes) -> Chunk | None:
        chunk = self._chunks.read(event)
        if chunk is None:
            return Chunk(raw=self._end())
        if chunk.choices is None:
            raise no_answer()
        out: list[bytes] = []
        if self._count < 0:
            out.append(self._begin(event))
        for choice in chunk.choices:
            if choice.index:
                continue
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.written:
                self._write(choice.written, out)
            for call in _read_calls(choice.delta) if choice.delta else ():
                self._call(call, out)
        return Chunk(raw=b"".join(out)) if out else None

    def body_ended(self) -> Chunk | None:
        self._chunks.body_ended()
        return Chunk(raw=self._end())

    def _begin(self, event: bytes) -> bytes:
        self._count = 0
        # What the prompt came to is known at the end; clients take the last counts that they are told.
        started = _message(_read_name(event), [], usage_beside(Tokens()), None)
        return _event("message_start", message=started)

    def _end(self) -> bytes:
        if self._count < 0:
            raise no_answer()
        self.done = True
        out: list[bytes] = []
        self._end_text(out)
        out += [_event("content_block_stop", index=block) for block in self._blocks.values()]
        return b"".join(out)

    def closing(self, tokens: Tokens) -> bytes:
        delta = {"stop_reason": stop_reason_of(self._finish_reason), "stop_sequence": None}
        return _event("message_delta", delta=delta, usage=usage_beside(tokens))

    def _write(self, text: str, out: list[bytes]) -> None:
        if self._text is None:
            self._text = self._open_block({"type": "text", "text": ""}, out)
        out.append(
            _event("content_block_delta", index=self._text, delta={"type": "text_delta", "text": text})
        )

    def _call(self, call: _ToolCall, out: list[bytes]) -> None:
        function = call.function or _Function()
        if call.index not in self._blocks:
            if function.name is None or len(self._blocks) >= MOST_TOOL_CALLS:
                raise no_answer()
            self._end_text(out)
            self._blocks[call.index] = self._open_block(_tool_block(call, {}), out)
        if function.arguments:
            delta = {"type": "input_json_delta", "partial_json": function.arguments}
            out.append(_event("content_block_delta", index=self._blocks[call.index], delta=delta))

    def _open_block(self, block: dict[str, Any], out: list[bytes]) -> int:
        index = self._count
        self._count += 1
        out.append(_event("content_block_start", index=index, content_block=block))
        return index

    def _end_text(self, out: list[bytes]) -> None:
        if self._text is not None:
            out.append(_event("content_block_stop", index=self._text))
            self._text = None


def _event(name: str, **members: Any) -> bytes:
    return framed(name, _encode({"type": name, **members}))
