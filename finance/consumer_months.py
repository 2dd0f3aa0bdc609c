"""What consumers used in a month, asked of the rollups, and what it comes to (``finance.charges``)."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from django.db.models import Q, Sum

from catalog.models import PriceVersion
from catalog.pricing import KINDS, Price, Tokens
from catalog.pricing_shapes import parse_pricing
from common import clock
from finance.charges import Charges, Use, charges
from metering.models import DailyUsageRollup, UsageRecord

_BY = ("consumer_id", "service_id", "price_version_id", "currency", "kind")


def charges_of(consumer_id: uuid.UUID, month: dt.date) -> list[Charges]:
    """What a UTC month of one consumer comes to, by currency. ``month``: its first day."""
    return [found for _, uses in uses_of(month, consumers=[consumer_id]) for found in charges(uses)]


def uses_of(
    month: dt.date, *, consumers: Collection[uuid.UUID] | None = None, service_id: uuid.UUID | None = None
) -> Iterator[tuple[uuid.UUID, list[Use]]]:
    """Each consumer that used something in a month, and what, prices in the order in which they began to hold."""
    whose = Q()
    if consumers is not None:
        whose &= Q(consumer_id__in=consumers)
    if service_id is not None:
        whose &= Q(service_id=service_id)
    yield from by_consumer(_sums(month, whose))


def by_consumer(rows: list[dict[str, Any]]) -> Iterator[tuple[uuid.UUID, list[Use]]]:
    """The same of sums that somebody else asked for, all of one month: what ``_BY`` names, tokens by kind, ``requests``
    (those that are charged) and ``cost``."""
    prices = _prices({row["price_version_id"] for row in rows})
    rows.sort(key=lambda row: (row["consumer_id"], prices[row["price_version_id"]][0], _is_correction(row)))
    for consumer, of_consumer in groupby(rows, key=itemgetter("consumer_id")):
        yield consumer, [_use(row, prices[row["price_version_id"]][1]) for row in of_consumer]


def _sums(month: dt.date, whose: Q) -> list[dict[str, Any]]:
    sums = {f"{kind}_tokens": Sum(f"{kind}_tokens") for kind in KINDS}
    found = DailyUsageRollup.objects.filter(whose, day__gte=month, day__lt=clock.next_month(month))
    return list(found.values(*_BY).annotate(**sums, requests=Sum("charged"), cost=Sum("cost_amount")))


def _is_correction(row: dict[str, Any]) -> bool:
    return bool(row["kind"] == UsageRecord.Kind.CORRECTION)


def _prices(ids: set[uuid.UUID]) -> dict[uuid.UUID, tuple[dt.datetime, Price]]:
    versions = PriceVersion.objects.filter(id__in=ids)
    return {version.id: (version.begins, parse_pricing(version.pricing)) for version in versions}


def _use(row: dict[str, Any], price: Price) -> Use:
    return Use(
        service_id=row["service_id"],
        price_version_id=row["price_version_id"],
        price=price,
        currency=row["currency"],
        tokens=Tokens(**{kind: int(row[f"{kind}_tokens"]) for kind in KINDS}),
        requests=int(row["requests"]),
        cost=row["cost"],
        correction=_is_correction(row),
    )
