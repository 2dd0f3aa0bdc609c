"""Where a service's upstream is. Judged when it is saved, and by the gateway again before it connects."""

import re
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

from catalog.upstream_networks import addresses_of, may_connect

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
    _judge(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


def _judge(host: str, port: int) -> None:
    """A name that does not resolve now may do so later: the gateway judges then."""
    try:
        addresses = addresses_of(host, port)
    except (OSError, UnicodeError):
        return
    if not all(may_connect(address) for address in addresses):
        raise ValidationError(
            "The endpoint is in a network that upstreams may not be in (UPSTREAM_ALLOWED_NETWORKS)"
        )
