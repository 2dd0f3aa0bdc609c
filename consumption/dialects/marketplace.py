"""Our own API: ``POST /api/v1/consume/{serviceId}``."""

from decimal import Decimal
from typing import Any, Literal

import msgspec

from catalog.pricing import PARTS, Price, Tokens
from common.errors import InvalidField, Problem
from common.money import plain
from common.parsing import read_object
from consumption import sse
from consumption.call import Call, Terms
from consumption.dialects.base import Answer
from consumption.dialects.checks import (
    bound_of_messages,
    bound_of_tools,
    bound_of_value,
    check_common,
    check_range,
    where,
)
from consumption.problems import MEDIA_TYPE
from consumption.prompts import Prompt, prompt_of_messages
from consumption.protocols.openai import SpeaksOpenAi
from consumption.replies import Choice, Chunk, Reply
from quotas.admission import Lease

_encode = msgspec.json.Encoder().encode


class ChatMessage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One chat message, as OpenAI-compatible upstreams read it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _Options(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is passed on as it came."""

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


class ConsumeRequest(_Options, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /consume`` takes: ``prompt`` or ``messages``, and how to answer."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    max_tokens: int | None = None
    stream: bool = False
    metadata: dict[str, Any] | None = None


class _UpstreamBody(_Options, omit_defaults=True, kw_only=True):
    model: str
    messages: list[ChatMessage]
    max_tokens: int
    stream: bool = False
    stream_options: dict[str, bool] | None = None


class _Paid(SpeaksOpenAi):
    """A checked ``ConsumeRequest`` for a service."""

    path = "/chat/completions"
    writes = True

    def __init__(self, service: str, request: ConsumeRequest) -> None:
        self.service = service
        self.stream = request.stream
        self.choices = request.n
        self.max_tokens = request.max_tokens
        self.metadata = request.metadata
        self._request = request
        self._messages = request.messages or [ChatMessage(role="user", content=request.prompt)]

    def prompt_bound(self) -> int:
        messages: list[dict[str, Any]] = msgspec.to_builtins(self._messages)
        extras = bound_of_tools(self._request.tools) + bound_of_value(self._request.response_format)
        return bound_of_messages(messages) + extras

    def prompt(self) -> Prompt:
        messages: list[dict[str, Any]] = msgspec.to_builtins(self._messages)
        return prompt_of_messages(messages, self._request.tools, self._request.response_format)

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        options = {name: getattr(self._request, name) for name in _Options.__struct_fields__}
        return _encode(
            _UpstreamBody(
                model=model,
                messages=self._messages,
                max_tokens=output_cap,
                stream=self.stream,
                stream_options={"include_usage": True} if self.stream else None,
                **options,
            )
        )


class Marketplace:
    """The dialect of our own API."""

    name = "consume"
    request_id_header: str | None = None

    def parse(self, call: Call, *, most_bytes: int) -> _Paid:
        document = read_object(call.body, most_bytes=most_bytes)
        try:
            request = msgspec.convert(document, ConsumeRequest)
        except msgspec.ValidationError as error:
            raise InvalidField(where(error)) from error
        _check(request)
        return _Paid(call.service_id, request)

    def success(self, call: Call, terms: Terms, lease: Lease, reply: Reply, cost: Decimal) -> Answer:
        choices = [_choice(choice) for choice in reply.choices]
        body = _encode(_told(call, choices, **_sums(call, terms, reply, cost)))
        headers = [("content-type", "application/json"), ("x-cost", plain(cost))]
        return Answer(200, headers, body)

    def problem(self, error: Problem, request_id: str) -> Answer:
        return Answer(error.status, [("content-type", MEDIA_TYPE)], _encode(error.document(request_id)))

    def chunk(self, call: Call, request: Any, chunk: Chunk) -> bytes:
        if not chunk.choices:
            return b""
        choices = [
            {"index": choice.index, "text": choice.written, "finish_reason": choice.finish_reason}
            for choice in chunk.choices
        ]
        return sse.event(_encode(_told(call, choices)))

    def last(self, call: Call, terms: Terms, request: Any, reply: Reply, cost: Decimal) -> bytes:
        closing = _told(call, [], **_sums(call, terms, reply, cost))
        return sse.event(_encode(closing)) + sse.event(sse.DONE)

    def broken(self, error: Problem, request_id: str) -> bytes:
        return b"event: error\n" + sse.event(_encode({"error": error.document(request_id)}))


def _check(request: ConsumeRequest) -> None:
    if (request.prompt is None) == (request.messages is None):
        raise InvalidField("Give either prompt or messages", field="prompt")
    if request.prompt == "" or request.messages == []:
        raise InvalidField("The prompt is empty", field="prompt")
    check_common(max_tokens=request.max_tokens, choices=request.n, metadata=request.metadata)
    check_range(request.temperature, "temperature", 0, 2)
    check_range(request.top_p, "top_p", 0, 1)
    check_range(request.presence_penalty, "presence_penalty", -2, 2)
    check_range(request.frequency_penalty, "frequency_penalty", -2, 2)


def _told(call: Call, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"request_id": call.id, "response": {"choices": choices}, **more}


def _choice(choice: Choice) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": choice.written, "finish_reason": choice.finish_reason}
    if choice.message is not None and choice.message.tool_calls:
        shown["tool_calls"] = choice.message.tool_calls
    return shown


def _sums(call: Call, terms: Terms, reply: Reply, cost: Decimal) -> dict[str, Any]:
    """What it came to: the part that a stream's last event and a whole answer share."""
    price, tokens = terms.price.price, reply.tokens
    usage = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    breakdown = {**usage, **_rates(price, tokens)}
    return {
        "usage": usage,
        "cost": {"amount": number(cost), "currency": price.currency, "breakdown": breakdown},
        "latency_ms": call.elapsed_ms,
    }


def number(amount: Decimal) -> msgspec.Raw:
    """A JSON number with all its digits and no exponent."""
    return msgspec.Raw(plain(amount).encode())


def _rates(price: Price, tokens: Tokens) -> dict[str, Any]:
    """The rates that made the cost; with rates by kind also the counts they were applied to."""
    if not price.rates:
        return {f"rate_per_{counted}": number(rate) for counted, rate in price.unit_rates.items()}
    if price.single:
        return {"rate_per_token": number(price.rates["prompt"])}
    shown: dict[str, Any] = {"rates": {kind: number(rate) for kind, rate in price.rates.items()}}
    for kind in PARTS:
        if count := getattr(tokens, kind):
            shown[f"{kind}_tokens"] = count
    return shown
