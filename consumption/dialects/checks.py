"""Checks that dialects share. Every refusal names the field, and never what was sent."""

from typing import Any

import msgspec

from common.errors import InvalidField
from consumption.dialects.base import (
    IMAGE_TOKENS,
    MOST_CHOICES,
    MOST_METADATA_BYTES,
    MOST_OUTPUT_TOKENS,
    TEMPLATE_TOKENS,
    TEMPLATE_TOKENS_PER_MESSAGE,
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


def where(error: msgspec.ValidationError) -> str:
    """Which field is wrong, from msgspec's path."""
    _, found, path = str(error).rpartition(" - at `$.")
    if not found:
        return "A field is not known, missing, or of the wrong type"
    return f"A field has the wrong type or is not known: {path.rstrip('`')}"


def bound_of_messages(messages: list[dict[str, Any]]) -> int:
    """Tokens that messages can cost at most, with what a chat template adds."""
    return TEMPLATE_TOKENS + sum(TEMPLATE_TOKENS_PER_MESSAGE + _bound_of_message(each) for each in messages)


def _bound_of_message(message: dict[str, Any]) -> int:
    content = message.get("content")
    bound = len(content.encode()) if isinstance(content, str) else 0
    if isinstance(content, list):
        bound = sum(_bound_of_part(part) for part in content)
    return bound + sum(
        len(msgspec.json.encode(value)) for name, value in message.items() if name not in {"role", "content"}
    )


def _bound_of_part(part: Any) -> int:
    if isinstance(part, dict):
        if isinstance(part.get("text"), str):
            return len(part["text"].encode())
        if part.get("type") == "image_url":
            return IMAGE_TOKENS
    return len(msgspec.json.encode(part))


def bound_of_value(value: Any) -> int:
    """Tokens that something else in the request can cost at most; nothing where it is not given."""
    return 0 if value is None else len(msgspec.json.encode(value))
