"""Authentication by API key for the REST API's ordinary views. The hot path has a ``Keyring`` of its own."""

import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.acting import Caller
from keys import format as key_format
from keys import grants
from keys.grants import Grant, StoredKey
from keys.hashing import hash_secret, verify_secret
from keys.keyring import InvalidKey

MOST_PROOFS = 10_000


class ApiKeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer mk_…``: ``request.user`` is a ``Caller``, ``request.auth`` the key's ``Grant``.

    Other tokens are left to the next class. A bad key is ``InvalidKey``, whatever is bad about it.
    """

    def authenticate(self, request: Request) -> tuple[Caller, Grant] | None:
        scheme, _, text = request.headers.get("Authorization", "").strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text.startswith("mk_"):
            return None
        grant = proofs.grant(text)
        caller = Caller(
            consumer_id=grant.consumer_id,
            actor=f"key {grant.public_id}",
            service_id=grant.service_id,
            tier=grant.tier if grant.service_id is not None else None,
        )
        return caller, grant

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class Proofs:
    """Which texts were proven to be a key's true secret, under a random key of this process.

    Only the costly proof is remembered. A key's state is read from PostgreSQL at every call, so a revoked one
    is refused at once.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._lock = threading.Lock()
        self._proven: OrderedDict[bytes, str] = OrderedDict()
        self._decoy_hash: str | None = None

    def grant(self, text: str) -> Grant:
        """The grant of a presented key. Raises ``InvalidKey``."""
        parsed = key_format.parse(text)
        if parsed is None:
            raise InvalidKey
        stored = grants.load(parsed.public_id)
        if not self._is_proven(text, parsed.secret, stored) or stored is None or not stored.grant.usable():
            raise InvalidKey
        return stored.grant

    def _is_proven(self, text: str, secret: str, stored: StoredKey | None) -> bool:
        digest = hmac.digest(self._secret, text.encode(), hashlib.sha256)
        key_hash = self._decoy() if stored is None else stored.key_hash
        if self._proven.get(digest) == key_hash:
            return True
        if not verify_secret(key_hash, secret):
            return False
        with self._lock:
            self._proven[digest] = key_hash
            if len(self._proven) > MOST_PROOFS:
                self._proven.popitem(last=False)
        return True

    def _decoy(self) -> str:
        """An unknown id costs what a wrong secret costs."""
        if self._decoy_hash is None:
            self._decoy_hash = hash_secret("no key has this secret")
        return self._decoy_hash


proofs = Proofs()


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
