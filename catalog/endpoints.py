"""Where a service's upstream is. Judged when it is saved, and by the gateway again before it connects."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from django.core.exceptions import ValidationError

from common.upstream_networks import addresses_of, may_connect

_PRINTABLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
#: What resolvers take for an IPv4 address in one of its old spellings: ``2130706433``, ``0177.1``, ``0x7f.0.0.1``.
_ENDS_IN_A_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?")


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
    if not _is_host(parts):
        raise ValidationError("The endpoint's host is no name, and no IP address in its usual spelling")
    _judge(parts.hostname, _port(parts))


def origin_of(value: str) -> str:
    """Scheme, host and port of a valid endpoint: who gets what is sent there."""
    parts = urlsplit(value)
    return f"{parts.scheme}://{parts.hostname}:{_port(parts)}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _is_host(parts: SplitResult) -> bool:
    """A name, or an address as everybody reads it alike; a zone (``%eth0``) is nothing of another machine's."""
    host = parts.hostname or ""
    try:
        if "[" in parts.netloc:
            return ipaddress.IPv6Address(host).scope_id is None
        if _ENDS_IN_A_NUMBER.fullmatch(host):
            return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False
    return _NAME.fullmatch(host) is not None


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
