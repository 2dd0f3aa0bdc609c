"""What lines of the ledger add up to: rollups by hour and by day, and monthly quota periods, by what really changed."""

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
#: Columns of a rollup that are added up. ``charged``: requests that brought something; ``upstream_requests``: those
#: whose cost at the upstream is known, ``upstream_amount`` what they cost there.
SUMS = (
    "requests", "charged", "duration_ms", *TOKEN_COUNTS, "total_tokens", "cost_amount", "upstream_requests",
    "upstream_amount",
)  # fmt: skip
_OWNERS = "consumer_id, service_id, {stretch}, api_key_id, price_version_id, tier, status, kind, currency"
_CREATE = f"""
    CREATE TEMP TABLE IF NOT EXISTS staged_sums (
        service_id uuid, consumer_id uuid, api_key_id uuid, price_version_id uuid, tier varchar(50),
        hour timestamptz, status varchar(50), currency varchar(3), kind varchar(20),
        {", ".join(f"{name} numeric" for name in SUMS)}, came bigint, granted bigint
    ) ON COMMIT DELETE ROWS
"""
# Rows in key order, so that two writers that meet wait for each other and never in a circle.
_UPSERT = f"""
    INSERT INTO {{table}} AS r ({_OWNERS}, {", ".join(SUMS)})
    SELECT {_OWNERS}, {", ".join(SUMS)} FROM ({{staged}}) AS staged ORDER BY {_OWNERS}
    ON CONFLICT ({_OWNERS}) DO UPDATE SET {", ".join(f"{name} = r.{name} + EXCLUDED.{name}" for name in SUMS)}
"""  # noqa: S608 - constants  # nosec B608
_UPSERT_HOURS = _UPSERT.format(table="usage_rollups", stretch="hour", staged="SELECT * FROM staged_sums")
_UPSERT_DAYS = _UPSERT.format(
    table="usage_daily_rollups",
    stretch="day",
    staged=f"""
        SELECT consumer_id, service_id, (hour AT TIME ZONE 'UTC')::date AS day, api_key_id, price_version_id, tier,
            status, kind, currency, {", ".join(f"sum({name}) AS {name}" for name in SUMS)}
        FROM staged_sums GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    """,  # noqa: S608 - constants  # nosec B608
)
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
        # ``SUMS`` in their order; came, granted
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
                sums[1] += entry.is_charged
                sums[2] += entry.duration_ms
                sums[3] += entry.prompt_tokens
                sums[4] += entry.completion_tokens
                sums[5] += entry.cached_tokens
                sums[6] += entry.reasoning_tokens
                sums[7] += entry.cache_write_tokens
                sums[8] += entry.audio_prompt_tokens
                sums[9] += entry.audio_completion_tokens
                sums[10] += entry.total_tokens
                sums[11] += line.cost
                if entry.upstream_cost is not None:
                    sums[12] += 1
                    sums[13] += Decimal(entry.upstream_cost)
                sums[14] = came
                sums[15] = entry.limit

    def remove(self, record: UsageRecord) -> None:
        """Take back a row of the ledger as it was before it changes; what it becomes has to be added."""
        owners = owners_text(record, record.tier_id)
        key = (owners, (record.id.int >> 80) // _HOUR_MS, record.status, record.currency, record.kind)
        usage, upstream = record.usage, record.cost.get("upstream")
        taken = (
            1, usage.get("usage_source") != "none", record.duration_ms, *[usage.get(name, 0) for name in TOKEN_COUNTS],
            record.total_tokens, record.cost_amount, upstream is not None, Decimal(upstream or 0),
        )  # fmt: skip
        sums = self._sums.setdefault(key, _nothing())
        for place, amount in enumerate(taken):
            sums[place] -= amount

    def write(self) -> None:
        """Upsert everything. Inside the transaction that writes the lines."""
        text = "".join([_copy_text(key, sums) for key, sums in self._sums.items() if any(sums[:-2])])
        if not text:
            return
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM staged_sums")
            with connection.wrap_database_errors:
                cursor.copy_expert("COPY staged_sums FROM STDIN", io.StringIO(text))
            cursor.execute(_UPSERT_HOURS)
            cursor.execute(_UPSERT_DAYS)
            cursor.execute(_UPSERT_PERIODS)


def _nothing() -> list[Any]:
    return [*[0] * 11, Decimal(0), 0, Decimal(0), -1, None]


def _copy_text(key: _Key, sums: list[Any]) -> str:
    owners, hour, status, currency, kind = key
    moment = dt.datetime.fromtimestamp(hour * 3600, clock.UTC).isoformat()
    numbers = "\t".join([str(amount) for amount in sums[:-1]])
    granted = "\\N" if sums[-1] is None else sums[-1]
    return f"{owners}\t{moment}\t{status}\t{currency}\t{kind}\t{numbers}\t{granted}\n"
