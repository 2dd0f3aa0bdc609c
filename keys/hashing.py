"""Argon2id of a key's secret: 19 MiB, two passes, one lane (OWASP's minimum).

The secret has 256 bits, so the hash has only to be one-way; a person's password would want more.
"""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_secret(secret: str) -> str:
    """A salted hash to keep."""
    return _hasher.hash(secret)


def verify_secret(key_hash: str, secret: str) -> bool:
    """Whether ``secret`` is the one that ``key_hash`` was made of. About 20 ms of CPU."""
    try:
        return _hasher.verify(key_hash, secret)
    except (VerificationError, InvalidHashError):
        return False
