"""FOCUS (FinOps Open Cost and Usage Specification), versions 1.4 and 1.2: one row a day, price and kind of token.

What the columns mean is the specification's; how they are filled here is in ``docs/adr/0030-focus-exports.md``.
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from django.conf import settings

from catalog.pricing import EXACT, REQUEST, TOKEN
from common import clock
from common.money import plain
from finance.cells import harmless
from finance.charges import Category, ChargeLine, sum_of
from finance.focus_usage import Group, MonthLine

Row = dict[str, str]
_EITHER = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId",
    "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ResourceId",
    "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceId", "Tags",
)  # fmt: skip
_OURS = ("x_PriceVersionId", "x_RequestCount", "x_RowsDigest")
#: By version of the specification, in alphabetical order, and then ours.
COLUMNS = {
    "1.4": (*sorted((*_EITHER, "HostProviderName", "InvoiceDetailId", "ServiceProviderName")), *_OURS),
    "1.2": (*sorted((*_EITHER, "ProviderName", "PublisherName")), *_OURS),
}
_METERS = {
    "prompt": "Input Tokens", "completion": "Output Tokens", "cached": "Cache Read Input Tokens",
    "cache_write": "Cache Write Input Tokens", "reasoning": "Reasoning Output Tokens",
    "audio_prompt": "Audio Input Tokens", "audio_completion": "Audio Output Tokens", TOKEN: "Tokens",
    REQUEST: "Requests",
}  # fmt: skip
#: Category, frequency and words of the lines that a month adds.
_OF_MONTH = {
    Category.STEP: ("Credit", "One-Time", "What the month's quantity gives back"),
    Category.FEE: ("Purchase", "Recurring", "Monthly fee"),
    Category.MINIMUM: ("Adjustment", "One-Time", "What is missing to the month's least amount"),
    Category.ROUNDING: ("Adjustment", "One-Time", "Rounding to what is payable"),
}


def rows(found: Iterable[Group | MonthLine]) -> Iterator[Row]:
    """The rows of a file, with the columns of every version; their ``BilledCost`` adds up to the ledger's costs, and
    for whole months to what is payable."""
    for each in found:
        if isinstance(each, Group):
            yield from _of_group(each)
        else:
            yield _of_month(each)


def _of_group(group: Group) -> Iterator[Row]:
    use, amounts = group.use, []
    if use.price.currency == use.currency and not use.correction:
        for counted, quantity in use.price.counts(use.tokens, use.requests).items():
            if quantity:
                amount = EXACT.multiply(use.price.unit_rates[counted], quantity)
                amounts.append(amount)
                yield _usage(group, counted, quantity, amount)
    left = EXACT.subtract(use.cost, sum_of(amounts))
    if left:
        yield _left(group, left)


def _usage(group: Group, counted: str, quantity: int, amount: Decimal) -> Row:
    is_tokens = counted != REQUEST
    unit = group.unit if is_tokens else 1
    meter = _METERS[counted]
    price = plain(EXACT.multiply(group.use.price.unit_rates[counted], unit))
    return {
        **_of_day(group),
        **_cost(amount),
        "ChargeCategory": "Usage",
        "ChargeDescription": harmless(f"{meter} of {group.service}@{group.version}"),
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": str(quantity),
        "ConsumedUnit": "Tokens" if is_tokens else "Requests",
        "ContractedUnitPrice": price,
        "ListUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingQuantity": plain(EXACT.divide(Decimal(quantity), Decimal(unit))),
        "PricingUnit": "Requests" if not is_tokens else "Tokens" if unit == 1 else f"{unit} Tokens",
        "SkuId": str(group.service_id),
        "SkuMeter": meter,
        "SkuPriceId": f"{group.use.price_version_id}/{counted}",
    }


def _left(group: Group, amount: Decimal) -> Row:
    """A correction, or what rows cost beside what their price says."""
    is_correction = group.use.correction
    return {
        **_of_day(group),
        **_cost(amount),
        "ChargeCategory": "Usage" if group.of_closed else "Adjustment",
        "ChargeClass": "Correction" if group.of_closed else "",
        "ChargeDescription": harmless(
            f"{'Correction of usage' if is_correction else 'Recorded beside the price'} of "
            f"{group.service}@{group.version}"
        ),
        "ChargeFrequency": "Usage-Based" if group.of_closed else "One-Time",
    }


def _of_day(group: Group) -> Row:
    tags = {name: value for name, value in group.tags.items() if isinstance(value, str | int | bool)}
    return {
        **_of_consumer(group, group.use.currency, group.day.replace(day=1)),
        **_of_service(group),
        "ChargePeriodStart": _moment(clock.day_start(group.day)),
        "ChargePeriodEnd": _moment(clock.day_start(group.day + dt.timedelta(days=1))),
        "ResourceId": str(group.api_key_id),
        "ResourceName": harmless(group.key_name),
        "ResourceType": "API Key",
        "Tags": json.dumps(tags, ensure_ascii=False) if tags else "",
        "x_PriceVersionId": str(group.use.price_version_id),
        "x_RequestCount": str(group.rows),
        "x_RowsDigest": group.digest,
    }


def _of_month(found: MonthLine) -> Row:
    line, group = found.line, found.group
    category, frequency, words = _OF_MONTH[line.category]
    row = {
        **_of_consumer(group, line.currency, found.month),
        **(_of_service(group) if line.service_id else _of_marketplace()),
        **_cost(line.amount),
        "ChargeCategory": category,
        "ChargeDescription": words,
        "ChargeFrequency": frequency,
        "ChargePeriodStart": _moment(clock.month_start(found.month)),
        "ChargePeriodEnd": _moment(clock.month_start(clock.next_month(found.month))),
        "x_PriceVersionId": str(line.price_version_id or ""),
    }
    return row | _priced(line) if line.category is Category.FEE else row


def _priced(line: ChargeLine) -> Row:
    rate = plain(line.rate)
    return {
        "ContractedUnitPrice": rate,
        "ListUnitPrice": rate,
        "PricingCategory": "Committed",
        "PricingQuantity": plain(line.quantity),
        "PricingUnit": "Months",
        "SkuId": str(line.service_id),
        "SkuMeter": "Subscription",
        "SkuPriceId": f"{line.price_version_id}/fee",
    }


def _of_consumer(group: Group, currency: str, month: dt.date) -> Row:
    return {
        "BillingAccountId": str(group.consumer_id),
        "BillingAccountName": harmless(group.consumer),
        "BillingCurrency": currency,
        "BillingPeriodStart": _moment(clock.month_start(month)),
        "BillingPeriodEnd": _moment(clock.month_start(clock.next_month(month))),
        "InvoiceIssuerName": settings.INVOICE_ISSUER,
    }


def _of_service(group: Group) -> Row:
    return _named(harmless(f"{group.service}@{group.version}"), harmless(group.host))


def _of_marketplace() -> Row:
    return _named(settings.INVOICE_ISSUER, "")


def _named(service: str, host: str) -> Row:
    return {
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": service,
        "ServiceSubcategory": "Generative AI",
        "HostProviderName": host,
        "ServiceProviderName": settings.INVOICE_ISSUER,
        "ProviderName": settings.INVOICE_ISSUER,
        "PublisherName": settings.INVOICE_ISSUER,
    }


def _cost(amount: Decimal) -> Row:
    told = plain(amount)
    return {"BilledCost": told, "ContractedCost": told, "EffectiveCost": told, "ListCost": told}


def _moment(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def written(row: Row, version: str) -> list[Any]:
    """One row in the columns of a version."""
    return [row.get(name, "") for name in COLUMNS[version]]
