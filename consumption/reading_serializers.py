"""Quota and usage as the REST API shows them."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

_AMOUNT = {"oneOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}]}
_KNOWN_AMOUNT = {"oneOf": [*_AMOUNT["oneOf"], {"type": "null"}]}


@extend_schema_field(_AMOUNT)
class AmountField(serializers.Field[Any, Any, Any, Any]):
    """A count as a number; money as a text, so that nobody reads it as a float."""

    def to_representation(self, value: int | str) -> int | str:
        return value


@extend_schema_field(_KNOWN_AMOUNT)
class KnownAmountField(AmountField):
    """The same, or null where live counters cannot be read."""


class LimitSerializer(serializers.Serializer[Any]):
    """One limit. What a bucket lacks counts as used; calls that run count as used too."""

    name = serializers.CharField(
        help_text="requests_per_second, concurrent_requests, tokens_per_minute, tokens_per_month, budget_per_day or "
        "budget_per_month"
    )
    scope = serializers.CharField(
        help_text="service: all calls of the consumer at the service; key: all calls with the key; consumer: all calls"
    )
    limit = AmountField(help_text="0 forbids")
    used = KnownAmountField(help_text="null where live counters cannot be read")
    reserved = KnownAmountField(help_text="Held by running calls, of which some may come back")
    reset_at = serializers.DateTimeField(
        allow_null=True, help_text="When the period ends, or the bucket is full; null for calls that run"
    )
    currency = serializers.CharField(allow_null=True, help_text="Of a budget, whose amounts are texts")
    soft = serializers.BooleanField(help_text="It is told at 80 and 100 %, and refuses nothing")


class QuotaSerializer(serializers.Serializer[Any]):
    """Tokens of the current UTC month. Without a limit, total and remaining are null."""

    service_id = serializers.UUIDField()
    consumer_id = serializers.UUIDField()
    tier = serializers.CharField()
    used_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField(allow_null=True)
    remaining_tokens = serializers.IntegerField(allow_null=True)
    reset_at = serializers.DateTimeField()
    exceeded = serializers.BooleanField()
    reserved_tokens = serializers.IntegerField(
        allow_null=True, help_text="Held by running calls; null where live counters cannot be read"
    )
    limits = LimitSerializer(many=True, help_text="All limits beside this one")


class UsageStatisticsSerializer(serializers.Serializer[Any]):
    """What a consumer used of a service, over whole UTC days."""

    service_id = serializers.UUIDField()
    consumer_id = serializers.UUIDField()
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    total_requests = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    total_cost = serializers.DecimalField(
        max_digits=None,
        decimal_places=None,
        coerce_to_string=False,
        help_text="In the currency of the service's price, rounded half up to its minor unit",
    )
    avg_latency_ms = serializers.FloatField()
    error_rate = serializers.FloatField(help_text="Between 0 and 1")
