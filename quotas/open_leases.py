"""Calls that are let in and not settled, as Valkey has them."""

import datetime as dt
import uuid
from typing import Any

from common.ids import moment_of
from metering import shards, valkey


def begun_before(end: dt.datetime) -> int:
    """How many open leases are of calls that began before ``end``. Raises ``RedisError``."""
    client = valkey.connect()
    try:
        pipeline = client.pipeline(transaction=False)
        for shard in range(shards.SHARDS):
            pipeline.hkeys(shards.leases_key(shard))
            pipeline.zrange(shards.former_leases_key(shard), 0, -1)
        answers: list[Any] = pipeline.execute()
    finally:
        client.close()
    return sum(moment_of(uuid.UUID(id_.decode())) < end for ids in answers for id_ in ids)
