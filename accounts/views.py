"""Signing in over the REST API."""

from typing import Any

from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

from accounts.serializers import (
    CredentialsSerializer,
    RefreshSerializer,
    RenewedSerializer,
    RenewSerializer,
    SignInSerializer,
    TokensSerializer,
)
from common.parsing import StrictJSONParser
from common.problem_schema import problems


@method_decorator(never_cache, name="dispatch")
class TokenView(TokenObtainPairView):
    parser_classes = (StrictJSONParser,)
    serializer_class = SignInSerializer

    @extend_schema(
        operation_id="token_create",
        summary="Sign in",
        tags=["accounts"],
        auth=[],
        request=CredentialsSerializer,
        responses={200: TokensSerializer, **problems(400, 401, 413, 415, 422, 429, 503)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Username and password for a pair of tokens."""
        return super().post(request, *args, **kwargs)


@method_decorator(never_cache, name="dispatch")
class TokenRenewView(TokenRefreshView):
    parser_classes = (StrictJSONParser,)
    serializer_class = RenewSerializer

    @extend_schema(
        operation_id="token_refresh",
        summary="Renew the tokens",
        tags=["accounts"],
        auth=[],
        request=RefreshSerializer,
        responses={200: RenewedSerializer, **problems(400, 401, 413, 415, 422)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A refresh token for a new access token and the next refresh token. Using one again ends the sign-in."""
        return super().post(request, *args, **kwargs)
