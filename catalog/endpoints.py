"""Where a service's upstream is. What a gateway may connect to is checked there, for every connection."""

import re
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

_PRINTABLE = re.compile(r"[!-~]+")


def validate_endpoint(value: str) -> None:
    """Raises ``ValidationError`` unless ``value`` is a base URL as OpenAI's clients take it: ``http://host:port/v1``."""
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port != 0
    except ValueError as error:
        raise ValidationError("The endpoint is not a URL") from error
    if not _PRINTABLE.fullmatch(value):
        raise ValidationError("The endpoint holds a character that no URL has")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_valid:
        raise ValidationError("The endpoint must look like http://host:port/v1")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValidationError("The endpoint has no user, query or fragment")
