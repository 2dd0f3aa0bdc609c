"""Services as the REST API shows them to those who may call them."""

from typing import Any

from rest_framework import serializers

from catalog.models import Entitlement, Service
from catalog.pricing import PARTS
from catalog.pricing_shapes import parse_pricing
from catalog.rendering import json_number


class StepSerializer(serializers.Serializer[Any]):
    """A rate up to a quantity of the month; null: beyond all others."""

    up_to = serializers.IntegerField(allow_null=True)
    rate = serializers.DecimalField(max_digits=None, decimal_places=None, coerce_to_string=False)


class PricingSerializer(serializers.Serializer[Any]):
    """Which rates there are follows from the model. Numbers are exact decimals."""

    model = serializers.ChoiceField(choices=["per_token", "per_request", "subscription"])
    currency = serializers.CharField(help_text="ISO 4217")
    rate_per_token = serializers.DecimalField(
        max_digits=None, decimal_places=None, required=False, coerce_to_string=False
    )
    rates = serializers.DictField(
        child=serializers.DecimalField(max_digits=None, decimal_places=None, coerce_to_string=False),
        required=False,
        help_text="By kind, each for one token: prompt, completion, and where they differ "
        + ", ".join(PARTS),
    )
    rate_per_request = serializers.DecimalField(
        max_digits=None, decimal_places=None, required=False, coerce_to_string=False
    )
    tiers = serializers.ChoiceField(
        choices=["graduated", "volume"],
        required=False,
        help_text="How steps hold: each for what lies in it, or the last one reached for all of the month.",
    )
    steps = serializers.DictField(
        child=StepSerializer(many=True),
        required=False,
        help_text="Where a rate depends on the month's quantity, by what is counted: a kind, token or request. "
        "The rate that is told besides is the highest of them, and a call costs that.",
    )
    fee_per_month = serializers.DecimalField(
        max_digits=None, decimal_places=None, required=False, coerce_to_string=False
    )
    minimum_per_month = serializers.DecimalField(
        max_digits=None, decimal_places=None, required=False, coerce_to_string=False
    )

    def to_representation(self, instance: Any) -> dict[str, Any]:
        price = parse_pricing(instance)
        shown: dict[str, Any] = {"model": price.model, "currency": price.currency}
        if price.single:
            shown["rate_per_token"] = json_number(price.rates["prompt"])
        elif price.rates:
            shown["rates"] = {kind: json_number(rate) for kind, rate in price.rates.items()}
        elif price.unit_rates:
            shown["rate_per_request"] = json_number(price.per_request)
        if price.steps:
            shown["tiers"] = "volume" if price.volume else "graduated"
            shown["steps"] = {
                counted: [{"up_to": step.up_to, "rate": json_number(step.rate)} for step in steps]
                for counted, steps in price.steps.items()
            }
        for name, amount in (("fee_per_month", price.fee), ("minimum_per_month", price.least)):
            if amount:
                shown[name] = json_number(amount)
        return shown


class LimitsSerializer(serializers.Serializer[Entitlement]):
    """0 forbids, null is unlimited."""

    tier = serializers.CharField(source="tier.name")
    requests_per_second = serializers.IntegerField(source="in_force.requests_per_second", allow_null=True)
    tokens_per_month = serializers.IntegerField(source="in_force.tokens_per_month", allow_null=True)


class OfferSerializer(serializers.ModelSerializer[Entitlement]):
    """A service that the caller may call, at the price in force and within the limits in force."""

    id = serializers.UUIDField(source="service_id")
    name = serializers.CharField()
    version = serializers.CharField()
    status = serializers.ChoiceField(
        source="service.status", choices=[str(status) for status in Service.SERVED]
    )
    region = serializers.CharField(source="service.region")
    pricing = PricingSerializer(source="price", allow_null=True)
    sla = serializers.DictField(source="service.sla", child=serializers.FloatField())
    limits = LimitsSerializer(source="*")
    default_max_tokens = serializers.IntegerField(source="service.default_max_tokens")
    outage_mode = serializers.ChoiceField(
        source="service.outage_mode",
        choices=Service.OutageMode.values,
        help_text="What becomes of calls while limits cannot be counted: closed, they are answered 503; local, "
        "some are served.",
    )

    class Meta:
        model = Entitlement
        fields = (
            "id", "name", "version", "status", "region", "pricing", "sla", "limits", "default_max_tokens",
            "outage_mode",
        )  # fmt: skip
        read_only_fields = fields
