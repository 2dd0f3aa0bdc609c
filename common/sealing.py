"""What has to be kept secret and read again: sealed under a ring of keys, of which the first seals and all open.

Fernet (AES-128-CBC and HMAC-SHA-256). What it gives is printable ASCII, about a third longer than the text and
100 bytes more. To retire a key: put a new one first, seal everything again (``reseal``), then take the old one out.
"""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class Unsealable(Exception):
    """Sealed under a key that is not on the ring, or altered since."""


def seal(plain: bytes) -> bytes:
    """Seal under the first key. Twice the same never looks the same."""
    return _newest().encrypt(plain)


def unseal(sealed: bytes) -> bytes:
    """What was sealed. Raises ``Unsealable``."""
    try:
        return _ring().decrypt(sealed)
    except InvalidToken as error:
        raise Unsealable from error


def reseal(sealed: bytes) -> bytes:
    """The same under the first key; itself where it is so already. Raises ``Unsealable``."""
    return sealed if is_under_first_key(sealed) else seal(unseal(sealed))


def is_under_first_key(sealed: bytes) -> bool:
    """Whether it opens without any of the older keys."""
    try:
        _newest().decrypt(sealed)
    except InvalidToken:
        return False
    return True


def require_keys() -> None:
    """Raises ``ImproperlyConfigured`` where ``CREDENTIAL_KEYS`` was left at its default, or is none."""
    _ring()


def _newest() -> Fernet:
    return _fernets(tuple(settings.CREDENTIAL_KEYS))[0]


def _ring() -> MultiFernet:
    return MultiFernet(_fernets(tuple(settings.CREDENTIAL_KEYS)))


@lru_cache(maxsize=1)
def _fernets(keys: tuple[str, ...]) -> list[Fernet]:
    if not keys or settings.KNOWN_CREDENTIAL_KEY in keys:
        raise ImproperlyConfigured("CREDENTIAL_KEYS is not set")
    try:
        return [Fernet(key) for key in keys]
    except ValueError:
        # Without its cause, which shows the key.
        raise ImproperlyConfigured("CREDENTIAL_KEYS are 32 bytes each in URL-safe Base64") from None
