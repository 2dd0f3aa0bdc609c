"""JSON in which money is a plain number: all its digits, no exponent, never through a float."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from rest_framework.renderers import JSONRenderer

from common.money import plain

_encode = msgspec.json.Encoder(enc_hook=str).encode


class PlainNumberRenderer(JSONRenderer):
    """Renders what ``json_number`` made as it is. Everything else comes out as usual."""

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else _encode(data)


def json_number(amount: Decimal) -> msgspec.Raw:
    """``Decimal("0.0001000")`` as the JSON number ``0.0001``."""
    return msgspec.Raw(plain(amount).encode())
