"""Authentication by API key for the REST API's ordinary views. The hot path has a ``Keyring`` of its own."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.acting import Caller
from audit.trail import address_of
from keys import format as key_format
from keys import grants, last_used, proofs
from keys.errors import InvalidKey
from keys.format import ParsedKey
from keys.grants import Grant, StoredKey


class ApiKeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer mk_…``: ``request.user`` is a ``Caller``, ``request.auth`` the key's ``Grant``.

    Other tokens are left to the next class. A bad key is ``InvalidKey``, whatever is bad about it. Which scope a view
    asks for is its ``required_scope``: one that names none lets no key in.
    """

    def authenticate(self, request: Request) -> tuple[Caller, Grant] | None:
        scheme, _, text = request.headers.get("Authorization", "").strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text.startswith("mk_"):
            return None
        grant = grant_of(text, address_of(request))
        grant.require(getattr(request.parser_context["view"], "required_scope", ""))
        caller = Caller(
            consumer_id=grant.consumer_id,
            actor=f"key {grant.public_id}",
            service_id=grant.service_id,
            tier=grant.tier if grant.service_id is not None else None,
            testing=grant.testing,
        )
        return caller, grant

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


def grant_of(text: str, address: str | None) -> Grant:
    """The grant of a presented key.

    Only the costly proof is remembered. A key's state is read from PostgreSQL at every call, so a revoked one is
    refused at once. Raises what ``Keyring.authenticate`` does.
    """
    stored = _proven(text, address or "")
    if not stored.grant.usable() or not stored.grant.admits(address or ""):
        raise InvalidKey
    last_used.note(stored.grant.api_key_id)
    return stored.grant


def _proven(text: str, address: str) -> StoredKey:
    parsed = key_format.parse(text)
    if parsed is None:
        raise InvalidKey
    known = proofs.of_process()
    digest = known.digest(text)
    key_hash = known.proven(digest)
    if key_hash is None:
        key_hash = _prove(known, digest, parsed, address)
    stored = grants.load(parsed.public_id)
    if stored is None or stored.key_hash != key_hash:
        raise InvalidKey
    return stored


def _prove(known: proofs.Proofs, digest: bytes, parsed: ParsedKey, address: str) -> str:
    """The hash that the secret was proven against."""
    known.refuse_known(digest)
    known.refuse_guessing(parsed, address)
    key_hash = grants.hash_of(parsed.public_id)
    # An unknown id costs what a wrong secret costs.
    if not known.start(parsed.secret, key_hash or known.decoy_hash).result() or key_hash is None:
        raise known.refuse(digest, parsed, address)
    known.remember(digest, key_hash)
    return key_hash


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API documentation describes it."""

    target_class = "keys.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "mk_live_…",
            "description": "A key of the consumer, from `POST /api/v1/keys`. The secret is shown once.",
        }
