"""What a FOCUS file is made of: the ledger by day, consumer, service, key and price version, and what months add."""

import csv
import datetime as dt
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import groupby
from typing import Any

from catalog.pricing import EXACT, KINDS, Price, Tokens
from catalog.pricing_shapes import parse_pricing
from common import clock
from finance.charges import Category, ChargeLine, Use, charges

#: Lines of a month that no single day makes.
OF_MONTH = (Category.STEP, Category.FEE, Category.MINIMUM, Category.ROUNDING)
_TOKENS = ", ".join(f"sum(coalesce((r.usage->>'{kind}_tokens')::bigint, 0)) AS {kind}" for kind in KINDS)
# The month that a correction corrects is in the id of the request.
_MONTH_OF_REQUEST = """date_trunc('month', to_timestamp(
    ('x' || substr(replace(r.request_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC')"""
_SELECT = f"""
    SELECT g.*, c.name AS consumer, s.name AS service_name, s.version AS service_version,
        substring(s.endpoint from '^https?://([^/:?#]+)') AS host, k.name AS key_name, k.metadata::text AS tags,
        p.pricing::text AS pricing, p.effective_from
    FROM (
        SELECT (r."timestamp" AT TIME ZONE 'UTC')::date AS day, r.consumer_id, r.service_id, r.api_key_id,
            r.price_version_id, r.currency, r.kind = 'correction' AS correction,
            r.kind = 'correction' AND {_MONTH_OF_REQUEST} < date_trunc('month', r."timestamp" AT TIME ZONE 'UTC')
                AS of_closed, count(*) AS rows,
            count(*) FILTER (WHERE r.usage->>'usage_source' <> 'none') AS charged, {_TOKENS},
            sum(r.cost_amount) AS cost,
            encode(sha256(convert_to(
                string_agg(r.id || ' ' || trim_scale(r.cost_amount), E'\\n' ORDER BY r.id), 'UTF8'
            )), 'hex') AS digest
        FROM usage_records r WHERE {{where}} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ) g
    LEFT JOIN consumers c ON c.id = g.consumer_id LEFT JOIN services s ON s.id = g.service_id
    LEFT JOIN api_keys k ON k.id = g.api_key_id LEFT JOIN price_versions p ON p.id = g.price_version_id
    ORDER BY g.consumer_id, date_trunc('month', g.day), g.day, g.service_id, p.effective_from, g.price_version_id,
        g.api_key_id, g.currency, g.correction, g.of_closed
"""  # noqa: S608 - names of columns alone  # nosec B608


def select() -> str:
    """The question to the ledger. The caller's ``WHERE`` speaks of ``r``."""
    return _SELECT


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of the ledger that differ in nothing but their numbers. ``digest``: SHA-256 of their ids and costs.

    ``of_closed``: they correct rows of an earlier month.
    """

    day: dt.date
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    api_key_id: uuid.UUID
    consumer: str
    service: str
    version: str
    host: str
    key_name: str
    tags: dict[str, Any]
    unit: int
    begins: str
    rows: int
    digest: str
    of_closed: bool
    use: Use


@dataclass(frozen=True, slots=True)
class MonthLine:
    """A line of a consumer's whole month; ``group``: one of its service, for its names (any where it has none)."""

    month: dt.date
    line: ChargeLine
    group: Group


@cache
def _price(pricing: str) -> tuple[Price, int]:
    shape = json.loads(pricing)
    return parse_pricing(shape), int(shape.get("unit", 1))


def groups(lines: Iterable[str]) -> Iterator[Group]:
    """The groups in what was copied."""
    for row in csv.DictReader(lines):
        price, unit = _price(row["pricing"])
        is_correction = row["correction"] == "t"
        tokens = Tokens(**{kind: 0 if is_correction else int(row[kind]) for kind in KINDS})
        use = Use(
            service_id=uuid.UUID(row["service_id"]),
            price_version_id=uuid.UUID(row["price_version_id"]),
            price=price,
            currency=row["currency"],
            tokens=tokens,
            requests=0 if is_correction else int(row["charged"]),
            cost=Decimal(row["cost"]),
            correction=is_correction,
        )
        yield Group(
            day=dt.date.fromisoformat(row["day"]),
            consumer_id=uuid.UUID(row["consumer_id"]),
            service_id=use.service_id,
            api_key_id=uuid.UUID(row["api_key_id"]),
            consumer=row["consumer"],
            service=row["service_name"],
            version=row["service_version"],
            host=row["host"],
            key_name=row["key_name"],
            tags=json.loads(row["tags"] or "{}"),
            unit=unit,
            begins=row["effective_from"],
            rows=int(row["rows"]),
            digest=row["digest"],
            of_closed=row["of_closed"] == "t",
            use=use,
        )


def with_months(found: Iterable[Group], first: dt.datetime, end: dt.datetime) -> Iterator[Group | MonthLine]:
    """The groups, and after those of a consumer's month what the month adds, where ``[first, end)`` has all of it."""
    for (_, month), of_month in groupby(
        found, key=lambda group: (group.consumer_id, group.day.replace(day=1))
    ):
        kept: list[Group] = []
        for group in of_month:
            kept.append(group)
            yield group
        if first <= clock.month_start(month) and clock.month_start(clock.next_month(month)) <= end:
            yield from _of_month(month, kept)


def _of_month(month: dt.date, found: list[Group]) -> Iterator[MonthLine]:
    by_service = {group.service_id: group for group in found}
    in_turn = sorted(found, key=lambda group: (group.begins, group.use.price_version_id))
    for each in charges(_together(group.use for group in in_turn)):
        for line in each.lines:
            if line.category in OF_MONTH:
                of_it = by_service.get(line.service_id) if line.service_id else None
                yield MonthLine(month, line, of_it or found[0])


def _together(uses: Iterable[Use]) -> list[Use]:
    """One for each service, price version and currency, as a month is charged."""
    summed: dict[Any, Use] = {}
    for use in uses:
        key = (use.service_id, use.price_version_id, use.currency, use.correction)
        was = summed.get(key)
        summed[key] = use if was is None else _added(was, use)
    return list(summed.values())


def _added(one: Use, other: Use) -> Use:
    tokens = {kind: getattr(one.tokens, kind) + getattr(other.tokens, kind) for kind in KINDS}
    return replace(
        one,
        tokens=Tokens(**tokens),
        requests=one.requests + other.requests,
        cost=EXACT.add(one.cost, other.cost),
    )
