"""Proofs that gateways tell each other through Valkey, so that a restart of many is no storm of Argon2.

An entry of a key is two MACs under a secret that Valkey never sees (it is derived from the newest pepper):

    hash_id = HMAC(secret, "hash" ‖ the key's Argon2id hash)[:16]      which hash the text was proven against
    proof   = HMAC(secret, "text" ‖ hash_id ‖ the key's whole text)    that it was

Whoever reads Valkey learns nothing from it about a secret of 256 bits. Whoever writes there cannot make a proof for a
text of their choice, and an entry that is copied or kept proves only what was true when it was made. It dies with the
key's hash, since that is read from PostgreSQL and compared; a key's *state* is never taken from here. See
``docs/adr/0013-proofs-are-shared-as-macs.md``.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from django.conf import settings

#: Runs one Valkey command; None where it brought no answer.
Command = Callable[[tuple[Any, ...]], Awaitable[Any]]

#: Hygiene, not security: an entry proves for ever, but a key that nobody uses need not be kept.
SECONDS = 86_400
_HASH_ID = 16


class SharedProofs:
    """The entries, over whatever runs a command."""

    def __init__(self, command: Command) -> None:
        self._command = command

    async def hash_id(self, public_id: str, text: str) -> bytes | None:
        """Which hash the text was proven against, somewhere; None where nobody says so, or not truly."""
        entry = await self._command(("GET", _name(public_id)))
        if not isinstance(entry, bytes):
            return None
        told, proof = entry[:_HASH_ID], entry[_HASH_ID:]
        return told if hmac.compare_digest(proof, _proof(told, text)) else None

    async def tell(self, public_id: str, text: str, key_hash: str) -> None:
        """The text was proven against a hash."""
        told = hash_id(key_hash)
        await self._command(("SET", _name(public_id), told + _proof(told, text), "EX", SECONDS))


def hash_id(key_hash: str) -> bytes:
    """How entries name a key's hash."""
    return _mac(b"hash" + key_hash.encode())[:_HASH_ID]


def _name(public_id: str) -> str:
    return f"keyproof:{public_id}"


def _proof(told: bytes, text: str) -> bytes:
    return _mac(b"text" + told + text.encode())


def _mac(message: bytes) -> bytes:
    return hmac.digest(_secret(settings.KEY_PEPPERS[max(settings.KEY_PEPPERS)]), message, "sha256")


@lru_cache(maxsize=4)
def _secret(pepper: bytes) -> bytes:
    return hmac.digest(pepper, b"shared proofs, version 1", "sha256")
