"""Quota and usage as the REST API shows them."""

from typing import Any

from rest_framework import serializers


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
