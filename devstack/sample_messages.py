"""The sample model behind Anthropic's protocol: ``POST /v1/messages``, with tools and the cache's counts.

What a request marks for caching was always read from the cache before; with a time to live of an hour it is written
to it now. Tokens are those of `sample_model`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from devstack.sample_model import (
    TOKENS_PER_MESSAGE,
    ChatRequest,
    InvalidRequest,
    Message,
    Reply,
    count_tokens,
    reply_to,
)

encode = msgspec.json.Encoder().encode


class CacheControl(msgspec.Struct):
    ttl: Literal["5m", "1h"] = "5m"


class Block(msgspec.Struct):
    type: str = "text"
    text: str = ""
    content: "str | list[Block] | None" = None
    cache_control: CacheControl | None = None

    @property
    def tokens(self) -> int:
        return count_tokens(self.text) + sum(block.tokens for block in blocks_of(self.content))


class Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    name: str


class ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str = ""


class MessagesRequest(msgspec.Struct):
    """The fields that are understood; others are ignored."""

    messages: list[Turn]
    max_tokens: int
    model: str
    system: str | list[Block] | None = None
    tools: list[Tool] = []
    tool_choice: ToolChoice = ToolChoice()
    stream: bool = False

    @property
    def tool(self) -> str | None:
        """The tool that must be used; None where the model may answer."""
        if self.tool_choice.type == "tool":
            return self.tool_choice.name
        return self.tools[0].name if self.tools and self.tool_choice.type == "any" else None


@dataclass(frozen=True)
class Usage:
    fresh: int
    read: int
    written: int
    output: int

    @property
    def counts(self) -> dict[str, int]:
        return {
            "input_tokens": self.fresh,
            "cache_creation_input_tokens": self.written,
            "cache_read_input_tokens": self.read,
            "output_tokens": self.output,
        }

    @property
    def logged(self) -> dict[str, int]:
        """The same as the log of calls has it: with the cache's inside the prompt's."""
        prompt = self.fresh + self.read + self.written
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.output,
            "total_tokens": prompt + self.output,
            "cached_tokens": self.read,
        }


_decoder = msgspec.json.Decoder(MessagesRequest)


def parse(body: bytes) -> MessagesRequest:
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(str(error)) from error
    if not request.messages:
        raise InvalidRequest("messages: at least one message is required")
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1")
    return request


def blocks_of(content: str | list[Block] | None) -> list[Block]:
    return [Block(text=content)] if isinstance(content, str) else content or []


def answer_to(request: MessagesRequest) -> tuple[Reply, Usage]:
    """What the model says to the last turn, and what that came to."""
    turns = [blocks_of(request.system)] if request.system else []
    turns += [blocks_of(turn.content) for turn in request.messages]
    last = " ".join(block.text for block in turns[-1])
    reply = reply_to(ChatRequest(messages=[Message("user", last)], max_tokens=request.max_tokens))
    marked = [block for turn in turns for block in turn if block.cache_control is not None]
    written = sum(b.tokens for b in marked if b.cache_control and b.cache_control.ttl == "1h")
    read = sum(block.tokens for block in marked) - written
    total = sum(block.tokens for turn in turns for block in turn) + TOKENS_PER_MESSAGE * len(turns)
    return reply, Usage(total - read - written, read, written, reply.completion_tokens)


def content_of(request: MessagesRequest, reply: Reply) -> dict[str, Any]:
    if request.tool is None:
        return {"type": "text", "text": reply.text}
    return {
        "type": "tool_use",
        "id": f"toolu_{os.urandom(12).hex()}",
        "name": request.tool,
        "input": {"text": reply.text},
    }


def stop_reason_of(request: MessagesRequest, reply: Reply) -> str:
    if request.tool is not None:
        return "tool_use"
    return "max_tokens" if reply.finish_reason == "length" else "end_turn"


def message(
    request: MessagesRequest, content: list[dict[str, Any]], usage: dict[str, int], stop_reason: str | None
) -> dict[str, Any]:
    return {
        "id": f"msg_{os.urandom(12).hex()}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def whole(request: MessagesRequest, reply: Reply, usage: Usage) -> dict[str, Any]:
    content = [content_of(request, reply)]
    return message(request, content, usage.counts, stop_reason_of(request, reply))


def events(request: MessagesRequest, reply: Reply, usage: Usage) -> Iterator[bytes]:
    """The prompt's counts come with the first event, the output's with the last but one, as they do there."""
    yield event("message_start", message=message(request, [], {**usage.counts, "output_tokens": 1}, None))
    block = content_of(request, reply)
    if block["type"] == "text":
        pieces = [{"type": "text_delta", "text": text} for text in spaced(reply.words)]
        block = {**block, "text": ""}
    else:
        written = encode(block["input"]).decode()
        pieces = [{"type": "input_json_delta", "partial_json": part} for part in halves(written)]
        block = {**block, "input": {}}
    yield event("content_block_start", index=0, content_block=block)
    yield event("ping")
    for piece in pieces:
        yield event("content_block_delta", index=0, delta=piece)
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": stop_reason_of(request, reply), "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": usage.output})
    yield event("message_stop")


def spaced(words: list[str]) -> list[str]:
    return [word if position == 0 else f" {word}" for position, word in enumerate(words)]


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def event(name: str, **members: Any) -> bytes:
    return f"event: {name}\ndata: ".encode() + encode({"type": name, **members}) + b"\n\n"


def error(status: int, text: str) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": text}}
