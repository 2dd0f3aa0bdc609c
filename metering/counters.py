"""What live counters have to be, as the ledger has it: for shards whose counters are set again."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
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


def months() -> tuple[dt.date, dt.date]:
    """This month and the last: counters of others are not asked for any more."""
    this = clock.month_of(clock.now())
    return this, clock.month_of(clock.month_start(this) - dt.timedelta(days=1))


def consumers_of(wanted: Iterable[int]) -> dict[int, list[str]]:
    """Ids of whoever used something in these months, by shard."""
    found: dict[int, list[str]] = {shard: [] for shard in wanted}
    used = QuotaPeriod.objects.order_by().filter(month__in=months()).values_list("consumer_id", flat=True)
    for id_ in used.distinct().iterator(chunk_size=10_000):
        shard = shards.shard_of(id_)
        if shard in found:
            found[shard].append(str(id_))
    return found


def counters(of: dict[int, list[str]]) -> dict[int, list[Counter]]:
    """Every counter of consumers of shards that may still be asked for, by shard; nothing is reserved."""
    found: dict[int, list[Counter]] = defaultdict(list)
    consumers = {id_: shard for shard, ids in of.items() for id_ in ids}
    if not consumers:
        return found
    _add_quotas(found, consumers)
    this, last = months()
    ends = {f"{month:%Y%m}": shards.quota_expires(month) for month in (this, last)}
    _add_spent(found, consumers, ends, spending.by_month(list(consumers), since=last))
    today = clock.now().date()
    yesterday = today - dt.timedelta(days=1)
    ends = {f"{day:%Y%m%d}": shards.day_expires(day) for day in (today, yesterday)}
    _add_spent(found, consumers, ends, spending.by_day(list(consumers), since=yesterday))
    return found


# All of it as text: a million rows pass here, and are text again in the end.
_PERIODS = """
    SELECT consumer_id::text, service_id::text, month, used::text FROM quota_periods
    WHERE month = ANY(%s) AND consumer_id = ANY(%s::uuid[])
"""


def _add_quotas(found: dict[int, list[Counter]], consumers: dict[str, int]) -> None:
    expires = {month: (month.strftime("%Y%m"), shards.quota_expires(month)) for month in months()}
    with connection.cursor() as cursor:
        cursor.execute(_PERIODS, [list(months()), list(consumers)])
        for consumer, service, month, used in cursor:
            shard = consumers[consumer]
            name, end = expires[month]
            key = shards.quota_key_of(shard, consumer, service, name)
            found[shard].append(Counter(key, end, ("used", used)))


def _add_spent(
    found: dict[int, list[Counter]],
    consumers: dict[str, int],
    ends: dict[str, int],
    rows: Iterable[tuple[str, str, list[str]]],
) -> None:
    for consumer, period, fields in rows:
        shard = consumers[consumer]
        found[shard].append(Counter(shards.spent_key(shard, consumer, period), ends[period], fields))
