"""Leases that earlier lives of a gateway left open, closed when the next one starts.

A gateway signs its leases ``name:life``; whoever holds the name's lock knows that its other lives are over.
"""

from metering import shards
from quotas.admission import Admission


async def reap(admission: Admission, names: set[str]) -> int:
    """Close what other lives of the gateways of these names left open; returns how many. Raises as ``Line.call`` does,
    and ``NotLive`` where a shard of theirs is being opened."""
    closed = 0
    for shard in range(shards.SHARDS):
        open_ = await admission.open_leases(shard)
        dead = [id_ for id_, owner in open_.items() if _is_dead(owner, names, admission.gateway)]
        if dead:
            closed += await admission.close_leases(shard, dead)
    return closed


def _is_dead(owner: str, names: set[str], gateway: str) -> bool:
    return owner != gateway and owner.rpartition(":")[0] in names
