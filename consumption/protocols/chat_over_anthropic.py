"""A caller who speaks OpenAI's protocol, and an upstream that speaks Anthropic's."""

import time
from typing import Any

import msgspec

from catalog.pricing import Tokens
from common.ids import uuid7
from consumption.dialects.base import PaidRequest
from consumption.errors import NotSupported
from consumption.protocols import anthropic
from consumption.protocols.anthropic import Block, Event, StreamMeter, read_event, read_message
from consumption.protocols.chat_to_messages import messages_of
from consumption.replies import (
    Bounds,
    Choice,
    Chunk,
    ChunkChoice,
    Message,
    Reply,
    no_answer,
    usage_of,
)

_encode = msgspec.json.encode

#: Why an answer ended, in OpenAI's words. What is not known here is an ordinary end.
_FINISH_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip


def finish_reason_of(stop_reason: str | None) -> str:
    """OpenAI's word for why an answer ended."""
    return _FINISH_REASONS.get(stop_reason or "", "stop")


class ChatOverAnthropic:
    """The exchange. Raises ``NotSupported`` when it is made, so that a request may be refused before it is let in."""

    __slots__ = ("_body", "path")

    headers = b""

    def __init__(self, request: PaidRequest) -> None:
        if request.path != "/chat/completions":
            raise NotSupported("The service answers chats alone", field="model")
        self.path = anthropic.PATH
        self._body = messages_of(request.upstream_body(model="", output_cap=1))

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        return _encode({"model": model, "max_tokens": output_cap, **self._body})

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        message = read_message(body)
        metered = anthropic.reply_of(message, bounds, b"")
        choice = Choice(
            message=_message_of(message.content), finish_reason=finish_reason_of(message.stop_reason)
        )

        def told(tokens: Tokens) -> bytes:
            return _encode(_completion(message, choice, tokens))

        return Reply(
            (choice,), metered.tokens, metered.usage_source, told(metered.tokens), metered.written, told
        )

    def reader(self, bounds: Bounds) -> "ChunksOfMessage":
        return ChunksOfMessage(bounds)


def _message_of(content: list[Block]) -> Message:
    text = "".join(block.text or "" for block in content if block.type == "text")
    calls = [_call(block) for block in content if block.type == "tool_use"]
    return Message(text if text or not calls else None, calls or None)


def _call(block: Block) -> dict[str, Any]:
    if block.id is None or block.name is None:
        raise no_answer()
    return {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": _arguments(block)},
    }


def _arguments(block: Block) -> str:
    return _encode(block.input or {}).decode()


def _completion(message: anthropic.Message, choice: Choice, tokens: Tokens) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": choice.message and choice.message.content}
    if choice.message and choice.message.tool_calls:
        said["tool_calls"] = choice.message.tool_calls
    return {
        "id": message.id or f"chatcmpl-{uuid7().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": message.model,
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": choice.finish_reason}],
        "usage": usage_of(tokens),
    }


class ChunksOfMessage:
    """Makes chat chunks of the events of a message. Whoever asked for the usage is told it by the dialect."""

    __slots__ = ("_base", "_blocks", "_meter", "_open_arguments", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._meter = StreamMeter(bounds)
        #: What all chunks share; empty until the message has begun.
        self._base: dict[str, Any] = {}
        #: The place among the tool calls, by the block that it is made of.
        self._blocks: dict[int, int] = {}
        #: Blocks of tool calls of whose arguments nothing has come yet.
        self._open_arguments: set[int] = set()
        self.done = False

    def reply(self) -> Reply:
        return self._meter.reply()

    def closing(self, tokens: Tokens) -> bytes:
        return b""

    def read(self, event: bytes) -> Chunk | None:
        read = read_event(event)
        self._meter.count(read)
        if read.type == "message_start":
            return self._begin(read)
        if not self._base and read.type != "ping":
            raise no_answer()
        match read.type:
            case "content_block_start":
                return self._block_start(read)
            case "content_block_delta":
                return self._block_delta(read)
            case "content_block_stop":
                return self._block_stop(read)
            case "message_delta" if read.delta is not None:
                return self._chunk(Message(), {}, finish_reason_of(read.delta.stop_reason))
            case "message_stop":
                self.done = True
        return None

    def body_ended(self) -> Chunk | None:
        self.done = self._meter.stopped
        if not self.done:
            raise no_answer()
        return None

    def _begin(self, event: Event) -> Chunk:
        if event.message is None or self._base:
            raise no_answer()
        self._base = {
            "id": event.message.id or f"chatcmpl-{uuid7().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": event.message.model,
        }
        return self._chunk(Message(), {"role": "assistant", "content": ""})

    def _block_start(self, event: Event) -> Chunk | None:
        block = event.content_block
        if block is None:
            raise no_answer()
        if block.type == "tool_use":
            return self._tool_start(event.index, block)
        return self._said(block.text) if block.type == "text" and block.text else None

    def _tool_start(self, index: int, block: Block) -> Chunk:
        if index in self._blocks:
            raise no_answer()
        place = self._blocks[index] = len(self._blocks)
        if not block.input:
            self._open_arguments.add(index)
        call = _call(block)
        call["function"]["arguments"] = _arguments(block) if block.input else ""
        return self._tool_calls({"index": place, **call})

    def _block_delta(self, event: Event) -> Chunk | None:
        delta = event.delta
        if delta is None:
            raise no_answer()
        if delta.type == "text_delta" and delta.text:
            return self._said(delta.text)
        if delta.type == "input_json_delta" and delta.partial_json:
            self._open_arguments.discard(event.index)
            return self._more_arguments(event.index, delta.partial_json)
        return None

    def _block_stop(self, event: Event) -> Chunk | None:
        """A call without arguments is one with none, which in JSON is not nothing."""
        if event.index not in self._open_arguments:
            return None
        self._open_arguments.discard(event.index)
        return self._more_arguments(event.index, "{}")

    def _more_arguments(self, index: int, text: str) -> Chunk:
        if index not in self._blocks:
            raise no_answer()
        return self._tool_calls({"index": self._blocks[index], "function": {"arguments": text}})

    def _said(self, text: str) -> Chunk:
        return self._chunk(Message(content=text), {"content": text})

    def _tool_calls(self, call: dict[str, Any]) -> Chunk:
        return self._chunk(Message(tool_calls=[call]), {"tool_calls": [call]})

    def _chunk(self, message: Message, delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return Chunk(
            choices=[ChunkChoice(delta=message, finish_reason=finish_reason)],
            raw=_encode({**self._base, "choices": [choice]}),
        )
