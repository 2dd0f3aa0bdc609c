"""Keys as the REST API takes and shows them. The secret is in one answer only: the one that creates it."""

from typing import Any

from rest_framework import serializers

from catalog.models import Tier
from common import clock
from keys.models import ApiKey


class KeyRequestSerializer(serializers.Serializer[Any]):
    service_id = serializers.UUIDField(
        required=False,
        allow_null=True,
        default=None,
        help_text="The one service it is for. Null: every service that the consumer is entitled to, each at "
        "the tier of its entitlement",
    )
    tier = serializers.SlugRelatedField(
        slug_field="name",
        queryset=Tier.objects.all(),
        help_text="At most the tier of the entitlement; without a service, at most the lowest of them",
    )
    name = serializers.CharField(required=False, allow_blank=True, default="", max_length=100)
    expires_in_days = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=3650, help_text="Null: never"
    )

    def to_internal_value(self, data: Any) -> Any:
        """A field that is not known is a mistake: ``expire_in_days`` must not make a key that never expires."""
        if isinstance(data, dict) and (unknown := set(data) - set(self.fields)):
            raise serializers.ValidationError(
                dict.fromkeys(["unknown_field"] * bool(unknown), "is not known")
            )
        return super().to_internal_value(data)


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    service_id = serializers.UUIDField(allow_null=True)
    tier = serializers.CharField(source="tier_id")
    status = serializers.SerializerMethodField()

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "name",
            "last4",
            "service_id",
            "tier",
            "status",
            "created_at",
            "expires_at",
            "revoked_at",
        )
        read_only_fields = fields

    def get_status(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        return "active" if key.usable(clock.now()) else "expired"


class NewKeySerializer(KeySerializer):
    """A key just made, with its text in ``key``."""

    key = serializers.CharField(source="text", read_only=True, help_text="Shown here and never again")

    class Meta:
        model = ApiKey
        fields = ("id", "key", *KeySerializer.Meta.fields[1:])
        read_only_fields = fields
