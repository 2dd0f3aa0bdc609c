"""Keys as the REST API takes and shows them. The secret is in one answer only: the one that creates it."""

import dataclasses
import json
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension, OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction
from rest_framework import serializers

from accounts.budgets import MOST_BUDGET, Budget, BudgetPeriod
from catalog.models import Tier
from catalog.rendering import json_number
from common.networks import parse_network
from keys.issuing import LONGEST_OVERLAP
from keys.models import ApiKey, Scope

MOST_NETWORKS = 50
#: Bytes of a key's metadata, as JSON: the contract's bound for metadata.
MOST_METADATA = 1024
#: Beyond it no limit means anything, and 64-bit counters stay exact.
MOST_COUNT = 10**15


class Strict(serializers.Serializer[Any]):
    """A field that is not known is a mistake: ``expire_in_days`` must not make a key that never expires."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := set(data) - set(self.fields)):
            raise serializers.ValidationError(
                dict.fromkeys(["unknown_field"] * bool(unknown), "is not known")
            )
        return super().to_internal_value(data)


class StrictDescription(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """How the API documentation describes it."""

    target_class = "keys.serializers.Strict"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        described = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)  # type: ignore[no-untyped-call]
        return {**described, "additionalProperties": False}


class ExactField(serializers.DecimalField):
    """An amount of money: a text that says it exactly. A JSON number was rounded before it came here."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class ExactDescription(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """A text as it comes in, and a number as it goes out: the contract's."""

    target_class = "keys.serializers.ExactField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        if direction == "request":
            return {"type": "string", "pattern": r"^[0-9]{1,7}(\.[0-9]{1,9})?$"}
        return {"type": "number", "minimum": 0, "maximum": MOST_BUDGET}


class CountField(serializers.IntegerField):
    """A whole JSON number: neither a text nor ``true``."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class NetworkField(serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        try:
            return str(parse_network(text))
        except ValueError as error:
            raise serializers.ValidationError("not a network", code="network") from error


class BudgetSerializer(Strict):
    amount = ExactField(
        max_digits=16, decimal_places=9, min_value=0, max_value=MOST_BUDGET, help_text='A text: `"25.00"`'
    )
    currency = serializers.RegexField(r"\A[A-Z]{3}\Z", help_text="ISO 4217; services in it count")
    period = serializers.ChoiceField(choices=BudgetPeriod.choices)
    soft = serializers.BooleanField(
        default=False, help_text="It is told at 80 and 100 %, and refuses nothing"
    )

    def to_representation(self, instance: Budget) -> dict[str, Any]:
        return {**dataclasses.asdict(instance), "amount": json_number(instance.amount)}


class KeyLimitsSerializer(Strict):
    """Limits of this key alone, below those of the tier. 0 forbids, null is unlimited."""

    requests_per_second = CountField(min_value=0, max_value=2**31 - 1, allow_null=True, required=False)
    tokens_per_month = CountField(min_value=0, max_value=MOST_COUNT, allow_null=True, required=False)
    concurrent_requests = CountField(min_value=0, max_value=2**31 - 1, allow_null=True, required=False)
    tokens_per_minute = CountField(min_value=0, max_value=MOST_COUNT, allow_null=True, required=False)
    budget = BudgetSerializer(allow_null=True, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """As columns; a limit that is not named stays as it is."""
        if "budget" in attrs:
            budget = attrs.pop("budget") or {"amount": None, "currency": "", "period": "", "soft": False}
            attrs.update({f"budget_{name}": value for name, value in budget.items()})
        return attrs


class KeyOptionsSerializer(Strict):
    """What may be said of a key when it is made, and changed later."""

    name = serializers.CharField(required=False, allow_blank=True, max_length=100)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=Scope.choices),
        required=False,
        max_length=len(Scope.values),
        help_text="What it may be used for; what is not named is denied. A new key that names none has all",
    )
    allowed_networks = serializers.ListField(
        child=NetworkField(max_length=43),
        required=False,
        allow_null=True,
        allow_empty=False,
        max_length=MOST_NETWORKS,
        help_text="Networks (CIDR) it may be used from. Null: from anywhere",
    )
    limits = KeyLimitsSerializer(required=False)
    metadata = serializers.DictField(
        required=False, help_text=f"Yours: an object of at most {MOST_METADATA} bytes"
    )

    def validate_scopes(self, scopes: list[str]) -> list[str]:
        return [scope for scope in Scope.values if scope in scopes]

    def validate_allowed_networks(self, networks: list[str] | None) -> list[str] | None:
        return None if networks is None else list(dict.fromkeys(networks))

    def validate_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(metadata, ensure_ascii=False).encode()) > MOST_METADATA:
            raise serializers.ValidationError("too long", code="max_length")
        return metadata

    def options(self) -> dict[str, Any]:
        """What was said, as columns of ``ApiKey``."""
        said = {name: self.validated_data[name] for name in OPTIONS if name in self.validated_data}
        return {**{name: value for name, value in said.items() if name != "limits"}, **said.get("limits", {})}


OPTIONS = ("name", "scopes", "allowed_networks", "limits", "metadata")


class KeyRequestSerializer(KeyOptionsSerializer):
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
    environment = serializers.ChoiceField(
        choices=ApiKey.Environment.choices,
        default=ApiKey.Environment.LIVE,
        help_text="Test keys reach the services marked for testing, live keys the others",
    )
    expires_in_days = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=3650, help_text="Null: never"
    )


class KeyChangeSerializer(KeyOptionsSerializer):
    """What is not named stays as it is; ``limits`` likewise, limit by limit."""


class RotationSerializer(Strict):
    overlap_seconds = CountField(
        min_value=0,
        max_value=int(LONGEST_OVERLAP.total_seconds()),
        default=86_400,
        help_text="How long the old key goes on working. 0: it ends at once",
    )


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    service_id = serializers.UUIDField(allow_null=True)
    tier = serializers.CharField(source="tier_id")
    status = serializers.CharField(help_text="`active`, `expired` or `revoked`")
    limits = KeyLimitsSerializer(source="*")
    lineage_id = serializers.UUIDField(
        source="lineage", help_text="One for a key and all that rotation made of it"
    )
    generation = serializers.IntegerField(help_text="How many keys of its lineage came before it")

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "name",
            "last4",
            "service_id",
            "tier",
            "environment",
            "scopes",
            "allowed_networks",
            "limits",
            "status",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "lineage_id",
            "generation",
            "metadata",
        )
        read_only_fields = fields


class NewKeySerializer(KeySerializer):
    """A key just made, with its text in ``key``."""

    key = serializers.CharField(source="text", read_only=True, help_text="Shown here and never again")

    class Meta:
        model = ApiKey
        fields = ("id", "key", *KeySerializer.Meta.fields[1:])
        read_only_fields = fields


class GenerationSerializer(serializers.ModelSerializer[ApiKey]):
    status = serializers.CharField(help_text="`active`, `expired` or `revoked`")

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "generation",
            "last4",
            "status",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        )
        read_only_fields = fields


class KeyWithHistorySerializer(KeySerializer):
    history = GenerationSerializer(many=True, help_text="All keys of the lineage, the first one first")

    class Meta:
        model = ApiKey
        fields = (*KeySerializer.Meta.fields, "history")
        read_only_fields = fields
