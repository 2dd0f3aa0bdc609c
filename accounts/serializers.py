"""Signing in over the REST API."""

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from rest_framework import serializers
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer, TokenRefreshSerializer

from accounts.models import Membership, User


class SignInSerializer(TokenObtainPairSerializer):
    """Username and password for a pair of tokens, and for which consumers they are good."""

    user: User

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        tokens: dict[str, Any] = super().validate(attrs)
        memberships = self.user.memberships.select_related("consumer").order_by("consumer__name", "id")
        return {**tokens, "consumers": ActsForSerializer(memberships, many=True).data}


class RenewSerializer(TokenRefreshSerializer):
    """A refresh token for a new access token."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            renewed: dict[str, Any] = super().validate(attrs)
        except ObjectDoesNotExist as error:
            raise AuthenticationFailed from error  # the person was deleted after signing in
        return renewed


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


class TokensSerializer(serializers.Serializer[Any]):
    access = serializers.CharField(help_text="Goes into `Authorization: Bearer …`; good for 24 hours")
    refresh = serializers.CharField(help_text="Buys the next access token; good for 30 days")
    consumers = ActsForSerializer(many=True)


class RefreshSerializer(serializers.Serializer[Any]):
    refresh = serializers.CharField()


class AccessSerializer(serializers.Serializer[Any]):
    access = serializers.CharField()
