"""Tokens of a consumer's own OpenID provider, in place of ours: who they name is looked up, nothing else is believed.

A provider's keys are fetched when they are first needed and kept for five minutes; one that is not among them is asked
for twice a minute at most, whoever invents key ids.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt
from django.conf import settings
from rest_framework.exceptions import AuthenticationFailed

from accounts.models import User

#: Signatures by a private key alone: with a shared secret, a provider's public key would be the secret.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
FETCH_SECONDS = 5.0
#: After a provider did not answer, nobody waits for it again for so long.
PAUSE_SECONDS = 10.0
#: By so much a provider's clock may be off.
LEEWAY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Provider:
    """One entry of ``OPENID_PROVIDERS``. ``jwks_url``: where its public keys are."""

    issuer: str
    audience: str
    jwks_url: str


class _Keys(jwt.PyJWKClient):
    """A provider's keys."""

    _rests_until = 0.0

    def fetch_data(self) -> Any:
        if time.monotonic() < self._rests_until:
            raise jwt.PyJWKClientError("the provider did not answer just now")
        try:
            return super().fetch_data()
        except (jwt.PyJWTError, ValueError) as error:
            self._rests_until = time.monotonic() + PAUSE_SECONDS
            raise jwt.PyJWKClientError("the provider's keys cannot be read") from error


def provider_of(token: str) -> Provider | None:
    """The provider that a token says it is from, where it is one of ours. Nothing of the token is proven yet."""
    if not settings.OPENID_PROVIDERS:
        return None
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError:
        return None
    if not isinstance(issuer, str) or issuer not in settings.OPENID_PROVIDERS:
        return None
    known = settings.OPENID_PROVIDERS[issuer]
    return Provider(issuer, known["audience"], known["jwks_url"])


def user_of(token: str, provider: Provider) -> User:
    """The person whom a provider's token names. Raises ``AuthenticationFailed``."""
    try:
        key = _keys(provider.jwks_url).get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=provider.audience,
            issuer=provider.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except jwt.PyJWTError as error:
        raise AuthenticationFailed from error
    found = User.objects.filter(
        identities__issuer=provider.issuer, identities__subject=claims["sub"], is_active=True
    ).first()
    if found is None:
        raise AuthenticationFailed
    return found


@lru_cache(maxsize=32)
def _keys(url: str) -> _Keys:
    return _Keys(url, timeout=FETCH_SECONDS)
