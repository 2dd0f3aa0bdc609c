"""What both transports know: which path speaks which dialect, and what is read of a request besides its body."""

from rest_framework.request import Request

from common.networks import client_address
from consumption.dialects import anthropic, openai
from consumption.dialects.base import Dialect
from consumption.dialects.marketplace import Marketplace

#: Paths of paid calls that are whole, and the one that ends with a service's id.
DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": openai.CHAT,
    "/v1/completions": openai.COMPLETIONS,
    "/v1/embeddings": openai.EMBEDDINGS,
    "/v1/messages": anthropic.MESSAGES,
}
CONSUME = "/api/v1/consume/"
MARKETPLACE = Marketplace()


def is_paid(path: str) -> bool:
    """Whether a path is a paid call's."""
    return path.startswith(CONSUME) or path in DIALECTS


def bearer_of(authorization: str) -> str | None:
    """The key in an ``Authorization: Bearer`` header, or None."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def key_of(dialect: Dialect, authorization: str | None, x_api_key: str | None) -> str | None:
    """The presented key. ``X-Api-Key`` is for Anthropic's clients, and only where there is no ``Authorization``."""
    if authorization is not None:
        return bearer_of(authorization)
    return x_api_key.strip() or None if x_api_key is not None and dialect is anthropic.MESSAGES else None


def address_of(request: Request) -> str:
    """The client's address, as the trusted hop saw it."""
    peer = str(request.META.get("REMOTE_ADDR", ""))
    return client_address(peer, request.META.get("HTTP_X_FORWARDED_FOR", ""))
