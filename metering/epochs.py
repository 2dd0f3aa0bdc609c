"""Epochs: after a start, a restart or a loss of Valkey, counters are believed again only when set from the ledger.

A shard is live while Valkey's key says ``n:run_id``, with ``n`` of the shard's row in PostgreSQL and the ``run_id``
of the very server that answers. Anything else opens the shard anew, in four steps that may be broken off anywhere
and begun again:

1. ``begin``: the row takes the next number, the key goes, and the journal's position returns to its start. From here
   on every script answers ``stale``, and a former owner's transaction fails at the position.
2. Gateways hand in what they settled and no journal may have any more, and their running calls (``metering.hand_ins``).
3. The journal is drained to where it ended then (``ends``). What is left in it is real, whatever epoch it is from;
   the ledger takes each request once. What comes later can only be a replay, which the drain credits by itself.
4. ``finish``: scripts set the counters as the ledger has them, a few hundred at a time, so that no other shard waits;
   the last one adds what the leases hold that exist, and sets the key. All of them want the number that ``begin`` left
   in Valkey, so whoever was overtaken sets nothing.

A shard can also be distrusted by a person, in the row. It is opened in the same way, by whichever drain owns it, and
forgets what it counted before counters are set.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from django.db import connection, transaction

from common import clock, crash
from metering import counters, lua, shards
from metering.counters import Counter
from metering.models import ShardEpoch
from metering.positions import Fenced
from metering.stream import START, Position, after
from metering.valkey import OneLife

_Some = TypeVar("_Some")
#: Counters that one script sets: some milliseconds in which no other is answered.
MOST_COUNTERS = 500
#: Shards whose counters are read from the ledger in one go; and of distrusted ones, that are closed at the same time.
AT_ONCE = 8

_SCRIPTS = Path(__file__).parent / "scripts"
_CLOSE, _SET, _FORGET = (
    (_SCRIPTS / f"{name}.lua").read_text() for name in ("close_shard", "set_counters", "forget_counters")
)
_OPEN = lua.load(_SCRIPTS / "open_shard.lua", lua.LEASE, lua.HELD, lua.ADOPT)


def not_live(server: OneLife, positions: dict[int, Position], owned: Iterable[int]) -> list[int]:
    """Which of the owned shards have to be opened: those that are not live, else some of those that are distrusted."""
    found = _keys(server, sorted(owned))
    dead = [shard for shard, key in found.items() if not _fits(server, positions.get(shard), key)]
    return dead or sorted(_distrusted(found))[:AT_ONCE]


def live_only(positions: dict[int, Position]) -> dict[int, Position]:
    """The positions of shards whose row in PostgreSQL is live, distrusted or not, under the very same number."""
    rows = ShardEpoch.objects.filter(shard__in=list(positions)).exclude(state=ShardEpoch.State.REBUILDING)
    numbers = dict(rows.values_list("shard", "number"))
    return {shard: place for shard, place in positions.items() if numbers.get(shard) == place.epoch}


def distrust() -> None:
    """Have the counters of all shards set from nothing, by whichever drains own them."""
    ShardEpoch.objects.update(state=ShardEpoch.State.DISTRUSTED, changed_at=clock.now())


def all_live() -> bool:
    """Whether every shard is open, and none distrusted."""
    return ShardEpoch.objects.filter(state=ShardEpoch.State.LIVE).count() == shards.SHARDS


def _distrusted(of: Collection[int]) -> set[int]:
    rows = ShardEpoch.objects.filter(shard__in=of, state=ShardEpoch.State.DISTRUSTED)
    return set(rows.values_list("shard", flat=True))


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
    for shard, position in positions.items():
        keys = shards.opening_key(shard), shards.epoch_key(shard), shards.handed_in_key(shard)
        pipeline.eval(_CLOSE, len(keys), *keys, str(position.epoch))
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


# A shard stays distrusted until it is live: its opening may be broken off here.
_BEGIN = f"""
    WITH numbered AS (
        INSERT INTO shard_epochs AS e (shard, number, state, changed_at)
        SELECT shard, known + 1, 'rebuilding', now() FROM (VALUES {{values}}) AS v (shard, known)
        ON CONFLICT (shard) DO UPDATE SET
            number = greatest(e.number + 1, EXCLUDED.number), changed_at = now(),
            state = CASE e.state WHEN 'distrusted' THEN e.state ELSE EXCLUDED.state END
        RETURNING shard, number
    )
    INSERT INTO journal_positions (shard, epoch, last_id, batch) SELECT shard, number, '{START}', 0 FROM numbered
    ON CONFLICT (shard) DO UPDATE SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id
    RETURNING shard, epoch, batch
