"""What both transports read of a request besides its body."""

from rest_framework.request import Request


def bearer_of(authorization: str) -> str | None:
    """The key in an ``Authorization: Bearer`` header, or None."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def address_of(request: Request) -> str:
    """The client's address as the server saw it: a forwarding header is anybody's to write."""
    return str(request.META.get("REMOTE_ADDR", ""))
