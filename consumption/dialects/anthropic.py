"""Anthropic's API: ``POST /v1/messages``, and its form of ``GET /v1/models``.

An upstream that speaks the same protocol gets every field as the caller wrote it, and its answer is passed on as it
came. Tools that would run at the upstream are refused: what they read costs tokens that nobody can bound beforehand.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from catalog.snapshot import Offer
from common.errors import InvalidField, Problem
from common.money import plain
from common.parsing import read_object
from consumption.call import Call, Terms
from consumption.dialects.base import (
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    TEMPLATE_TOKENS,
    TEMPLATE_TOKENS_PER_MESSAGE,
    Answer,
)
from consumption.dialects.checks import bound_of_tools, bound_of_value, check_common, check_number, typed
from consumption.dialects.extras import extras_of, held
from consumption.dialects.marketplace import number
from consumption.errors import NotSupported
from consumption.prompts import Prompt, prompt_of_messages
from consumption.protocols.anthropic import SpeaksAnthropic
from consumption.replies import Chunk, Reply
from quotas.admission import Lease

_encode = msgspec.json.Encoder().encode

#: Anthropic's names for what went wrong, by status.
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 422: "invalid_request_error",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
#: Tools that the caller runs: their own, and those of Anthropic's making that a caller runs, by name and date.
_CALLERS_TOOL = re.compile(r"custom|(bash|text_editor|computer|memory)_\d{8}")
#: What makes the upstream run something by itself.
_RUN_UPSTREAM = ("mcp_servers", "container")
#: Names of betas by comma, and how long they may be together.
BETAS = re.compile(r"[A-Za-z0-9._-]+( *, *[A-Za-z0-9._-]+)*")
MOST_BETAS = 1_000
_MEASURED_APART = frozenset({"model", "max_tokens", "stream", "messages", "system", "tools", "metadata"})
_KNOWN = _MEASURED_APART | {
    "temperature", "top_p", "top_k", "stop_sequences", "thinking", "tool_choice", "output_config", "service_tier",
    *_RUN_UPSTREAM,
}  # fmt: skip


class _Paid(SpeaksAnthropic):
    """A checked body, kept as the caller wrote it."""

    path = "/messages"
    writes = True
    choices = 1

    def __init__(self, body: dict[str, Any], betas: str) -> None:
        if betas:
            self.headers = _beta_header(betas)
        self.service: str = typed(body, "model", str, required=True)
        self.max_tokens: int = typed(body, "max_tokens", int, required=True)
        self.stream = bool(typed(body, "stream", bool))
        self.metadata: dict[str, Any] | None = typed(body, "metadata", dict)
        self._body = body
        self._extras = None if body.keys() <= _KNOWN else extras_of(body, _KNOWN)
        check_common(max_tokens=self.max_tokens, choices=1, metadata=self.metadata)
        check_number(body, "temperature", 0, 1)
        check_number(body, "top_p", 0, 1)
        _check_messages(body)
        _check_tools(body)

    def prompt_bound(self) -> int:
        body = self._body
        bound = TEMPLATE_TOKENS + bound_of_tools(body.get("tools")) + _bound_of_content(body.get("system"))
        for message in body["messages"]:
            bound += TEMPLATE_TOKENS_PER_MESSAGE + _bound_of_content(message.get("content"))
        return bound + sum(bound_of_value(body[name]) for name in body if name not in _MEASURED_APART)

    def prompt(self) -> Prompt:
        body = self._body
        system = [{"content": body["system"]}] if body.get("system") else []
        return prompt_of_messages([*system, *body["messages"]], body.get("tools"))

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        body = {**self._body, "model": model, "max_tokens": output_cap}
        if self._extras:
            body |= held(self._extras, output_cap=output_cap, choices=1)
        if self.metadata is not None:
            # The rest of it is for this side: classification, labels.
            body["metadata"] = {name: self.metadata[name] for name in ("user_id",) if name in self.metadata}
        return _encode(body)


def _beta_header(betas: str) -> bytes:
    if len(betas) > MOST_BETAS or not BETAS.fullmatch(betas):
        raise InvalidField("anthropic-beta must name betas, by comma", field="anthropic-beta")
    return b"anthropic-beta: " + betas.encode() + b"\r\n"


def _check_messages(body: dict[str, Any]) -> None:
    messages = typed(body, "messages", list, required=True)
    if not messages:
        raise InvalidField("messages is empty", field="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise InvalidField("messages must be objects with a role", field="messages")
    if not isinstance(body.get("system"), str | list | None):
        raise InvalidField("system has the wrong type", field="system")


def _check_tools(body: dict[str, Any]) -> None:
    for name in _RUN_UPSTREAM:
        if body.get(name) is not None:
            raise NotSupported(f"{name} is not supported here", field=name)
    for tool in typed(body, "tools", list) or ():
        if not isinstance(tool, dict):
            raise InvalidField("tools must be objects", field="tools")
        if not _CALLERS_TOOL.fullmatch(str(tool.get("type") or "custom")):
            raise NotSupported("Tools that run at the service are not supported here", field="tools")


def _bound_of_content(content: Any) -> int:
    """Tokens that a text, or a list of blocks, can cost at most."""
    if isinstance(content, str):
        return len(content.encode())
    return sum(map(_bound_of_block, content)) if isinstance(content, list) else bound_of_value(content)


def _bound_of_block(block: Any) -> int:
    if not isinstance(block, dict):
        return bound_of_value(block)
    match block.get("type"):
        case "image":
            return IMAGE_TOKENS
        case "document" | "container_upload":
            return _bound_of_document(block)
        case "tool_result":
            rest = {name: value for name, value in block.items() if name != "content"}
            return bound_of_value(rest) + _bound_of_content(block.get("content"))
    return bound_of_value(block)


def _bound_of_document(block: dict[str, Any]) -> int:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "text":
        return bound_of_value(block)
    if isinstance(source, dict) and kind == "content":
        return bound_of_value(block.get("title")) + _bound_of_content(source.get("content"))
    return DOCUMENT_TOKENS


class Anthropic:
    """The dialect."""

    name = "anthropic /messages"
    request_id_header: str | None = "request-id"

    def parse(self, call: Call, *, most_bytes: int) -> _Paid:
        return _Paid(read_object(call.body, most_bytes=most_bytes), call.betas)

    def success(self, call: Call, terms: Terms, lease: Lease, reply: Reply, cost: Decimal) -> Answer:
        return Answer(200, [("content-type", "application/json"), ("x-cost", plain(cost))], reply.raw)

    def problem(self, error: Problem, request_id: str) -> Answer:
        # A bad key is 401 here: the official clients raise AuthenticationError for that alone.
        status = 401 if error.code == "invalid_api_key" else error.status
        return Answer(
            status, [("content-type", "application/json")], _encode(_error(error, status, request_id))
        )

    def chunk(self, call: Call, request: Any, chunk: Chunk) -> bytes:
        return bytes(chunk.raw)

    def last(self, call: Call, terms: Terms, request: Any, reply: Reply, cost: Decimal) -> bytes:
        told = {"amount": number(cost), "currency": terms.price.price.currency}
        return _event("message_stop", {"type": "message_stop", "cost": told})

    def broken(self, error: Problem, request_id: str) -> bytes:
        return _event("error", _error(error, error.status, request_id))

    def models(self, offers: Iterable[tuple[str, Offer]]) -> Answer:
        """The answer of ``GET /v1/models``: what can be given as ``model``, on one page."""
        data = [_model(name, offer) for name, offer in offers]
        ids = [model["id"] for model in data]
        page = {
            "data": data,
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
        return Answer(200, [("content-type", "application/json")], _encode(page))


MESSAGES = Anthropic()


def _model(name: str, offer: Offer) -> dict[str, Any]:
    """``created_at`` is the epoch, which the API's reference allows where the release date is not known."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "deprecated" if offer.deprecated else "active",
    }


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encode(document) + b"\n\n"


def _error(error: Problem, status: int, request_id: str) -> dict[str, Any]:
    """Our stable code is where Anthropic's clients look for one: ``error.error_code``."""
    details: dict[str, Any] = {"error_code": error.code}
    if "field" in error.extra:
        details["field"] = error.extra["field"]
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, "api_error"), "message": error.detail, "details": details},
        "request_id": request_id,
    }
