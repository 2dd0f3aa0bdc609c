"""What live counters have to be, as the ledger has it: to set them again, and to compare them with."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from django.db import connection

from common import clock
from metering import shards, spending
from metering.models import QuotaPeriod


class Counter(NamedTuple):
    """A hash of Valkey: its name, when it goes (seconds since the epoch), and field, value, field, value …"""

    key: str
    expires: int
    fields: Sequence[str]


#: From what to what a field of a hash may be: money is rounded up call by call, and the ledger's sum once.
Bounds = dict[str, tuple[int, int]]


def months(now: dt.datetime) -> tuple[dt.date, dt.date]:
    """This month and the last: counters of others are not asked for any more."""
    this = clock.month_of(now)
    return this, clock.month_of(clock.month_start(this) - dt.timedelta(days=1))


def days(now: dt.datetime) -> tuple[dt.date, dt.date]:
    """Today and yesterday, likewise."""
    return now.date(), now.date() - dt.timedelta(days=1)


def ends(now: dt.datetime) -> dict[str, int]:
    """These periods as keys of counters name them, and when those go."""
    of_months = {f"{month:%Y%m}": shards.quota_expires(month) for month in months(now)}
    return of_months | {f"{day:%Y%m%d}": shards.day_expires(day) for day in days(now)}


def consumers_of(wanted: Iterable[int], now: dt.datetime) -> dict[int, list[str]]:
    """Ids of whoever used something in these months, by shard."""
    found: dict[int, list[str]] = {shard: [] for shard in wanted}
    used = QuotaPeriod.objects.order_by().filter(month__in=months(now)).values_list("consumer_id", flat=True)
    for id_ in used.distinct().iterator(chunk_size=10_000):
        shard = shards.shard_of(id_)
        if shard in found:
            found[shard].append(str(id_))
    return found


def counters(of: dict[int, list[str]], now: dt.datetime) -> dict[int, list[Counter]]:
    """Every counter of consumers of shards that may still be asked for, by shard; nothing is reserved."""
    found: dict[int, list[Counter]] = defaultdict(list)
    shard_of, until = _shard_of(of), ends(now)
    for consumer, service, month, used in _quotas(shard_of, months(now)):
        shard = shard_of[consumer]
        key = shards.quota_key_of(shard, consumer, service, month)
        found[shard].append(Counter(key, until[month], ("used", used)))
    for consumer, period, fields in _spent(shard_of, min(months(now)), min(days(now))):
        shard = shard_of[consumer]
        found[shard].append(Counter(shards.spent_key(shard, consumer, period), until[period], fields))
    return found


def bounds(of: dict[int, list[str]], now: dt.datetime, *, of_rows: bool) -> dict[str, Bounds]:
    """What counters of this month and of today have to lie between, by their keys.

    ``of_rows``: as the ledger's rows add up, and not as quota periods and rollups have it.
    """
    found: dict[str, Bounds] = {}
    shard_of = _shard_of(of)
    month, day = months(now)[0], days(now)[0]
    for consumer, service, of_month, used in _quotas(shard_of, [month], of_rows=of_rows):
        key = shards.quota_key_of(shard_of[consumer], consumer, service, of_month)
        found[key] = {"used": (int(used), int(used))}
    for consumer, period, fields in _spent(shard_of, month, day, with_calls=True, of_rows=of_rows):
        amounts = zip(fields[::3], map(int, fields[1::3]), map(int, fields[2::3]), strict=True)
        key = shards.spent_key(shard_of[consumer], consumer, period)
        found[key] = {field: (amount, amount + calls) for field, amount, calls in amounts}
    return found


def _shard_of(of: dict[int, list[str]]) -> dict[str, int]:
    return {id_: shard for shard, ids in of.items() for id_ in ids}


# All of it as text: a million rows pass here, and are text again in the end.
_PERIODS = """
    SELECT consumer_id::text, service_id::text, to_char(month, 'YYYYMM'), used::text FROM quota_periods
    WHERE month = ANY(%s) AND consumer_id = ANY(%s::uuid[])
"""


_ROWS = """
    SELECT consumer_id::text, service_id::text, to_char("timestamp" AT TIME ZONE 'UTC', 'YYYYMM'),
        sum(total_tokens)::text
    FROM usage_records WHERE kind = 'usage' AND "timestamp" >= %s AND consumer_id = ANY(%s::uuid[]) GROUP BY 1, 2, 3
"""


def _quotas(
    consumers: Iterable[str], of: Sequence[dt.date], *, of_rows: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    """Consumer, service, month, tokens."""
    with connection.cursor() as cursor:
        if of_rows:
            cursor.execute(_ROWS, [clock.month_start(min(of)), list(consumers)])
        else:
            cursor.execute(_PERIODS, [list(of), list(consumers)])
        yield from cursor


def _spent(
    consumers: Iterable[str], month: dt.date, day: dt.date, *, with_calls: bool = False, of_rows: bool = False
) -> Iterator[spending.Spent]:
    """Since that month, and since that day."""
    wanted = list(consumers)
    yield from spending.by_month(wanted, since=month, with_calls=with_calls, of_rows=of_rows)
    yield from spending.by_day(wanted, since=day, with_calls=with_calls, of_rows=of_rows)
