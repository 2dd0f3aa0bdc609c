"""Live counters of calls that were replayed: journalled without any, so that the drain counts them, once.

The lease of such a call may be open still. It is closed in the same moment, or the call would count twice until it is
reaped: by what it used, and by what it reserved.
"""

from collections.abc import Iterable
from pathlib import Path

from metering import lua, shards
from metering.lines import Line
from metering.models import UsageRecord
from metering.valkey import OneLife

#: A replay that comes again after this long finds its row in the ledger and changes nothing.
MARKER_SECONDS = 24 * 60 * 60

_CREDIT = lua.load(Path(__file__).parent / "scripts" / "credit.lua", lua.ADD, lua.SPEND, lua.LEASE)


def give(server: OneLife, changed: Iterable[Line]) -> None:
    """Credit replays among the lines that changed the ledger. Before the commit: an error counts too much for a
    while, never too little."""
    replays = [line for line in changed if _is_replay(line)]
    if not replays:
        return
    pipeline = server.client.pipeline(transaction=False)
    for line in replays:
        entry, day = line.entry, line.moment.date()
        pipeline.eval(
            _CREDIT,
            6,
            shards.credited_key(line.shard, entry.request_id),
            shards.quota_key(line.shard, entry.consumer_id, entry.service_id, line.month),
            shards.spent_key(line.shard, entry.consumer_id, f"{day:%Y%m}"),
            shards.spent_key(line.shard, entry.consumer_id, f"{day:%Y%m%d}"),
            shards.leases_key(line.shard),
            shards.tombstone_key(line.shard, entry.request_id),
            str(entry.total_tokens),
            str(shards.quota_expires(line.month)),
            str(MARKER_SECONDS),
            str(entry.cost_nano),
            str(shards.day_expires(day)),
            *shards.spent_fields(entry.counted_key, entry.service_id, entry.currency),
            str(entry.request_id),
            line.stream_id,
            str(shards.TOMBSTONE_SECONDS),
        )
    pipeline.execute()


def _is_replay(line: Line) -> bool:
    return line.settlement == UsageRecord.Settlement.REPLAY and line.kind == UsageRecord.Kind.USAGE
