"""What upstreams answer: read as hostile, metered within what was reserved."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from catalog.pricing import Tokens
from common.errors import Malformed
from common.parsing import strict_json
from consumption.errors import UpstreamFailed
from consumption.written import Written
from metering.journal import UsageSource


class Message(msgspec.Struct):
    """``reasoning_content`` (DeepSeek, vLLM) and ``reasoning`` (OpenRouter, newer vLLM): what was thought, as told."""

    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None

    def write_rest(self, index: int, written: Written) -> None:
        """Note down what there is besides the content."""
        for tool_call in self.tool_calls or ():
            function = tool_call.get("function")
            if isinstance(function, dict):
                written.call(index, function.get("name"), function.get("arguments"))
        if isinstance(self.refusal, str):
            written.answer(index, self.refusal)
        written.think(index, self.reasoning_content or self.reasoning)


class Choice(msgspec.Struct):
    """A choice of a chat completion (``message``) or a completion (``text``)."""

    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def written(self) -> str:
        return self.text or (self.message.content if self.message else None) or ""


class _Document(msgspec.Struct):
    choices: list[Choice] | None = None
    data: list[Any] | None = None
    usage: Any = None


class Chunk(msgspec.Struct):
    """One event of a stream. ``raw``: its JSON, as it came; where the caller speaks Anthropic's, events as they go."""

    choices: list["ChunkChoice"] | None = None
    usage: Any = None
    error: Any = None
    #: Bytes, set once the rest is read. Of any type, since an upstream may write a member of this name.
    raw: Any = b""


class ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def written(self) -> str:
        return self.text or (self.delta.content if self.delta else None) or ""

    def write(self, written: Written) -> None:
        """Note down what this piece adds."""
        delta = self.delta
        if text := self.text or (delta.content if delta is not None else None):
            written.answer(self.index, text)
        else:
            written.see(self.index)
        # Nearly every piece is that and no more; this is a stream's hottest place.
        if delta is not None and (
            delta.tool_calls or delta.refusal or delta.reasoning_content or delta.reasoning
        ):
            delta.write_rest(self.index, written)


class _Kind(msgspec.Struct):
    """What a chunk without choices says it is; vLLM's errors are no member of another object."""

    object: Any = None


class Bounds(msgspec.Struct, frozen=True):
    """What one call may cost at most, as it was reserved."""

    prompt: int
    completion: int


class Reply(msgspec.Struct, frozen=True):
    """What an upstream answered. ``raw``: the JSON as it came, empty for a stream.

    ``written``: what has to be counted, None where the upstream reports usage; ``tokens`` are then those that it
    reported all the same. ``retold``: the JSON with other tokens, for a caller of another protocol.
    """

    choices: Sequence[Choice]
    tokens: Tokens
    usage_source: UsageSource
    raw: bytes = b""
    written: Written | None = None
    retold: Callable[[Tokens], bytes] | None = None

    def with_tokens(self, tokens: Tokens) -> "Reply":
        """The reply, once it was counted."""
        raw = self.raw if self.retold is None else self.retold(tokens)
        return Reply(self.choices, tokens, self.usage_source, raw)


_document = msgspec.json.Decoder(_Document)
_chunk = msgspec.json.Decoder(Chunk)
_kind = msgspec.json.Decoder(_Kind)
_PARTS_OF_PROMPT = ("cached_tokens", "cache_write_tokens", "audio_tokens")
_PARTS_OF_COMPLETION = ("reasoning_tokens", "audio_tokens")
#: What msgspec raises over bytes that are not what they should be.
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def no_answer() -> UpstreamFailed:
    """What came back is no answer. The upstream has been at work all the same: a repetition may be paid for twice."""
    error = UpstreamFailed()
    error.reached_upstream = True
    return error


def read_reply(body: bytes, bounds: Bounds) -> Reply:
    """The reply in a 200's body. Raises ``UpstreamFailed`` where it is none."""
    try:
        document = _document.decode(body)
    except UNREADABLE as error:
        raise no_answer() from error
    if not document.choices and not document.data:
        raise no_answer()
    choices = document.choices or []
    for choice in choices:
        if choice.message is None and choice.text is None:
            raise no_answer()
    tokens, source = meter(document.usage, bounds)
    if tokens is None:
        return Reply(choices, Tokens(), source, body, _written_in(choices))
    return Reply(choices, tokens, source, body)


