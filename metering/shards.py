"""Shards of consumers, and the names of what a shard keeps in Valkey.

Every limit of a consumer lies in one slot, so one script can decide, on a cluster too.
"""

import datetime as dt
import uuid
import zlib

from common import clock

SHARDS = 64
#: Month counters stay this long after their month: a whole month longer, since a rebuild sets the last one too.
QUOTA_KEPT = dt.timedelta(days=40)
#: Day counters stay this long from their day's beginning on: a rebuild sets yesterday's too.
DAY_KEPT = dt.timedelta(days=4)
#: And of now, since a call was let in (``admit.lua``).
NOW_KEPT = dt.timedelta(days=2)
#: A tombstone outlives the 60 s in which a settle of unknown fate is repeated.
TOMBSTONE_SECONDS = 120


def shard_of(consumer_id: uuid.UUID) -> int:
    """The shard of a consumer: CRC-32 of its sixteen bytes, mod 64. Never changes."""
    return zlib.crc32(consumer_id.bytes) % SHARDS


def tag(shard: int) -> str:
    """The hash tag that all keys of a shard begin with."""
    return f"{{s{shard:02d}}}"


def epoch_key(shard: int) -> str:
    """``n:run_id``: the epoch that counters, leases and journal belong to."""
    return f"{tag(shard)}:epoch"


def opening_key(shard: int) -> str:
    """The number of the epoch that a shard is being opened under."""
    return f"{tag(shard)}:opening"


def handed_in_key(shard: int) -> str:
    """Set: the gateways that have handed in what they held, since the shard began to be opened."""
    return f"{tag(shard)}:handed-in"


def journal_key(shard: int) -> str:
    """Stream of settled usage that PostgreSQL may not have yet."""
    return f"{tag(shard)}:journal"


def watermark_key(shard: int) -> str:
    """``epoch:stream id`` of the last entry that PostgreSQL has."""
    return f"{tag(shard)}:wm"


def leases_key(shard: int) -> str:
    """Hash of open leases, each packed (``lease.lua``), by their requests' ids."""
    return f"{tag(shard)}:open"


def former_leases_key(shard: int) -> str:
    """Sorted set of open leases that versions before ADR 33 wrote (``adopt.lua``)."""
    return f"{tag(shard)}:leases"


def tombstone_key(shard: int, request_id: uuid.UUID) -> str:
    """The stream id that a settled request got; makes a repeated settle harmless."""
    return f"{tag(shard)}:settled:{request_id}"


def credited_key(shard: int, request_id: uuid.UUID) -> str:
    """Marks a replayed request whose counter the drain has credited."""
    return f"{tag(shard)}:credited:{request_id}"


def bucket_key(shard: int, consumer_id: uuid.UUID, service_id: uuid.UUID) -> str:
    """Hash: ``t`` tokens in the request-rate bucket, ``at`` milliseconds of the last refill."""
    return f"{tag(shard)}:bucket:{consumer_id}:{service_id}"


def quota_key(shard: int, consumer_id: uuid.UUID, service_id: uuid.UUID, month: dt.date) -> str:
    """Hash: ``used`` and ``reserved`` tokens of one UTC month."""
    return quota_key_of(shard, str(consumer_id), str(service_id), f"{month:%Y%m}")


def quota_key_of(shard: int, consumer_id: str, service_id: str, month: str) -> str:
    """The same of what is text already."""
    return f"{tag(shard)}:quota:{consumer_id}:{service_id}:{month}"


def now_key(shard: int, consumer_id: uuid.UUID | str) -> str:
    """Hash, of a consumer: calls that run, and buckets of requests and of tokens a minute, by field; and ``kept:at``,
    the hour in which it was last prolonged."""
    return f"{tag(shard)}:now:{consumer_id}"


def spent_key(shard: int, consumer_id: uuid.UUID | str, period: str) -> str:
    """Hash, of a consumer in a UTC month (``202511``) or day (``20251125``): what was used, and by ``r…`` reserved."""
    return f"{tag(shard)}:spent:{consumer_id}:{period}"


def tokens_field(lineage: uuid.UUID) -> str:
    """Field of a month's ``spent_key``: tokens of a key."""
    return f"t:{lineage}"


def money_field(currency: str, of: uuid.UUID | None = None) -> str:
    """Field of a ``spent_key``: nano-units that the consumer spent, or ``of`` them with a key or at a service."""
    return f"m:{currency}" if of is None else f"m:{currency}:{of}"


def reserved_field(field: str) -> str:
    """What running calls hold of a field of a ``spent_key``."""
    return f"r{field}"


def spent_fields(lineage: uuid.UUID, service_id: uuid.UUID, currency: str) -> tuple[str, str, str, str]:
    """What one call adds to, in the order that ``spend.lua`` wants."""
    money = (money_field(currency, of) for of in (None, lineage, service_id))
    return (tokens_field(lineage), *money)  # type: ignore[return-value]  # three of them


def day_expires(day: dt.date) -> int:
    """Seconds since the epoch at which a day's counters go."""
    return int((clock.day_start(day) + DAY_KEPT).timestamp())


def quota_expires(month: dt.date) -> int:
    """Seconds since the epoch at which a month's counters go."""
    return int((clock.month_start(clock.next_month(month)) + QUOTA_KEPT).timestamp())
