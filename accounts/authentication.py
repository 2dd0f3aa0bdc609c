"""Authentication of people: a JWT says who, a membership says for which consumer."""

from typing import Any, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.tokens import Token

from accounts import openid
from accounts.acting import Member, acting_membership
from accounts.models import User
from accounts.sign_ins import has_ended

CONSUMER_HEADER = "X-Consumer-Id"


class MemberAuthentication(JWTAuthentication):
    """``request.user`` is the ``Member`` who acts, ``request.auth`` the token where it is ours.

    Who belongs to several consumers names one in the header ``X-Consumer-Id``.
    """

    def authenticate(self, request: Request) -> tuple[Member, Token | None] | None:  # type: ignore[override]  # a member, no user
        found = self._person(request)
        if found is None:
            return None
        user, token = found
        membership = acting_membership(user, request.headers.get(CONSUMER_HEADER))
        member = Member(consumer_id=membership.consumer_id, actor=user.get_username(), membership=membership)
        return member, token

    def _person(self, request: Request) -> tuple[User, Token | None] | None:
        """By a token of ours, or of an OpenID provider."""
        header = self.get_header(request)
        raw = None if header is None else self.get_raw_token(header)
        if raw is None:
            return None
        text = raw.decode("latin-1")
        if (provider := openid.provider_of(text)) is not None:
            return openid.user_of(text, provider), None
        token = self.get_validated_token(raw)
        user = cast(User, self.get_user(token))
        if has_ended(token):
            raise AuthenticationFailed
        return user, token


class MemberScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its base has no types
    """How the API documentation describes it."""

    target_class = "accounts.authentication.MemberAuthentication"
    name = "jwt"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A person's token, from `POST /api/v1/token` or their OpenID provider. Who belongs to "
            f"several consumers names one in the header `{CONSUMER_HEADER}`.",
        }