def _written_in(choices: Sequence[Choice]) -> Written:
    written = Written()
    for index, choice in enumerate(choices):
        written.answer(index, choice.written)
        if choice.message is not None:
            choice.message.write_rest(index, written)
    return written


def read_chunk(data: bytes) -> Chunk:
    """One event of a stream. Raises ``UpstreamFailed`` where it is none."""
    try:
        chunk = _chunk.decode(data)
    except UNREADABLE as error:
        raise no_answer() from error
    if chunk.error is not None or (chunk.choices is None and _kind.decode(data).object == "error"):
        raise no_answer()  # the stream ends in an upstream's own error, which is not the caller's to read
    # What was several lines of an event is one line on its way on.
    chunk.raw = data.replace(b"\n", b" ")
    return chunk


def read_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a tool's call, none of them where the text is empty; None where it is no JSON object."""
    try:
        given = strict_json(text or "{}")
    except Malformed:
        return None
    return given if isinstance(given, dict) else None


def meter(usage: Any, bounds: Bounds) -> tuple[Tokens | None, UsageSource]:
    """The tokens of an upstream's ``usage`` object. Beyond what was reserved they are clamped, and flagged.

    None where it reports nothing that can be counted.
    """
    if not isinstance(usage, dict):
        return None, "estimated"
    prompt = count(usage.get("prompt_tokens"))
    # Embeddings report no completion, since there is none.
    completion = count(usage.get("completion_tokens", 0 if bounds.completion == 0 else None))
    if prompt is None or completion is None:
        return None, "estimated"
    cached = cache_write = audio_prompt = reasoning = audio_completion = 0
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and any(details.values()):
        cached, cache_write, audio_prompt = _parts_of_prompt(details)
    details = usage.get("completion_tokens_details")
    if isinstance(details, dict) and any(details.values()):
        reasoning, audio_completion = _parts_of_completion(details)
    total = count(usage.get("total_tokens"))
    if total is not None and total > prompt + completion and bounds.completion:
        # xAI and Gemini count what was thought beside the completion, Gemini in the total alone.
        beside = total - prompt - completion
        if beside == (reasoning or beside):
            reasoning = beside
            completion += beside
    source: UsageSource = "reported"
    if prompt > bounds.prompt or completion > bounds.completion:
        source = "clamped"
        prompt, completion = min(prompt, bounds.prompt), min(completion, bounds.completion)
    if not (cached or cache_write or audio_prompt or reasoning or audio_completion):
        return Tokens(prompt, completion), source
    cached = min(cached, prompt)
    cache_write = min(cache_write, prompt - cached)
    audio_prompt = min(audio_prompt, prompt - cached - cache_write)
    reasoning = min(reasoning, completion)
    audio_completion = min(audio_completion, completion - reasoning)
    return Tokens(prompt, completion, cached, reasoning, cache_write, audio_prompt, audio_completion), source


def _parts_of_prompt(details: dict[str, Any]) -> tuple[int, int, int]:
    """What was read from a cache, what was written to one, and audio; what is both audio and cached is cached."""
    cached, cache_write, audio = (count(details.get(name)) or 0 for name in _PARTS_OF_PROMPT)
    if audio and cached:
        of_cached = details.get("cached_tokens_details")
        audio -= min(audio, (count(of_cached.get("audio_tokens")) or 0) if isinstance(of_cached, dict) else 0)
    return cached, cache_write, audio


def _parts_of_completion(details: dict[str, Any]) -> tuple[int, int]:
    """What was thought, and audio."""
    reasoning, audio = (count(details.get(name)) or 0 for name in _PARTS_OF_COMPLETION)
    return reasoning, audio


def count(value: Any) -> int | None:
    """A count of tokens, or None where it cannot be one."""
    return value if type(value) is int and value >= 0 else None


def usage_of(tokens: Tokens) -> dict[str, Any]:
    """Tokens as OpenAI's clients are told them; kinds that seldom occur where they do."""
    asked, answered = {"cached_tokens": tokens.cached}, {"reasoning_tokens": tokens.reasoning}
    if tokens.cache_write:
        asked["cache_write_tokens"] = tokens.cache_write
    if tokens.audio_prompt:
        asked["audio_tokens"] = tokens.audio_prompt
    if tokens.audio_completion:
        answered["audio_tokens"] = tokens.audio_completion
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
        "prompt_tokens_details": asked,
        "completion_tokens_details": answered,
    }
