"""Credentials of upstreams at rest: each sealed together with the origin (scheme, host, port) that it was given for.

Whoever may change where an endpoint is, in the admin or in the database, cannot have its credential sent there.
"""

import re

from django.core.exceptions import ValidationError

from catalog.endpoints import origin_of
from common.sealing import Unsealable, seal, unseal

#: What a header's value may hold. Tokens of 2 KB are in use; gateways do not send more than this.
_CREDENTIAL = re.compile(r"[!-~]{1,4096}")


class ForAnotherOrigin(Unsealable):
    """It was given for another scheme, host or port."""


def validate_credential(value: str) -> None:
    """Raises ``ValidationError``, which does not show the value, where no header could carry it."""
    if not _CREDENTIAL.fullmatch(value):
        raise ValidationError("A credential is 1 to 4,096 printable ASCII characters without spaces")


def seal_for(base_url: str, credential: str) -> bytes:
    """Seal a valid credential for the origin of a valid base URL."""
    return seal(f"{origin_of(base_url)} {credential}".encode())


def open_for(base_url: str, sealed: bytes) -> str:
    """The credential. Raises ``Unsealable``: under no key of ours, or for another origin."""
    origin, _, credential = unseal(sealed).decode("ascii", "replace").partition(" ")
    if not _is(origin, base_url):
        raise ForAnotherOrigin
    return credential


def _is(origin: str, base_url: str) -> bool:
    try:
        return origin_of(base_url) == origin
    except ValueError:
        return False
