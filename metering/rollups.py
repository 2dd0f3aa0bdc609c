"""What lines of the ledger add up to: rollups by hour and by day, and monthly quota periods, by what really changed."""

import datetime as dt
import functools
import struct
from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Any

from django.db import DataError, connection

from common import clock
from common.money import plain
from metering import binary_copy
from metering.journal import TOKEN_COUNTS
from metering.lines import Line, owners_of
from metering.models import UsageRecord

_HOUR_MS = 3_600_000
_USAGE = UsageRecord.Kind.USAGE.value
#: Consumer and service, at the beginning of ``Line.owners``.
_PAIR = 2 * len(binary_copy.uuid(0))

#: Owners (``Line.owners``), hour, status, kind, currency.
_Key = tuple[bytes, int, str, str, str]
#: Columns of a rollup that are added up. ``charged``: requests that brought something; ``upstream_requests``: those
#: whose cost at the upstream is known, ``upstream_amount`` what they cost there.
SUMS = (
    "requests", "charged", "duration_ms", *TOKEN_COUNTS, "total_tokens", "cost_amount", "upstream_requests",
    "upstream_amount",
)  # fmt: skip
AMOUNTS = ("cost_amount", "upstream_amount")
_OWNERS = "consumer_id, service_id, api_key_id, price_version_id, tier, {stretch}, status, kind, currency"
_STAGED = (
    "consumer_id", "service_id", "api_key_id", "price_version_id", "tier", "hour", "day", "status", "kind", "currency",
    *SUMS,
)  # fmt: skip
_STAGED_PERIOD = ("consumer_id", "service_id", "month", "used", "granted")
_COUNTS = struct.Struct("!" + 11 * "iq")  # those of ``SUMS`` before the first amount
_CREATE = f"""
    CREATE TEMP TABLE IF NOT EXISTS staged_sums (
        consumer_id uuid, service_id uuid, api_key_id uuid, price_version_id uuid, tier varchar(50),
        hour timestamptz, day date, status varchar(50), kind varchar(20), currency varchar(3),
        {", ".join(f"{name} {'numeric' if name in AMOUNTS else 'bigint'}" for name in SUMS)}
    ) ON COMMIT DELETE ROWS;
    CREATE TEMP TABLE IF NOT EXISTS staged_periods (
        consumer_id uuid, service_id uuid, month date, used bigint, granted bigint
    ) ON COMMIT DELETE ROWS
"""
# Rows in one order, so that two writers that meet wait for each other and never in a circle. They are staged in it, so
# that to sort them costs nothing.
_UPSERT = f"""
    INSERT INTO {{table}} AS r ({_OWNERS}, {", ".join(SUMS)})
    SELECT {_OWNERS}, {{sums}} FROM staged_sums {{group}} ORDER BY {_OWNERS}
    ON CONFLICT ({_OWNERS}) DO UPDATE SET {", ".join(f"{name} = r.{name} + EXCLUDED.{name}" for name in SUMS)}
"""  # noqa: S608 - constants  # nosec B608
_AS_THEY_ARE = {"sums": ", ".join(SUMS), "group": ""}
_ADDED_UP = {
    "sums": ", ".join(f"sum({name})" for name in SUMS),
    "group": "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
}
_UPSERT_HOURS = _UPSERT.format(table="usage_rollups", stretch="hour", **_AS_THEY_ARE)
_UPSERT_DAYS = _UPSERT.format(table="usage_daily_rollups", stretch="day", **_ADDED_UP)
_UPSERT_DAYS_OF_ONE_HOUR = _UPSERT.format(table="usage_daily_rollups", stretch="day", **_AS_THEY_ARE)
_UPSERT_PERIODS = """
    INSERT INTO quota_periods AS p (consumer_id, service_id, month, used, granted)
    SELECT * FROM staged_periods ORDER BY 1, 2, 3
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
                key = (line.owners, (line.id.int >> 80) // _HOUR_MS, entry.status, line.kind, entry.currency)
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
        owners = owners_of(record, record.tier_id)
        key = (owners, (record.id.int >> 80) // _HOUR_MS, record.status, record.kind, record.currency)
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
        changed = sorted(item for item in self._sums.items() if any(item[1][:-2]))
        if not changed:
            return
        hours = {hour for (_, hour, _, _, _), _ in changed}
        is_one_hour_each = len({hour // 24 for hour in hours}) == len(hours)
        try:
            rows, periods = [_copied(key, sums) for key, sums in changed], _periods(changed)
        except struct.error as error:
            raise DataError("a sum is out of range") from error
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM staged_sums")
            binary_copy.copy("staged_sums", _STAGED, rows)
            cursor.execute(_UPSERT_HOURS)
            cursor.execute(_UPSERT_DAYS_OF_ONE_HOUR if is_one_hour_each else _UPSERT_DAYS)
            cursor.execute("DELETE FROM staged_periods")
            binary_copy.copy("staged_periods", _STAGED_PERIOD, periods)
            cursor.execute(_UPSERT_PERIODS)


def _nothing() -> list[Any]:
    return [*[0] * 11, Decimal(0), 0, Decimal(0), -1, None]


def _copied(key: _Key, sums: list[Any]) -> bytes:
    """A row of ``staged_sums``."""
    owners, hour, status, kind, currency = key
    counts = [8] * 22
    counts[1::2] = sums[:11]
    return b"".join(
        [
            binary_copy.count(len(_STAGED)),
            owners,
            _hour_and_day(hour),
            binary_copy.word(status),
            binary_copy.word(kind),
            binary_copy.word(currency),
            _COUNTS.pack(*counts),
            binary_copy.numeric(plain(sums[11])),
            binary_copy.BIGINT.pack(8, sums[12]),
            binary_copy.numeric(plain(sums[13])),
        ]
    )


@functools.lru_cache
def _hour_and_day(hour: int) -> bytes:
    return binary_copy.moment(hour * _HOUR_MS) + binary_copy.date(_moment(hour).date())


@functools.lru_cache
def _month(hour: int) -> bytes:
    return binary_copy.date(clock.month_of(_moment(hour)))


def _moment(hour: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(hour * 3600, clock.UTC)


def _periods(changed: list[tuple[_Key, list[Any]]]) -> list[bytes]:
    """Rows of ``staged_periods``. Quotas know nothing of corrections."""
    periods: dict[bytes, list[Any]] = {}
    for (owners, hour, _, kind, _), sums in changed:
        if kind == _USAGE:
            period = periods.setdefault(owners[:_PAIR] + _month(hour), [0, -1, None])
            period[0] += sums[10]
            # The limit that the line which came last was let in under.
            if sums[14] > period[1]:
                period[1:] = sums[14:]
    columns, pack = binary_copy.count(len(_STAGED_PERIOD)), binary_copy.BIGINT.pack
    return [
        b"".join([columns, period, pack(8, used), binary_copy.NULL if granted is None else pack(8, granted)])
        for period, (used, _, granted) in periods.items()
    ]
