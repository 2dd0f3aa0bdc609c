"""Signing in over the REST API."""

from typing import Any

from django.contrib.auth.signals import user_logged_in
from rest_framework import serializers
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.serializers import (
    TokenObtainPairSerializer,
    TokenObtainSerializer,
    TokenRefreshSerializer,
)
from rest_framework_simplejwt.tokens import RefreshToken, Token

from accounts import attempts, second_factor, sign_ins
from accounts.errors import SecondFactorRequired
from accounts.models import Membership, User
from audit.trail import address_of


class SignInSerializer(TokenObtainPairSerializer):
    """Username and password for a pair of tokens, and for which consumers they are good."""

    user: User
    otp = serializers.CharField(required=False, max_length=64, write_only=True)

    @classmethod
    def get_token(cls, user: User) -> Token:  # type: ignore[override]  # its stub knows any user
        return sign_ins.begin(user=user)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        request = self.context["request"]
        tokens: dict[str, Any]
        with attempts.one_attempt(username=attrs["username"], address=address_of(request)):
            try:
                TokenObtainSerializer.validate(self, attrs)
                with attempts.wrong_codes_counted(request=request, username=attrs["username"]):
                    self._ask_for_second_factor(attrs.get("otp"), address_of(request))
                refresh = self.get_token(self.user)
                tokens = {"refresh": str(refresh), "access": str(refresh.access_token)}  # type: ignore[attr-defined]  # a refresh token, of get_token above
            except AuthenticationFailed as error:
                if getattr(request, "axes_locked_out", False):
                    raise attempts.locked_out() from error
                raise
            attempts.forget_failures(request=request, username=attrs["username"])
            # Sets the time of the last sign-in.
            user_logged_in.send(sender=User, request=request, user=self.user)
        memberships = self.user.memberships.select_related("consumer").order_by("consumer__name", "id")
        return {**tokens, "consumers": ActsForSerializer(memberships, many=True).data}

    def _ask_for_second_factor(self, code: str | None, address: str | None) -> None:
        """After the password: who has it wrong learns nothing of a second factor."""
        if not second_factor.is_asked_of(self.user):
            return
        if code is None:
            raise SecondFactorRequired
        second_factor.verify(self.user, code, address=address)


class RenewSerializer(TokenRefreshSerializer):
    """A refresh token for the next pair of tokens."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        presented = RefreshToken(attrs["refresh"])
        user = User.objects.filter(pk=presented["user_id"], is_active=True).first()
        if user is None:
            raise AuthenticationFailed
        renewed = sign_ins.renew(user=user, presented=presented)
        return {"access": str(renewed.access_token), "refresh": str(renewed)}


class ActsForSerializer(serializers.ModelSerializer[Membership]):
    """A consumer that the person may act for; its id goes into ``X-Consumer-Id``."""

    id = serializers.UUIDField(source="consumer_id")
    name = serializers.CharField(source="consumer.name")

    class Meta:
        model = Membership
        fields = ("id", "name", "role")


class CredentialsSerializer(serializers.Serializer[Any]):
    username = serializers.CharField()
    password = serializers.CharField(style={"input_type": "password"})
    otp = serializers.CharField(
        required=False,
        max_length=64,
        help_text="Of who has a second factor: a code of the app, or one on paper",
    )


class TokensSerializer(serializers.Serializer[Any]):
    access = serializers.CharField(help_text="Goes into `Authorization: Bearer …`; good for 24 hours")
    refresh = serializers.CharField(help_text="Buys the next access token; good for 30 days")
    consumers = ActsForSerializer(many=True)


class RefreshSerializer(serializers.Serializer[Any]):
    refresh = serializers.CharField()


class RenewedSerializer(serializers.Serializer[Any]):
    access = serializers.CharField()
    refresh = serializers.CharField(
        help_text="The next one. The one before is used: if it comes again, all ends"
    )
