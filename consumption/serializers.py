"""The shapes of ``POST /consume`` and the probes, for the OpenAPI document. The gateway itself parses by hand:
``consumption.dialects.marketplace`` is what decides."""

from rest_framework import serializers


class MessageSerializer(serializers.Serializer[dict[str, object]]):
    role = serializers.ChoiceField(choices=("system", "developer", "user", "assistant", "tool"))
    content = serializers.CharField()


class ConsumeRequestSerializer(serializers.Serializer[dict[str, object]]):
    prompt = serializers.CharField(required=False, help_text="Either this or messages.")
    messages = MessageSerializer(many=True, required=False)
    max_tokens = serializers.IntegerField(min_value=1, max_value=10_000_000, required=False)
    temperature = serializers.FloatField(min_value=0, max_value=2, required=False)
    top_p = serializers.FloatField(min_value=0, max_value=1, required=False)
    n = serializers.IntegerField(min_value=1, max_value=16, required=False)
    metadata = serializers.DictField(
        required=False,
        help_text="At most 1 KB; stored with the usage record. data_classification is a policy's.",
    )


class ChoiceSerializer(serializers.Serializer[dict[str, object]]):
    text = serializers.CharField()
    finish_reason = serializers.CharField(allow_null=True)


class ConsumeContentSerializer(serializers.Serializer[dict[str, object]]):
    choices = ChoiceSerializer(many=True)


class UsageSerializer(serializers.Serializer[dict[str, object]]):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class BreakdownSerializer(UsageSerializer):
    rate_per_token = serializers.FloatField(required=False)
    rate_per_request = serializers.FloatField(required=False)
    rates = serializers.DictField(child=serializers.FloatField(), required=False)


class CostSerializer(serializers.Serializer[dict[str, object]]):
    amount = serializers.FloatField(help_text="Exact: a plain decimal number.")
    currency = serializers.CharField()
    breakdown = BreakdownSerializer()


class ConsumeResponseSerializer(serializers.Serializer[dict[str, object]]):
    request_id = serializers.UUIDField()
    response = ConsumeContentSerializer()
    usage = UsageSerializer()
    cost = CostSerializer()
    latency_ms = serializers.IntegerField()


class HealthSerializer(serializers.Serializer[dict[str, object]]):
    status = serializers.CharField()


class ReadinessSerializer(HealthSerializer):
    dependencies = serializers.DictField(child=serializers.CharField())
