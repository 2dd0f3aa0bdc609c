"""The body of a call: hostile bytes in, a checked request out."""

import json
import math
from typing import Any, Literal, NoReturn

import msgspec

from common.errors import InvalidField, Malformed, TooLarge

_INT64 = 2**63
MOST_METADATA_BYTES = 1024
MOST_CHOICES = 16
MOST_OUTPUT_TOKENS = 10_000_000
#: Tokens a chat template may add to what the caller wrote: by message, and once (a default system prompt).
TEMPLATE_TOKENS_PER_MESSAGE = 16
TEMPLATE_TOKENS = 48


class Message(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One chat message, as OpenAI-compatible upstreams read it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ConsumeRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /consume`` takes: ``prompt`` or ``messages``, and how to answer."""

    prompt: str | None = None
    messages: list[Message] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int = 1
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    stream: bool = False
    metadata: dict[str, Any] | None = None

    def chat(self) -> list[Message]:
        """The messages, whichever way they were given."""
        if self.messages is not None:
            return self.messages
        return [Message(role="user", content=self.prompt)]


class _UpstreamBody(msgspec.Struct, omit_defaults=True, kw_only=True):
    model: str
    messages: list[Message]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    n: int = 1
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


def parse(body: bytes, *, most_bytes: int) -> ConsumeRequest:
    """The request in a body.

    Raises ``TooLarge``, ``Malformed`` (not JSON, or JSON that two parsers would read differently) or
    ``InvalidField`` (well-formed, but not a request).
    """
    if len(body) > most_bytes:
        raise TooLarge()
    document = strict_json(body)
    if not isinstance(document, dict):
        raise InvalidField("The body must be a JSON object")
    try:
        request = msgspec.convert(document, ConsumeRequest)
    except msgspec.ValidationError as error:
        raise InvalidField(_where(error)) from error
    _check(request)
    return request


def upstream_body(request: ConsumeRequest, *, model: str, output_cap: int) -> bytes:
    """The chat completion request that goes to the upstream. The caller's metadata does not."""
    return msgspec.json.encode(
        _UpstreamBody(
            model=model,
            messages=request.chat(),
            max_tokens=output_cap,
            temperature=request.temperature,
            top_p=request.top_p,
            n=request.n,
            stop=request.stop,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            response_format=request.response_format,
            tools=request.tools,
            tool_choice=request.tool_choice,
        )
    )


def prompt_bound(request: ConsumeRequest) -> int:
    """Tokens the prompt can cost at most: no tokenizer makes more tokens of a text than it has UTF-8 bytes."""
    messages = request.chat()
    bound = TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE * len(messages)
    for message in messages:
        bound += len(message.content.encode()) if isinstance(message.content, str) else 0
        if message.tool_calls or not isinstance(message.content, str):
            bound += len(msgspec.json.encode((message.content, message.tool_calls)))
    for extra in (request.tools, request.response_format):
        bound += len(msgspec.json.encode(extra)) if extra else 0
    return bound


# -- JSON that means one thing only ------------------------------------------------------------------------------


def strict_json(body: bytes) -> Any:
    """Parse JSON (RFC 8259, UTF-8) and refuse what parsers disagree on.

    Raises ``Malformed`` for duplicate keys, integers beyond 64 bits, numbers beyond a double's range, NaN,
    NUL and lone surrogates in texts, and nesting deeper than the interpreter's stack.
    """
    try:
        text = body.decode()
        document = _decoder.decode(text)
        if "\\u" in text:
            _refuse_unstorable(document)
    except RecursionError as error:
        raise Malformed("The JSON is nested too deeply") from error
    except ValueError as error:
        raise Malformed("The body is not valid JSON") from error
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= (value := int(text)) < _INT64:
        raise ValueError("integer beyond 64 bits")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number beyond a double's range")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _refuse_unstorable(value: Any) -> None:
    """NUL and lone surrogates cannot be stored, and lone surrogates cannot even be sent on."""
    if isinstance(value, str):
        if "\x00" in value:
            raise Malformed("A text holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Malformed("A text holds a lone surrogate") from error
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_unstorable(name)
            _refuse_unstorable(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_unstorable(item)


# -- fields ------------------------------------------------------------------------------------------------------


def _check(request: ConsumeRequest) -> None:
    if (request.prompt is None) == (request.messages is None):
        raise InvalidField("Give either prompt or messages", field="prompt")
    if request.prompt == "" or request.messages == []:
        raise InvalidField("The prompt is empty", field="prompt")
    if request.max_tokens is not None and not 1 <= request.max_tokens <= MOST_OUTPUT_TOKENS:
        raise InvalidField(f"max_tokens must lie between 1 and {MOST_OUTPUT_TOKENS}", field="max_tokens")
    if not 1 <= request.n <= MOST_CHOICES:
        raise InvalidField(f"n must lie between 1 and {MOST_CHOICES}", field="n")
    _check_range(request.temperature, "temperature", 0, 2)
    _check_range(request.top_p, "top_p", 0, 1)
    _check_range(request.presence_penalty, "presence_penalty", -2, 2)
    _check_range(request.frequency_penalty, "frequency_penalty", -2, 2)
    if request.metadata is not None and len(msgspec.json.encode(request.metadata)) > MOST_METADATA_BYTES:
        raise InvalidField(f"metadata may have {MOST_METADATA_BYTES} bytes", field="metadata")
    if request.stream:
        raise InvalidField("stream is not available on this service", field="stream")


def _check_range(value: float | None, name: str, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidField(f"{name} must lie between {least} and {most}", field=name)


def _where(error: msgspec.ValidationError) -> str:
    """Which field is wrong, from msgspec's path; never what was sent."""
    _, found, path = str(error).rpartition(" - at `$.")
    if not found:
        return "A field is not known"
    return f"A field has the wrong type or is not known: {path.rstrip('`')}"
