"""A price as an operator enters it: rates for one, a thousand or a million tokens, each with steps where it has any.

What comes out is a price as ``catalog.pricing_shapes`` reads it, and that alone decides whether it is one.
"""

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from catalog.pricing import GROUPS, KINDS
from catalog.validators import validate_pricing

#: What a price counts, and by which name it says the rate.
_RATE_NAMES = {"token": "rate_per_token", "kind": "rates", "request": "rate_per_request"}  # prices  # nosec B105
#: ``3 up to 1000000``: a step of a rate that depends on the month's quantity.
_STEP = re.compile(r"(\S+)\s+up\s+to\s+(\d+)", re.IGNORECASE)
_AS_WRITTEN = {"size": 40, "autocomplete": "off"}


def _rate_field(label: str, help_text: str = "") -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        max_length=1000,
        help_text=help_text,
        widget=forms.TextInput(attrs=_AS_WRITTEN),
    )


class PriceForm(forms.Form):
    """``pricing()`` is the price that was entered, once the form is valid."""

    counted = forms.ChoiceField(
        label="What is charged",
        choices=(
            ("token", "all tokens at one rate"),
            ("kind", "tokens by their kind"),
            ("request", "requests"),
            ("nothing", "nothing beyond the monthly fee"),
        ),
    )
    currency = forms.CharField(max_length=3, widget=forms.TextInput(attrs={"size": 4}))
    unit = forms.TypedChoiceField(
        label="Rates of tokens are for",
        choices=((1, "1 token"), (1_000, "1,000 tokens"), (1_000_000, "1,000,000 tokens")),
        coerce=int,
    )
    rate = _rate_field("Rate", "Of all tokens, or of a request. With steps: 3 up to 1000000, then 2")
    tiers = forms.ChoiceField(
        label="Steps of a month",
        required=False,
        choices=(
            ("", "there are none"),
            ("graduated", "graduated: each step's rate for what lies in it"),
            ("volume", "volume: the last step reached holds for all of the month"),
        ),
    )
    fee_per_month = _rate_field(
        "Fee a month", "With it, or with something included, the price is a subscription."
    )
    included = forms.IntegerField(
        required=False,
        min_value=0,
        help_text="Tokens or requests a month that the fee covers. Of one rate alone.",
    )
    minimum_per_month = _rate_field("Minimum a month", "What a month comes to at least.")
    price_from = forms.DateTimeField(
        required=False,
        label="Holds from",
        help_text="UTC. Blank: from now on. Calls made since a moment in the past cost what they did, until reprice.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parts = {part: group for group, of_group in GROUPS.items() for part in of_group}
        for kind in KINDS:
            help_text = f"Blank: as {parts[kind]}." if kind in parts else ""
            self.fields[kind] = _rate_field(kind.replace("_", " ").capitalize(), help_text)
        after = list(self.fields)
        where = after.index("rate") + 1
        self.order_fields([*after[:where], *KINDS, *after[where : -len(KINDS)]])

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            validate_pricing(self.pricing())
        return cleaned

    def pricing(self) -> dict[str, Any]:
        """What was entered, as prices are written. Raises ``ValidationError`` where a field says nothing for it."""
        said = self.cleaned_data
        counted, included = said["counted"], said["included"]
        optional = {
            "fee_per_month": said["fee_per_month"] or None,
            "included": included or None,
            "minimum_per_month": said["minimum_per_month"] or None,
            "tiers": said["tiers"] or None,
            "unit": said["unit"] if counted in ("token", "kind") and said["unit"] != 1 else None,
        }
        is_subscription = bool(said["fee_per_month"] or included or counted == "nothing")
        return {
            "model": "subscription"
            if is_subscription
            else f"per_{'request' if counted == 'request' else 'token'}",
            "currency": said["currency"].upper(),
            **self._rates(counted),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _rates(self, counted: str) -> dict[str, Any]:
        said = self.cleaned_data
        if counted == "nothing":
            return {}
        if counted == "kind":
            return {"rates": {kind: _ladder(said[kind]) for kind in KINDS if said[kind]}}
        if not said["rate"]:
            raise ValidationError("Say the rate")
        return {_RATE_NAMES[counted]: _ladder(said["rate"])}


def _ladder(text: str) -> Any:
    """``"3"`` as it is; ``"3 up to 1000000, then 2"`` as steps."""
    steps = [step.strip().removeprefix("then ").strip() for step in text.split(",")]
    if len(steps) == 1:
        return steps[0]
    return [_step(step) for step in steps[:-1]] + [{"rate": steps[-1]}]


def _step(text: str) -> dict[str, Any]:
    said = _STEP.fullmatch(text)
    if said is None:
        raise ValidationError("Every step but the last says how far it goes: 3 up to 1000000, then 2")
    return {"up_to": int(said[2]), "rate": said[1]}


def entered(pricing: dict[str, Any]) -> dict[str, Any] | None:
    """What the form's fields say for a price; None for one that it cannot say, with something included by kind."""
    if isinstance(pricing.get("included"), dict):
        return None
    counted = next((counted for counted, name in _RATE_NAMES.items() if name in pricing), "nothing")
    rates = pricing.get("rates", {})
    return {
        "counted": counted,
        "currency": pricing.get("currency"),
        "unit": pricing.get("unit", 1),
        "rate": _as_text(pricing.get(_RATE_NAMES.get(counted, "")))
        if counted in ("token", "request")
        else "",
        **{kind: _as_text(rates.get(kind)) for kind in KINDS},
        **{
            name: pricing.get(name, "")
            for name in ("tiers", "fee_per_month", "included", "minimum_per_month")
        },
    }


def _as_text(rate: Any) -> str:
    if isinstance(rate, list):
        *steps, last = rate
        return ", ".join(
            [*(f"{step['rate']} up to {step['up_to']}" for step in steps), f"then {last['rate']}"]
        )
    return "" if rate is None else str(rate)
