"""A language model that is no model: the same prompt always gives the same answer and the same tokens."""

import re
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

TOKEN = re.compile(r"\w+|[^\w\s]")
TOKENS_PER_MESSAGE = 8
SHORTEST, LONGEST = 8, 64
NOTHING_SAID = ["Say", "something", "and", "it", "comes", "back", "."]


class InvalidRequest(Exception):
    """The request is not one of the chat format; the text says why."""


class ContentPart(msgspec.Struct):
    type: str = "text"
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Function(msgspec.Struct):
    name: str


class Tool(msgspec.Struct):
    function: Function


class ChatRequest(msgspec.Struct):
    """The fields that are understood; others are ignored, as such servers do."""

    messages: list[Message]
    model: str = "sample"
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] = []
    tool_choice: str | Tool = "auto"

    def check(self) -> None:
        """Raises ``InvalidRequest``."""
        if not self.messages:
            raise InvalidRequest("messages must not be empty")
        if self.cap is not None and self.cap < 1:
            raise InvalidRequest("max_tokens must be at least 1")
        if not 1 <= self.choices <= 16:
            raise InvalidRequest("n must be between 1 and 16")

    @property
    def tool(self) -> str | None:
        """The tool that must be used; None where the model may answer."""
        if isinstance(self.tool_choice, Tool):
            return self.tool_choice.function.name
        return self.tools[0].function.name if self.tools and self.tool_choice == "required" else None

    @property
    def cap(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


@dataclass(frozen=True)
class Reply:
    words: list[str]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


_decoder = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(str(error)) from error
    request.check()
    return request


def count_tokens(text: str) -> int:
    return len(TOKEN.findall(text))


def reply_to(request: ChatRequest) -> Reply:
    """The prompt's own last words, as many as its checksum says, and never more than it allows."""
    prompt_tokens = sum(count_tokens(message.text) + TOKENS_PER_MESSAGE for message in request.messages)
    last = request.messages[-1].text
    wanted = SHORTEST + zlib.crc32(last.encode(errors="replace")) % (LONGEST - SHORTEST + 1)
    length = wanted if request.cap is None else min(wanted, request.cap)
    source = TOKEN.findall(last) or NOTHING_SAID
    words = [source[position % len(source)] for position in range(length)]
    return Reply(
        words=words,
        finish_reason="length" if length < wanted else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=length * request.choices,
    )
