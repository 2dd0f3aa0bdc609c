"""What lines of the ledger add up to: hourly rollups and monthly quota periods, written by what really changed."""

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from django.db import connection

from common import clock
from metering.journal import TOKEN_COUNTS
from metering.lines import Line
from metering.models import UsageRecord

_HOUR_MS = 3_600_000


class Key(NamedTuple):
    """One rollup: the order of the fields is the order in which rows are locked."""

    consumer_id: uuid.UUID
    service_id: uuid.UUID
    hour: int
    api_key_id: uuid.UUID
    price_version_id: uuid.UUID
    tier: str
    status: str
    currency: str


#: requests, duration_ms, prompt, completion, cached, reasoning, total tokens, cost
Sums = list[Any]
PeriodKey = tuple[uuid.UUID, uuid.UUID, dt.date]


class Deltas:
    """Differences to rollups and quota periods, added up in memory and written once."""

    def __init__(self) -> None:
        self._rollups: dict[Key, Sums] = {}
        self._granted: dict[tuple[uuid.UUID, uuid.UUID, int], int | None] = {}

    def add(self, lines: Iterable[Line]) -> None:
        """Count lines that are in the ledger now and were not before. Corrections do not count."""
        rollups, granted = self._rollups, self._granted
        with localcontext() as context:
            context.prec = 60
            for line in lines:
                if line.kind == UsageRecord.Kind.CORRECTION:
                    continue
                entry = line.entry
                hour = (line.id.int >> 80) // _HOUR_MS
                key = Key(
                    entry.consumer_id, entry.service_id, hour, entry.api_key_id, entry.price_version_id,
                    entry.tier, entry.status, entry.currency,
                )  # fmt: skip
                sums = rollups.get(key)
                if sums is None:
                    sums = rollups[key] = [0, 0, 0, 0, 0, 0, 0, Decimal(0)]
                sums[0] += 1
                sums[1] += entry.duration_ms
                sums[2] += entry.prompt_tokens
                sums[3] += entry.completion_tokens
                sums[4] += entry.cached_tokens
                sums[5] += entry.reasoning_tokens
                sums[6] += entry.total_tokens
                sums[7] += line.cost
                granted[key[:3]] = entry.limit

    def remove(self, record: UsageRecord) -> None:
        """Take back a row of the ledger as it was before it changes; what it becomes has to be added."""
        key = Key(
            record.consumer_id, record.service_id, (record.id.int >> 80) // _HOUR_MS, record.api_key_id,
            record.price_version_id, record.tier_id, record.status, record.currency,
        )  # fmt: skip
        tokens = [record.usage[name] for name in TOKEN_COUNTS]
        taken = (1, record.duration_ms, *tokens, record.total_tokens, record.cost_amount)
        sums = self._rollups.setdefault(key, [0, 0, 0, 0, 0, 0, 0, Decimal(0)])
        for place, amount in enumerate(taken):
            sums[place] -= amount

    def write(self) -> None:
        """Upsert everything, rows in key order. Inside the transaction that writes the lines."""
        if self._rollups:
            _upsert_rollups(sorted((key, sums) for key, sums in self._rollups.items() if any(sums)))
            _upsert_periods(sorted(self._periods().items()))

    def _periods(self) -> dict[PeriodKey, list[Any]]:
        """Used tokens, and the limit that the latest line was let in under."""
        periods: dict[PeriodKey, list[Any]] = {}
        for key in sorted(self._rollups, key=lambda each: each.hour):
            month = clock.month_of(_moment(key.hour))
            period = periods.setdefault((key.consumer_id, key.service_id, month), [0, None])
            period[0] += self._rollups[key][6]
            period[1] = self._granted[key[:3]]
        return periods


def _moment(hour: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(hour * 3600, clock.UTC)


def _upsert_rollups(rollups: Sequence[tuple[Key, Sums]]) -> None:
    columns: list[list[Any]] = [
        [key.consumer_id.hex for key, _ in rollups],
        [key.service_id.hex for key, _ in rollups],
        [_moment(key.hour) for key, _ in rollups],
        [key.api_key_id.hex for key, _ in rollups],
        [key.price_version_id.hex for key, _ in rollups],
        *([key[place] for key, _ in rollups] for place in (5, 6, 7)),
        *([sums[place] for _, sums in rollups] for place in range(8)),
    ]
    with connection.cursor() as cursor:
        cursor.execute(_UPSERT_ROLLUPS, columns)


_UPSERT_ROLLUPS = """
    INSERT INTO usage_rollups AS r (
        consumer_id, service_id, hour, api_key_id, price_version_id, tier, status, currency, requests,
        duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens,
        cost_amount
    ) SELECT * FROM unnest(
        %s::uuid[], %s::uuid[], %s::timestamptz[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[],
        %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::numeric[]
    )
    ON CONFLICT (consumer_id, service_id, hour, api_key_id, price_version_id, tier, status) DO UPDATE SET
        requests = r.requests + EXCLUDED.requests,
        duration_ms = r.duration_ms + EXCLUDED.duration_ms,
        prompt_tokens = r.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = r.completion_tokens + EXCLUDED.completion_tokens,
        cached_tokens = r.cached_tokens + EXCLUDED.cached_tokens,
        reasoning_tokens = r.reasoning_tokens + EXCLUDED.reasoning_tokens,
        total_tokens = r.total_tokens + EXCLUDED.total_tokens,
        cost_amount = r.cost_amount + EXCLUDED.cost_amount
"""


def _upsert_periods(periods: Sequence[tuple[PeriodKey, list[Any]]]) -> None:
    columns: list[list[Any]] = [
        [consumer_id.hex for (consumer_id, _, _), _ in periods],
        [service_id.hex for (_, service_id, _), _ in periods],
        [month for (_, _, month), _ in periods],
        [used for _, (used, _) in periods],
        [granted for _, (_, granted) in periods],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_UPSERT_PERIODS, columns)


_UPSERT_PERIODS = """
    INSERT INTO quota_periods AS p (consumer_id, service_id, month, used, granted)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::date[], %s::bigint[], %s::bigint[])
    ON CONFLICT (consumer_id, service_id, month) DO UPDATE SET
        used = p.used + EXCLUDED.used, granted = EXCLUDED.granted
"""
