"""What the API's description tells of the paid calls in OpenAI's and Anthropic's dialects.

A request has what is checked here; whatever else its protocol knows is passed on as it came, but for other names of
the output cap, which hold no more than was reserved. An answer is the upstream's own, so little is promised of it.
"""

from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema

from common.problem_schema import meaning_of
from consumption.dialects.anthropic import BETAS, MOST_BETAS
from consumption.dialects.base import MOST_CHOICES, MOST_OUTPUT_TOKENS

Schema = dict[str, Any]
_REFUSALS = (400, 401, 402, 403, 404, 409, 413, 422, 429, 502, 503, 504)
_KEY: Any = [{"apiKey": []}]
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    OpenApiParameter.HEADER,
    description="However often the call is repeated under this key within 24 hours, it is made and charged once. A "
    "duplicate gets the first call's answer, with `Idempotent-Replayed: true` and the first `X-Request-Id`; 409 "
    "`idempotency_in_flight` while that is running; 409 `idempotency_outcome_only` where it is over and the answer is "
    "not kept (too large, or lost); 422 `idempotency_key_reused` where the path or the body is another. The key is "
    "free again where the call was refused or the upstream certainly did nothing.",
)
ANTHROPIC_BETA = OpenApiParameter(
    "Anthropic-Beta",
    {"type": "string", "maxLength": MOST_BETAS, "pattern": f"^{BETAS.pattern}$"},
    OpenApiParameter.HEADER,
    description="Betas by name, told to an upstream of the same protocol and to no other.",
)


def _or_null(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


def _body(required: list[str], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["model", *required],
        "properties": {
            "model": {"type": "string", "description": "A service's id, its name, or `name@version`."},
            "metadata": _or_null("object", description="At most 1 KB; stored with the usage record."),
            **properties,
        },
    }


def _messages(description: str) -> Schema:
    message = {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}}
    return {"type": "array", "minItems": 1, "items": message, "description": description}


def _tokens(kind: Any) -> Schema:
    return {"type": kind, "minimum": 1, "maximum": MOST_OUTPUT_TOKENS}


def _text_or_list(description: str) -> Schema:
    kinds = [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]
    return {"anyOf": kinds, "description": description}


_SAMPLING = {"top_p": _or_null("number", minimum=0, maximum=1), "stream": _or_null("boolean")}
_OPENAI_WRITES: dict[str, Schema] = {
    **_SAMPLING,
    "max_tokens": _tokens(["integer", "null"]),
    "max_completion_tokens": _tokens(["integer", "null"]),
    "n": _or_null("integer", minimum=1, maximum=MOST_CHOICES),
    "best_of": _or_null("integer", minimum=1, maximum=MOST_CHOICES),
    "temperature": _or_null("number", minimum=0, maximum=2),
    "stream_options": _or_null("object"),
}
_OPENAI_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _or_null("string"),
                "code": {"type": "string", "description": "Stable and machine-readable"},
            },
        }
    },
}
_ANTHROPIC_ERROR: Schema = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "details"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {
                    "type": "object",
                    "required": ["error_code"],
                    "properties": {"error_code": {"type": "string"}, "field": {"type": "string"}},
                },
            },
        },
        "request_id": {"type": "string"},
    },
}
_STREAM: Schema = {"type": "string", "description": "Where `stream` is true: events as they come."}


def _answers(success: Schema, error: Schema, *, streams: bool = False) -> dict[Any, Any]:
    found: dict[Any, Any] = {(200, "application/json"): success}
    if streams:
        found[200, "text/event-stream"] = _STREAM
    for status in _REFUSALS:
        found[status, "application/json"] = {**error, "description": meaning_of(status)}
    return found


def _list_of(member: str) -> Schema:
    return {
        "type": "object",
        "required": [member],
        "properties": {member: {"type": "array", "items": {"type": "object"}}},
    }


def _paid(
    operation_id: str, summary: str, body: Schema, answers: dict[Any, Any], *more: OpenApiParameter
) -> Callable[[Any], Any]:
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        request={"application/json": body},
        parameters=[IDEMPOTENCY_KEY, *more],
        responses=answers,
        auth=_KEY,
        tags=["consumption"],
    )


#: By path: what describes its ``POST``.
PAID: dict[str, Callable[[Any], Any]] = {
    "/v1/chat/completions": _paid(
        "chat_completions",
        "Call an LLM service as OpenAI's clients chat",
        _body(
            ["messages"], messages=_messages("As OpenAI has them; tools and images too."), **_OPENAI_WRITES
        ),
        _answers(_list_of("choices"), _OPENAI_ERROR, streams=True),
    ),
    "/v1/completions": _paid(
        "completions",
        "Call an LLM service as OpenAI's clients complete a text",
        _body(["prompt"], prompt=_text_or_list("Texts, or tokens of the upstream's."), **_OPENAI_WRITES),
        _answers(_list_of("choices"), _OPENAI_ERROR, streams=True),
    ),
    "/v1/embeddings": _paid(
        "embeddings",
        "Embed texts as OpenAI's clients do",
        _body(["input"], input=_text_or_list("Texts, or tokens of the upstream's.")),
        _answers(_list_of("data"), _OPENAI_ERROR),
    ),
    "/v1/messages": _paid(
        "messages",
        "Call an LLM service as Anthropic's clients do",
        _body(
            ["messages", "max_tokens"],
            **_SAMPLING,
            messages=_messages("As Anthropic has them; tools and images too."),
            max_tokens=_tokens("integer"),
            temperature=_or_null("number", minimum=0, maximum=1),
            system={"type": ["string", "array", "null"]},
        ),
        _answers(_list_of("content"), _ANTHROPIC_ERROR, streams=True),
        ANTHROPIC_BETA,
    ),
}

models = extend_schema(
    operation_id="models",
    summary="What a key may call",
    description="As OpenAI's clients list it; with `Anthropic-Version` as Anthropic's do.",
    responses={
        (200, "application/json"): _list_of("data"),
        **{
            (status, "application/json"): {
                "anyOf": [_OPENAI_ERROR, _ANTHROPIC_ERROR],
                "description": meaning_of(status),
            }
            for status in (401, 403, 429, 503)
        },
    },
    auth=_KEY,
    tags=["services"],
)
