"""Anthropic's protocol: what its upstreams answer, read as hostile. Who speaks it too gets it as it came."""

import re
from typing import Any, Literal

import msgspec

from catalog.pricing import Tokens
from consumption.replies import UNREADABLE, Bounds, Chunk, Reply, count, meter, no_answer
from consumption.written import Written

PATH = "/messages"
_COUNTS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens_details",
)  # fmt: skip
_EVENT_NAME = re.compile(r"[a-z_]{1,64}")


class Block(msgspec.Struct):
    """A block of an answer's content. Of those that are no text and no tool's use only the type is looked at."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None

    def write(self, written: Written) -> None:
        """Note down what the model wrote into it."""
        written.answer(0, self.text or "")
        written.think(0, self.thinking)
        if self.type == "tool_use":
            written.call(0, self.name, msgspec.json.encode(self.input).decode() if self.input else None)


class Message(msgspec.Struct):
    """A whole answer, or what a stream begins with."""

    type: Literal["message"]
    content: list[Block]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    usage: Any = None


class Delta(msgspec.Struct):
    """What an event adds: to a block, or to the message (``stop_reason``)."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None

    def write(self, written: Written) -> None:
        """Note down what the model wrote with it."""
        written.answer(0, self.text or self.partial_json or "")
        written.think(0, self.thinking)


class Event(msgspec.Struct):
    """One event of a stream. Events that are not known have a type and no more."""

    type: str
    message: Message | None = None
    index: int = 0
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Any = None


_message = msgspec.json.Decoder(Message)
_event = msgspec.json.Decoder(Event)


def read_message(body: bytes) -> Message:
    """The message in a 200's body. Raises ``UpstreamFailed`` where it is none."""
    try:
        return _message.decode(body)
    except UNREADABLE as error:
        raise no_answer() from error


def read_event(data: bytes) -> Event:
    """One event's data. Raises ``UpstreamFailed`` where it is none, or where it tells of a failure."""
    try:
        event = _event.decode(data)
    except UNREADABLE as error:
        raise no_answer() from error
    if event.type == "error" or not _EVENT_NAME.fullmatch(event.type):
        raise no_answer()
    return event


def usage_inside(usage: Any) -> dict[str, Any] | None:
    """A usage object of Anthropic's in OpenAI's convention; None where it is no object.

    Anthropic counts what was read from the cache and written to it beside ``input_tokens``, OpenAI inside
    ``prompt_tokens``. What is no count stays what it is: ``meter`` judges.
    """
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    parts = (usage.get("input_tokens"), read, written)
    details = usage.get("output_tokens_details")
    return {
        "prompt_tokens": None if None in map(count, parts) else sum(parts),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {
            "reasoning_tokens": details.get("thinking_tokens") if isinstance(details, dict) else None
        },
    }


def reply_of(message: Message, bounds: Bounds, raw: bytes) -> Reply:
    """The reply that a whole message is, to a caller who speaks Anthropic's protocol."""
    tokens, source = meter(usage_inside(message.usage), bounds)
    if tokens is None:
        written = Written()
        for block in message.content:
            block.write(written)
        return Reply((), Tokens(), source, raw, written)
    return Reply((), tokens, source, raw)


class SpeaksAnthropic:
    """What makes a request in Anthropic's protocol its own exchange with an upstream that speaks the same."""

    __slots__ = ()

    protocol = "anthropic"
    headers = b""

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        return reply_of(read_message(body), bounds, body)

    def reader(self, bounds: Bounds) -> "MessageReader":
        return MessageReader(bounds)


class StreamMeter:
    """Counts what a stream of Anthropic's uses. Its counts are running totals: the latest of each holds."""

    __slots__ = ("_bounds", "_closed", "_usage", "_written", "stopped")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._usage: dict[str, Any] = {}
        self._written = Written()
        self._closed = False
        #: Whether the message has said why it ended.
        self.stopped = False

    def count(self, event: Event) -> None:
        """One more event."""
        if event.message is not None:
            self._take(event.message.usage)
        if event.content_block is not None:
            event.content_block.write(self._written)
        if event.delta is not None:
            event.delta.write(self._written)
        if event.type == "message_delta":
            self._take(event.usage)
            self._closed = True
            self.stopped = self.stopped or bool(event.delta and event.delta.stop_reason)

    def _take(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update({name: usage[name] for name in _COUNTS if usage.get(name) is not None})

    def reply(self) -> Reply:
        """What was used. Before the last counts have come the output is counted here: the first say next to nothing."""
        tokens, source = meter(usage_inside(self._usage), self._bounds)
        if tokens is None:
            return Reply((), Tokens(), source, written=self._written)
        if not self._closed:
            asked = Tokens(tokens.prompt, cached=tokens.cached, cache_write=tokens.cache_write)
            return Reply((), asked, "estimated", written=self._written)
        return Reply((), tokens, source)


class MessageReader:
    """Events as they come. The last one is held back: it is told once the call is settled."""

    __slots__ = ("_begun", "_meter", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._meter = StreamMeter(bounds)
        self._begun = False
        self.done = False

    def read(self, event: bytes) -> Chunk | None:
        read = read_event(event)
        self._begun = self._begun or (read.type == "message_start" and read.message is not None)
        if not self._begun and read.type != "ping":
            raise no_answer()
        self._meter.count(read)
        if read.type == "message_stop":
            self.done = True
            return None
        return Chunk(raw=framed(read.type, event))

    def body_ended(self) -> Chunk | None:
        self.done = self._meter.stopped
        if not self.done:
            raise no_answer()
        return None

    def reply(self) -> Reply:
        return self._meter.reply()

    def closing(self, tokens: Tokens) -> bytes:
        return b""


def framed(name: str, data: bytes) -> bytes:
    """A server-sent event with its name, as Anthropic's clients want it. JSON's line breaks are only spaces."""
    line = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: " + name.encode() + b"\ndata: " + line + b"\n\n"
