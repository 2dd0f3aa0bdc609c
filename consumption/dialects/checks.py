"""Checks that dialects share. Every refusal names the field, and never what was sent."""

from typing import Any

import msgspec

from common.errors import InvalidField
from consumption.dialects.base import (
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    MOST_CHOICES,
    MOST_METADATA_BYTES,
    MOST_OUTPUT_TOKENS,
    TEMPLATE_TOKENS,
    TEMPLATE_TOKENS_PER_MESSAGE,
    TOOLS_TOKENS,
)


def check_range(value: float | None, name: str, least: float, most: float) -> None:
    """Raises ``InvalidField`` where a number that was given lies outside."""
    if value is not None and not least <= value <= most:
        raise InvalidField(f"{name} must lie between {least} and {most}", field=name)


def check_common(*, max_tokens: int | None, choices: int, metadata: dict[str, Any] | None) -> None:
    """What every dialect bounds."""
    if max_tokens is not None and not 1 <= max_tokens <= MOST_OUTPUT_TOKENS:
        raise InvalidField(f"max_tokens must lie between 1 and {MOST_OUTPUT_TOKENS}", field="max_tokens")
    if not 1 <= choices <= MOST_CHOICES:
        raise InvalidField(f"n must lie between 1 and {MOST_CHOICES}", field="n")
    if metadata is not None and len(msgspec.json.encode(metadata)) > MOST_METADATA_BYTES:
        raise InvalidField(f"metadata may have {MOST_METADATA_BYTES} bytes", field="metadata")


def typed(body: dict[str, Any], name: str, kind: type, *, required: bool = False) -> Any:
    """A member of a body; None where it is not given. Raises ``InvalidField`` where it has another type, or must be."""
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidField(
            f"{name} has the wrong type" if value is not None else f"{name} is missing", field=name
        )
    return value


def check_number(body: dict[str, Any], name: str, least: float, most: float) -> None:
    """Raises ``InvalidField`` where a member that was given is no number, or lies outside."""
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidField(f"{name} must be a number", field=name)
    check_range(value, name, least, most)


def where(error: msgspec.ValidationError) -> str:
    """Which field is wrong, from msgspec's path."""
    _, found, path = str(error).rpartition(" - at `$.")
    if not found:
        return "A field is not known, missing, or of the wrong type"
    return f"A field has the wrong type or is not known: {path.rstrip('`')}"


def bound_of_messages(messages: list[dict[str, Any]]) -> int:
    """Tokens that messages can cost at most, with what a chat template adds."""
    bound = TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE * len(messages)
    for message in messages:
        for name, value in message.items():
            if name == "role" and len(value) <= _LONGEST_ROLE:
                continue  # stands in the template
            if name == "content" and isinstance(value, str):
                bound += len(value.encode())
            elif name == "content" and isinstance(value, list):
                bound += sum(map(_bound_of_part, value))
            else:
                bound += bound_of_value(value)
    return bound


#: Some templates put any role into the prompt.
_LONGEST_ROLE = 16
_TEXT = frozenset({"type", "text"})
#: Parts that cost no more tokens than they have bytes; sound too, which comes in base64.
_BY_BYTES = frozenset({"text", "refusal", "input_audio"})


def _bound_of_part(part: Any) -> int:
    if not isinstance(part, dict):
        return bound_of_value(part)
    kind, text = part.get("type", "text"), part.get("text")
    if isinstance(text, str) and part.keys() <= _TEXT and kind == "text":
        return len(text.encode())
    if kind == "image_url":
        return IMAGE_TOKENS
    # A type that is not known may be a film, and upstreams exist that take parts without a type for what they hold.
    is_plain = isinstance(part.get("type"), str) and kind in _BY_BYTES
    return bound_of_value(part) if is_plain else DOCUMENT_TOKENS


def bound_of_value(value: Any) -> int:
    """Tokens that something else in the request can cost at most; nothing where it is not given."""
    return 0 if value is None else len(msgspec.json.encode(value))


def bound_of_tools(tools: Any) -> int:
    """Tokens that tools can cost at most, with what an upstream tells its model about them, and about its own ones."""
    if not tools:
        return 0
    listed = tools if isinstance(tools, list) else []
    own = sum(1 for tool in listed if isinstance(tool, dict) and tool.get("type") not in _CALLERS_OWN)
    return TOOLS_TOKENS * (1 + own) + bound_of_value(tools)


_CALLERS_OWN = (None, "custom", "function")
