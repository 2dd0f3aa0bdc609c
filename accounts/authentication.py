"""Authentication of people: a JWT says who, a membership says for which consumer."""

from typing import Any, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.tokens import Token

from accounts.acting import Member, acting_membership
from accounts.models import User
from accounts.sign_ins import has_ended

CONSUMER_HEADER = "X-Consumer-Id"


class MemberAuthentication(JWTAuthentication):
    """``request.user`` is the ``Member`` who acts, ``request.auth`` the token.

    Who belongs to several consumers names one in the header ``X-Consumer-Id``.
    """

    def authenticate(self, request: Request) -> tuple[Member, Token] | None:  # type: ignore[override]
        found = super().authenticate(request)
        if found is None:
            return None
        user, token = found
        if has_ended(token):
            raise AuthenticationFailed
        membership = acting_membership(cast(User, user), request.headers.get(CONSUMER_HEADER))
        member = Member(consumer_id=membership.consumer_id, actor=user.get_username(), membership=membership)
        return member, token


class MemberScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API documentation describes it."""

    target_class = "accounts.authentication.MemberAuthentication"
    name = "jwt"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A person's token, from `POST /api/v1/token`. Who belongs to several consumers "
            f"names one in the header `{CONSUMER_HEADER}`.",
        }
