"""Epochs: after a start, a restart or a loss of Valkey, counters are believed again only when set from the ledger.

A shard is live while Valkey's key says ``n:run_id``, with ``n`` of the shard's row in PostgreSQL and the ``run_id``
of the very server that answers. Anything else opens the shard anew, in three steps that may be broken off anywhere
and begun again:

1. ``begin``: the row takes the next number, the key goes, and the journal's position returns to its start. From here
   on every script answers ``stale``, and a former owner's transaction fails at the position.
2. The journal is drained to where it ended then (``ends``). What is left in it is real, whatever epoch it is from;
   the ledger takes each request once. What comes later can only be a replay, which the drain credits by itself.
3. ``finish``: one script sets the counters from the ledger, and reserved from the leases that exist, and sets the key.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from common import clock, crash
from metering import shards, spending
from metering.models import QuotaPeriod, ShardEpoch
from metering.stream import START, Position, after
from metering.valkey import OneLife

_OPEN = (Path(__file__).parent / "scripts" / "open_shard.lua").read_text()


def not_live(server: OneLife, positions: dict[int, Position], owned: Iterable[int]) -> list[int]:
    """Which of the owned shards have to be opened."""
    found = _keys(server, sorted(owned))
    return [shard for shard, key in found.items() if not _fits(server, positions.get(shard), key)]


def live_only(positions: dict[int, Position]) -> dict[int, Position]:
    """The positions of shards whose row in PostgreSQL is live under the very same number."""
    live = ShardEpoch.objects.filter(shard__in=list(positions), state=ShardEpoch.State.LIVE)
    numbers = dict(live.values_list("shard", "number"))
    return {shard: place for shard, place in positions.items() if numbers.get(shard) == place.epoch}


def _keys(server: OneLife, of: Sequence[int]) -> dict[int, str]:
    pipeline = server.client.pipeline(transaction=False)
    for shard in of:
        pipeline.get(shards.epoch_key(shard))
    return {shard: (key or b"").decode() for shard, key in zip(of, pipeline.execute(), strict=True)}


def _fits(server: OneLife, position: Position | None, key: str) -> bool:
    return position is not None and key == f"{position.epoch}:{server.run_id}"


def begin(server: OneLife, opening: Sequence[int]) -> dict[int, Position]:
    """Give shards their next epoch; returns where their journals are read from. The caller owns the shards."""
    # Where PostgreSQL's rows are younger than Valkey's keys, the number has to rise above both.
    known = {shard: _number(key) for shard, key in _keys(server, sorted(opening)).items()}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_BEGIN.format(values=", ".join(["(%s, %s)"] * len(known))), _flat(known.items()))
        positions = {row[0]: Position(row[0], row[1], START, row[2]) for row in cursor.fetchall()}
    crash.point("epoch-begun")
    pipeline = server.client.pipeline(transaction=False)
    for shard in positions:
        pipeline.delete(shards.epoch_key(shard))
    pipeline.execute()
    return positions


def ends(server: OneLife, opening: Iterable[int]) -> dict[int, str]:
    """The last id of each of these journals."""
    asked = list(opening)
    pipeline = server.client.pipeline(transaction=False)
    for shard in asked:
        pipeline.xrevrange(shards.journal_key(shard), count=1)
    found = zip(asked, pipeline.execute(), strict=True)
    return {shard: last[0][0].decode() if last else START for shard, last in found}


_BEGIN = f"""
    WITH numbered AS (
        INSERT INTO shard_epochs AS e (shard, number, state, changed_at)
        SELECT shard, known + 1, 'rebuilding', now() FROM (VALUES {{values}}) AS v (shard, known)
        ON CONFLICT (shard) DO UPDATE SET
            number = greatest(e.number + 1, EXCLUDED.number), state = EXCLUDED.state, changed_at = now()
        RETURNING shard, number
    )
    INSERT INTO journal_positions (shard, epoch, last_id, batch) SELECT shard, number, '{START}', 0 FROM numbered
    ON CONFLICT (shard) DO UPDATE SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id
    RETURNING shard, epoch, batch
"""  # noqa: S608 - constants  # nosec B608


def finish(server: OneLife, positions: dict[int, Position]) -> None:
    """Set the counters of shards whose journals are drained, and make them live."""
    quotas, spent = _quotas(positions), spending.spent(positions)
    fallback = str(shards.quota_expires(_months()[0]))
    pipeline = server.client.pipeline(transaction=False)
    for shard, position in positions.items():
        keys = [
            shards.epoch_key(shard), shards.leases_key(shard), shards.watermark_key(shard),
            shards.journal_key(shard), *(key for key, _, _ in quotas[shard]), *(key for key, _, _ in spent[shard]),
        ]  # fmt: skip
        values = [
            f"{position.epoch}:{server.run_id}", position.watermark, after(position.last_id), shards.tag(shard),
            fallback, len(quotas[shard]),
            *_flat((used, expires) for _, used, expires in (*quotas[shard], *spent[shard])),
        ]  # fmt: skip
        pipeline.eval(_OPEN, len(keys), *keys, *values)
    pipeline.execute()
    crash.point("epoch-set")
    rows = ShardEpoch.objects.filter(shard__in=list(positions))
    rows.update(state=ShardEpoch.State.LIVE, changed_at=clock.now())


def _quotas(opening: Iterable[int]) -> dict[int, list[tuple[str, str, str]]]:
    """Key, used tokens and expiry of every counter that may still be asked for, by shard."""
    quotas: dict[int, list[tuple[str, str, str]]] = {shard: [] for shard in opening}
    for period in QuotaPeriod.objects.filter(month__in=_months()).iterator():
        shard = shards.shard_of(period.consumer_id)
        if shard in quotas:
            key = shards.quota_key(shard, period.consumer_id, period.service_id, period.month)
            quotas[shard].append((key, str(period.used), str(shards.quota_expires(period.month))))
    return quotas


def _months() -> tuple[dt.date, dt.date]:
    """This month and the last."""
    this = clock.month_of(clock.now())
    return this, clock.month_of(clock.month_start(this) - dt.timedelta(days=1))


def _number(key: str) -> int:
    number = key.partition(":")[0]
    return int(number) if number.isdigit() else 0


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]
