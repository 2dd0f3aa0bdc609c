"""OpenAI's API: ``POST /v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``, and ``GET /v1/models``.

What the upstream answers is passed on as it came, byte for byte; fields that are not ours to know are passed on too.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from catalog.snapshot import Offer
from common.errors import InvalidField, Problem
from common.money import plain
from common.parsing import read_object
from consumption import sse
from consumption.call import Call, Terms
from consumption.dialects.base import MOST_CHOICES, MOST_OUTPUT_TOKENS, Answer
from consumption.dialects.checks import (
    bound_of_messages,
    bound_of_tools,
    bound_of_value,
    check_common,
    check_number,
    check_range,
    typed,
)
from consumption.dialects.extras import extras_of, held, named_cap, named_choices
from consumption.dialects.marketplace import number
from consumption.prompts import Prompt, prompt_of_input, prompt_of_messages
from consumption.protocols.openai import SpeaksOpenAi
from consumption.replies import Chunk, Reply, usage_of
from quotas.admission import Lease

_encode = msgspec.json.Encoder().encode

#: OpenAI's names for what went wrong, by status.
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota",
    403: "permission_error", 404: "invalid_request_error", 413: "invalid_request_error",
    422: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip


_RANGES = (("temperature", 0, 2), ("top_p", 0, 1))
#: Members that say how much is written. Some upstreams know the one, some the other.
_CAPS = ("max_tokens", "max_completion_tokens")
#: Members that no model reads. Whatever else there is may be part of somebody's prompt.
_NOT_READ = frozenset({
    *_CAPS, "model", "metadata", "stream", "stream_options", "n", "best_of", "temperature", "top_p", "top_k", "stop",
    "seed", "user", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "echo", "store",
    "parallel_tool_calls", "tool_choice", "modalities", "service_tier", "encoding_format", "dimensions",
})  # fmt: skip
_KNOWN = _NOT_READ | {
    "messages", "prompt", "input", "suffix", "tools", "functions", "function_call", "response_format",
}  # fmt: skip


class _Paid(SpeaksOpenAi):
    """A checked body, kept as the caller wrote it. ``prompt``: the member that holds the prompt."""

    def __init__(self, body: dict[str, Any], path: str, *, prompt: str, writes: bool) -> None:
        self.path = path
        self._prompt = prompt
        self.writes = writes
        self.service = typed(body, "model", str, required=True)
        # Most members are not there in most calls: none of them is looked at then.
        self.stream = "stream" in body and bool(typed(body, "stream", bool)) and writes
        choices: int = 1 if body.get("n") is None else typed(body, "n", int)
        self.metadata: dict[str, Any] | None = typed(body, "metadata", dict) if "metadata" in body else None
        self.max_tokens: int | None = typed(body, "max_tokens", int) if writes else None
        if writes and body.get("max_completion_tokens") is not None:
            newer = typed(body, "max_completion_tokens", int)
            for cap in (self.max_tokens, newer):
                check_range(cap, "max_tokens", 1, MOST_OUTPUT_TOKENS)
            # Of the two the newer name holds, where it is an option at all.
            self.max_tokens = newer if prompt == "messages" else self.max_tokens
        options = typed(body, "stream_options", dict) if "stream_options" in body else None
        self.wants_usage = options is not None and options.get("include_usage") is True
        self._body = body
        self._extras = None if body.keys() <= _KNOWN else extras_of(body, _KNOWN)
        if self._extras and writes:
            choices = max(choices, named_choices(self._extras))
            if self.max_tokens is None:
                self.max_tokens = named_cap(self._extras)
        check_common(max_tokens=self.max_tokens, choices=choices, metadata=self.metadata)
        self.choices = choices
        if "best_of" in body:
            # So many are written and paid for, whatever is shown.
            best_of: int | None = typed(body, "best_of", int)
            check_range(best_of, "best_of", 1, MOST_CHOICES)
            self.choices = max(choices, best_of or 1)
        self._tries = self.choices
        if prompt == "prompt":
            self.choices *= _prompts_in(body["prompt"])
        for name, least, most in _RANGES:
            if name in body:
                check_number(body, name, least, most)

    def prompt_bound(self) -> int:
        bound = 0
        for name, value in self._body.items():
            if name == "messages" == self._prompt:
                bound += bound_of_messages(value)
            elif name == "tools":
                bound += bound_of_tools(value)
            elif name not in _NOT_READ:
                # A list of token ids has more characters than tokens too.
                bound += bound_of_value(value)
        return bound

    def prompt(self) -> Prompt:
        body = self._body
        if self._prompt == "messages":
            more = (body.get(name) for name in ("tools", "functions", "response_format"))
            return prompt_of_messages(body["messages"], *more)
        return prompt_of_input(body[self._prompt], body.get("suffix"))

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        body = {**self._body, "model": model}
        body.pop("metadata", None)
        if self.writes:
            given = [name for name in _CAPS if body.get(name) is not None]
            for name in given if self._prompt == "messages" and given else ("max_tokens", *given):
                body[name] = output_cap
            if self._extras:
                body |= held(self._extras, output_cap=output_cap, choices=self._tries)
        if self.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return _encode(body)


class OpenAi:
    """The dialect, for one of its paths."""

    request_id_header: str | None = None

    def __init__(self, path: str, *, prompt: str, writes: bool = True) -> None:
        self.path = path
        self.name = f"openai {path}"
        self._prompt = prompt
        self._writes = writes

    def parse(self, call: Call, *, most_bytes: int) -> _Paid:
        body = read_object(call.body, most_bytes=most_bytes)
        given: Any = body.get(self._prompt)
        kinds: Any = (list,) if self._prompt == "messages" else (str, list)
        if not isinstance(given, kinds) or not given:
            raise InvalidField(f"{self._prompt} is missing, empty or of the wrong type", field=self._prompt)
        if self._prompt == "messages" and not all(map(_is_message, given)):
            raise InvalidField("messages must be objects with a role", field="messages")
        return _Paid(body, self.path, prompt=self._prompt, writes=self._writes)

    def success(self, call: Call, terms: Terms, lease: Lease, reply: Reply, cost: Decimal) -> Answer:
        return Answer(200, [("content-type", "application/json"), ("x-cost", plain(cost))], reply.raw)

    def problem(self, error: Problem, request_id: str) -> Answer:
        # A bad key is 401 here: the official clients raise AuthenticationError for that alone.
        status = 401 if error.code == "invalid_api_key" else error.status
        return Answer(
            status, [("content-type", "application/json")], _encode({"error": _error(error, status)})
        )

    def chunk(self, call: Call, request: Any, chunk: Chunk) -> bytes:
        if chunk.usage is None:
            return sse.event(chunk.raw)
        if request.wants_usage and not chunk.choices:
            return b""  # told by ``last``, with the cost, once it is settled
        return sse.event(_without_usage(chunk.raw)) if chunk.choices else b""

    def last(self, call: Call, terms: Terms, request: Any, reply: Reply, cost: Decimal) -> bytes:
        told = b": x-cost " + plain(cost).encode() + b"\n\n"
        if request.wants_usage:
            told = sse.event(_encode(_usage_chunk(call, terms, request, reply, cost)))
        return told + sse.event(sse.DONE)

    def broken(self, error: Problem, request_id: str) -> bytes:
        return sse.event(_encode({"error": _error(error, error.status)}))

    def models(self, offers: Iterable[tuple[str, Offer]]) -> Answer:
        """The answer of ``GET /v1/models``: what can be given as ``model``, and which service that is."""
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "marketplace", "service_id": offer.id}
            for name, offer in offers
        ]
        return Answer(200, [("content-type", "application/json")], _encode({"object": "list", "data": data}))


CHAT = OpenAi("/chat/completions", prompt="messages")
COMPLETIONS = OpenAi("/completions", prompt="prompt")
EMBEDDINGS = OpenAi("/embeddings", prompt="input", writes=False)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _prompts_in(given: str | list[Any]) -> int:
    """How many prompts are completed: a list holds texts, lists of token ids, or the token ids of one."""
    return 1 if isinstance(given, str) else max(1, sum(not isinstance(each, int) for each in given))


def _without_usage(raw: bytes) -> bytes:
    document = msgspec.json.decode(raw)
    del document["usage"]
    return _encode(document)


def _usage_chunk(call: Call, terms: Terms, request: Any, reply: Reply, cost: Decimal) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": "chat.completion.chunk" if request.path == CHAT.path else "text_completion",
        "created": int(call.request_id.int >> 80) // 1000,
        "model": request.service,
        "choices": [],
        "usage": usage_of(reply.tokens),
        "cost": {"amount": number(cost), "currency": terms.price.price.currency},
    }


def _error(error: Problem, status: int) -> dict[str, Any]:
    return {
        "message": error.detail,
        "type": _TYPES.get(status, "api_error"),
        "param": error.extra.get("field"),
        "code": error.code,
    }
