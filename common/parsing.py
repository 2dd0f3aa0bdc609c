"""Reading a JSON body that may be hostile: bounded, strict, and never a 500."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework.parsers import BaseParser

from common.errors import Malformed, TooLarge


class StrictJSONParser(BaseParser):
    """JSON with bounds: ``MAX_BODY_BYTES``, no key twice, no number that is none (``NaN``, ``1e400``).

    Raises ``TooLarge`` or ``Malformed``. Unlike DRF's own it survives nesting of any depth.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise TooLarge
        return strict_json(body)


def strict_json(body: bytes | str) -> Any:
    """The value that ``body`` holds. Raises ``Malformed``."""
    try:
        return json.loads(body, object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("The body is not valid JSON") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