"""  # noqa: S608 - constants  # nosec B608


def finish(server: OneLife, positions: dict[int, Position]) -> None:
    """Set the counters of shards whose journals are drained, and make them live.

    Raises ``Fenced`` where another drain began to open one of them meanwhile.
    """
    forgetting = _distrusted(positions)
    now = clock.now()
    consumers = counters.consumers_of(positions, now)
    with ThreadPoolExecutor(1, "counters") as sender:
        sent = sender.submit(lambda: None)
        for some in _batched(positions.values(), AT_ONCE):
            # PostgreSQL works on these while Valkey sets those before.
            wanted = counters.counters({each.shard: consumers[each.shard] for each in some}, now)
            scripts = _Scripts(server)
            counted = _counted(server, forgetting.intersection(position.shard for position in some))
            for position in some:
                for keys in _batched(counted.get(position.shard, ()), MOST_COUNTERS):
                    scripts.add(position, _FORGET, keys, shards.tag(position.shard))
                _set(scripts, position, wanted[position.shard])
                _open(scripts, position)
            sent.result()
            sent = sender.submit(scripts.run)
        sent.result()
    crash.point("epoch-set")
    rows = ShardEpoch.objects.filter(shard__in=list(positions))
    # Whoever distrusts a shard while it is opened has it opened again.
    opened = rows.filter(state=ShardEpoch.State.REBUILDING) | rows.filter(shard__in=forgetting)
    opened.update(state=ShardEpoch.State.LIVE, changed_at=clock.now())


class _Scripts:
    """Scripts of openings, run together. Each wants the number that ``begin`` left in Valkey, and does nothing else."""

    def __init__(self, server: OneLife) -> None:
        self.server = server
        self._pipeline = server.client.pipeline(transaction=False)

    def add(self, position: Position, script: str, keys: Sequence[Any], *values: Any) -> None:
        mark = shards.opening_key(position.shard)
        self._pipeline.eval(script, 1 + len(keys), mark, *keys, position.epoch, *values)

    def run(self) -> None:
        """Raises ``Fenced`` where another drain began to open one of the shards."""
        if not all(self._pipeline.execute()):
            raise Fenced("a shard is being opened by another drain")


def _counted(server: OneLife, of: Collection[int]) -> dict[int, list[bytes]]:
    """Keys by shard, all of its counters among them. One look through the keys of all shards takes seconds."""
    found: dict[int, list[bytes]] = {shard: [] for shard in of}
    if found:
        tens = "".join(sorted({str(shard // 10) for shard in of}))
        for key in server.client.scan_iter(f"{{s[{tens}]?}}:[qsn]*", count=10_000):
            keys = found.get(int(key[2:4]))
            if keys is not None:
                keys.append(key)
    return found


def _set(scripts: _Scripts, position: Position, wanted: Iterable[Counter]) -> None:
    for some in _batched(wanted, MOST_COUNTERS):
        values = _flat((counter.expires, len(counter.fields), *counter.fields) for counter in some)
        scripts.add(position, _SET, [counter.key for counter in some], *values)


def _open(scripts: _Scripts, position: Position) -> None:
    shard = position.shard
    keys = [
        shards.epoch_key(shard), shards.leases_key(shard), shards.watermark_key(shard), shards.journal_key(shard),
        shards.former_leases_key(shard),
    ]  # fmt: skip
    epoch = f"{position.epoch}:{scripts.server.run_id}"
    fallback = shards.quota_expires(counters.months(clock.now())[0])
    scripts.add(position, _OPEN, keys, epoch, position.watermark, after(position.last_id), fallback)


def _number(key: str) -> int:
    number = key.partition(":")[0]
    return int(number) if number.isdigit() else 0


def _batched(of: Iterable[_Some], most: int) -> Iterator[list[_Some]]:
    rest = iter(of)
    while some := list(islice(rest, most)):
        yield some


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]
