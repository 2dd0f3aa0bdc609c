"""What lines of the ledger add up to: hourly rollups and monthly quota periods, written by what really changed."""

import datetime as dt
import io
from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Any

from django.db import connection

from common import clock
from metering.journal import TOKEN_COUNTS
from metering.lines import Line, owners_text
from metering.models import UsageRecord

_HOUR_MS = 3_600_000

#: Owners (``Line.owners``), hour, status, currency, kind.
_Key = tuple[str, int, str, str, str]
_CREATE = """
    CREATE TEMP TABLE IF NOT EXISTS staged_sums (
        service_id uuid, consumer_id uuid, api_key_id uuid, price_version_id uuid, tier varchar(50),
        hour timestamptz, status varchar(50), currency varchar(3), kind varchar(20), requests bigint,
        duration_ms bigint, prompt_tokens bigint, completion_tokens bigint, cached_tokens bigint,
        reasoning_tokens bigint, total_tokens bigint, cost_amount numeric, came bigint, granted bigint
    ) ON COMMIT DELETE ROWS
"""
# Rows in key order, so that two writers that meet wait for each other and never in a circle.
_UPSERT_ROLLUPS = """
    INSERT INTO usage_rollups AS r (
        consumer_id, service_id, hour, api_key_id, price_version_id, tier, status, kind, currency, requests,
        duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens,
        cost_amount
    )
    SELECT consumer_id, service_id, hour, api_key_id, price_version_id, tier, status, kind, currency, requests,
        duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens,
        cost_amount
    FROM staged_sums ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    ON CONFLICT (consumer_id, service_id, hour, api_key_id, price_version_id, tier, status, kind, currency)
    DO UPDATE SET
        requests = r.requests + EXCLUDED.requests,
        duration_ms = r.duration_ms + EXCLUDED.duration_ms,
        prompt_tokens = r.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = r.completion_tokens + EXCLUDED.completion_tokens,
        cached_tokens = r.cached_tokens + EXCLUDED.cached_tokens,
        reasoning_tokens = r.reasoning_tokens + EXCLUDED.reasoning_tokens,
        total_tokens = r.total_tokens + EXCLUDED.total_tokens,
        cost_amount = r.cost_amount + EXCLUDED.cost_amount
"""
# ``granted`` is the limit that the line which came last was let in under. Quotas know nothing of corrections.
_UPSERT_PERIODS = """
    INSERT INTO quota_periods AS p (consumer_id, service_id, month, used, granted)
    SELECT consumer_id, service_id, date_trunc('month', hour AT TIME ZONE 'UTC')::date, sum(total_tokens),
        (array_agg(granted ORDER BY came DESC))[1]
    FROM staged_sums WHERE kind = 'usage' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (consumer_id, service_id, month) DO UPDATE SET
        used = p.used + EXCLUDED.used, granted = EXCLUDED.granted
"""


def prepare() -> None:
    """Make the session's staging table. Once a connection."""
    with connection.cursor() as cursor:
        cursor.execute(_CREATE)


class Deltas:
    """Differences to rollups and quota periods, added up in memory and written once."""

    def __init__(self) -> None:
        # requests, duration_ms, prompt, completion, cached, reasoning, total tokens, cost; came, granted
        self._sums: dict[_Key, list[Any]] = {}

    def add(self, lines: Iterable[Line]) -> None:
        """Count lines that are in the ledger now and were not before; corrections in the hour that they were made."""
        all_sums = self._sums
        with localcontext() as context:
            context.prec = 60
            for came, line in enumerate(lines):
                entry = line.entry
                key = (line.owners, (line.id.int >> 80) // _HOUR_MS, entry.status, entry.currency, line.kind)
                sums = all_sums.get(key)
                if sums is None:
                    sums = all_sums[key] = _nothing()
                sums[0] += 1
                sums[1] += entry.duration_ms
                sums[2] += entry.prompt_tokens
                sums[3] += entry.completion_tokens
                sums[4] += entry.cached_tokens
                sums[5] += entry.reasoning_tokens
                sums[6] += entry.total_tokens
                sums[7] += line.cost
                sums[8] = came
                sums[9] = entry.limit

    def remove(self, record: UsageRecord) -> None:
        """Take back a row of the ledger as it was before it changes; what it becomes has to be added."""
        owners = owners_text(record, record.tier_id)
        key = (owners, (record.id.int >> 80) // _HOUR_MS, record.status, record.currency, record.kind)
        tokens = [record.usage[name] for name in TOKEN_COUNTS]
        taken = (1, record.duration_ms, *tokens, record.total_tokens, record.cost_amount)
        sums = self._sums.setdefault(key, _nothing())
        for place, amount in enumerate(taken):
            sums[place] -= amount

    def write(self) -> None:
        """Upsert everything. Inside the transaction that writes the lines."""
        text = "".join([_copy_text(key, sums) for key, sums in self._sums.items() if any(sums[:8])])
        if not text:
            return
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM staged_sums")
            with connection.wrap_database_errors:
                cursor.copy_expert("COPY staged_sums FROM STDIN", io.StringIO(text))
            cursor.execute(_UPSERT_ROLLUPS)
            cursor.execute(_UPSERT_PERIODS)


def _nothing() -> list[Any]:
    return [0, 0, 0, 0, 0, 0, 0, Decimal(0), -1, None]


def _copy_text(key: _Key, sums: list[Any]) -> str:
    owners, hour, status, currency, kind = key
    moment = dt.datetime.fromtimestamp(hour * 3600, clock.UTC).isoformat()
    numbers = "\t".join([str(amount) for amount in sums[:9]])
    granted = "\\N" if sums[9] is None else sums[9]
    return f"{owners}\t{moment}\t{status}\t{currency}\t{kind}\t{numbers}\t{granted}\n"
