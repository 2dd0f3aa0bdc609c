"""What live counters reserve against what open leases hold.

Both change in one script, so one moment tells, and a difference stays what it is while calls go on. What is reserved
for no call refuses others until its month ends; what is reserved too little for lets a limit be overspent.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import redis

from metering import lua, shards
from quotas.live_counters import Counter, Drift, Reading, consumer_of, in_chunks, reserved, to_number

log = logging.getLogger(__name__)

_READ = lua.load(Path(__file__).parent / "scripts" / "read_reserved.lua", lua.LEASE, lua.HELD)


def differences(client: redis.Redis, readings: Mapping[int, Reading]) -> list[Drift]:
    """Of hashes that reserve something, of what leases hold, and of running calls of all consumers who were read."""
    found: list[Drift] = []
    for shard, reading in readings.items():
        consumers = set(map(consumer_of, reading.hashes))
        running = (shards.now_key(shard, consumer) for consumer in consumers)
        found += _differences(client, shard, [*reading.reserving, *running])
    return found


def again(client: redis.Redis, drifts: Iterable[Drift]) -> list[Drift]:
    """Those of these that are still there, and the same."""
    first = set(drifts)
    by_shard: dict[int, set[str]] = {}
    for drift in first:
        by_shard.setdefault(drift.counter.shard, set()).add(drift.counter.key)
    second = [drift for shard, keys in by_shard.items() for drift in _differences(client, shard, keys)]
    proven = {(drift.counter, drift.epoch, drift.by) for drift in first}
    return [drift for drift in second if (drift.counter, drift.epoch, drift.by) in proven]


def _differences(client: redis.Redis, shard: int, keys: Iterable[str]) -> list[Drift]:
    fixed = shards.epoch_key(shard), shards.leases_key(shard), shards.former_leases_key(shard)
    found: dict[Counter, Drift] = {}
    for some in in_chunks(sorted(keys)):
        try:
            answer: Any = client.eval(_READ, len(fixed) + len(some), *fixed, *some)
        except redis.ResponseError as error:
            log.error("what the leases of shard %d hold cannot be read: %s", shard, error)
            return []
        epoch, *flat = answer
        for key, field, value, holds in zip(*[iter(flat)] * 4, strict=True) if epoch else ():
            if (counter := reserved(key, field)) is not None:
                found[counter] = Drift(counter, epoch.decode(), to_number(value), int(holds))
    return list(found.values())
