"""Tokens of a consumer's own OpenID provider, in place of ours: whom they name is looked up, no more is believed."""

from dataclasses import dataclass
from functools import lru_cache

import jwt
from django.conf import settings
from rest_framework.exceptions import AuthenticationFailed

from accounts.models import User
from accounts.openid_keys import ALGORITHMS, ProviderKeys

#: By so much a provider's clock may be off.
LEEWAY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Provider:
    """One entry of ``OPENID_PROVIDERS``. ``jwks_url``: where its public keys are."""

    issuer: str
    audience: str
    jwks_url: str


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
    """The person whom a provider's token names. Raises ``AuthenticationFailed`` or ``ProviderUnavailable``."""
    try:
        claims = jwt.decode(
            token,
            _key_of(token, provider),
            algorithms=ALGORITHMS,
            audience=provider.audience,
            issuer=provider.issuer,
            leeway=LEEWAY_SECONDS,
            options={
                "require": ["exp", "iat", "iss", "aud", "sub"],
                "enforce_minimum_key_length": True,
            },
        )
    except jwt.PyJWTError as error:
        raise AuthenticationFailed from error
    found = User.objects.filter(
        identities__issuer=provider.issuer, identities__subject=claims["sub"], is_active=True
    ).first()
    if found is None:
        raise AuthenticationFailed
    return found


def _key_of(token: str, provider: Provider) -> jwt.PyJWK:
    """The key that a token says it is signed with. Raises ``PyJWTError`` where the provider has none like it."""
    header = jwt.get_unverified_header(token)
    key_id = header.get("kid")
    # Before anybody is asked.
    if header.get("alg") not in ALGORITHMS or not isinstance(key_id, str):
        raise jwt.InvalidAlgorithmError
    key = _keys(provider.jwks_url).find(key_id)
    if key is None:
        raise jwt.InvalidKeyError
    return key


@lru_cache(maxsize=32)
def _keys(url: str) -> ProviderKeys:
    return ProviderKeys(url)
