"""The scripts that admit and settle, against a real server."""

import asyncio
import contextlib
import struct
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
import redis

from common import clock
from common.errors import Unavailable
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import journal, shards
from metering.journal import Entry
from quotas import errors, predecessors
from quotas.admission import Admission, Ask, Lease, NotLive, StaleEpoch
from quotas.limits import limit_set
from quotas.line import Line
from quotas.refusals import Rate
from tests.harness.admission import opened_admission
from tests.quotas.server_time import set_time

CONSUMER, SERVICE = uuid.uuid4(), uuid.uuid4()
SHARD = shards.shard_of(CONSUMER)


@pytest.fixture
async def admission(own_valkey: Valkey) -> AsyncIterator[Admission]:
    async with opened_admission(own_valkey.url, journal_bound=1000) as admission:
        yield admission


@pytest.fixture
async def hasty(own_valkey: Valkey) -> AsyncIterator[Admission]:
    """One that waits as long as callers do."""
    async with opened_admission(own_valkey.url, seconds=0.1) as admission:
        yield admission


def ask(
    *, requests_per_second: int | None = None, tokens_per_month: int | None = None, **changes: Any
) -> Ask:
    request_id = uuid7()
    whole = Ask(
        id=str(request_id),
        request_id=request_id,
        consumer_id=CONSUMER,
        service_id=SERVICE,
        limits=limit_set(requests_per_second, tokens_per_month),
        prompt_bound=10,
        output_cap=90,
        choices=1,
        cap_named=True,
        unsettled=journal.encode(entry(request_id, status="unsettled")),
    )
    return msgspec.structs.replace(whole, **changes)


def entry(request_id: uuid.UUID, *, tokens: int = 0, status: Any = "success") -> Entry:
    return Entry(
        request_id=request_id,
        consumer_id=CONSUMER,
        service_id=SERVICE,
        api_key_id=uuid.uuid4(),
        price_version_id=uuid.uuid4(),
        tier="basic",
        currency="USD",
        status=status,
        completion_tokens=tokens,
    )


async def settle(admission: Admission, lease: Lease, tokens: int) -> str:
    done = entry(lease.request_id, tokens=tokens)
    return await admission.settle(done, journal.encode(done))


async def counters(admission: Admission) -> tuple[int, int]:
    names = await admission._line.call(("KEYS", f"{shards.tag(SHARD)}:quota:*"))
    if not names:
        return 0, 0
    used, reserved = await admission._line.call(("HMGET", names[0], "used", "reserved"))
    return int(used or 0), int(reserved or 0)


async def journalled(admission: Admission) -> list[tuple[str, Entry]]:
    """How each entry of the shard was settled, and the entry."""
    found = await admission._line.call(("XRANGE", shards.journal_key(SHARD), "-", "+"))
    return [(fields[3].decode(), journal.decode(fields[1])) for _, fields in found]


async def test_reserved_becomes_used_and_is_journalled_once(admission: Admission) -> None:
    lease = await admission.admit(ask(tokens_per_month=1000))
    assert await counters(admission) == (0, 100)
    first = await settle(admission, lease, 42)
    assert await settle(admission, lease, 42) == first
    assert await counters(admission) == (42, 0)
    assert [(how, each.total_tokens) for how, each in await journalled(admission)] == [("lease", 42)]


async def test_a_release_gives_back_and_writes_nothing(admission: Admission) -> None:
    lease = await admission.admit(ask())
    await admission.release(lease)
    await admission.release(lease)
    assert await counters(admission) == (0, 0)
    assert await journalled(admission) == []


async def test_a_release_gives_its_request_back_once(timed: Admission) -> None:
    """What a bucket has taken in since is no request's any more: see the model of the buckets."""
    leases = [await timed.admit(ask(requests_per_second=20)) for _ in range(20)]
    for lease in leases[10:]:
        await timed.release(lease)
        await timed.release(lease)
    again = [timed.admit(ask(requests_per_second=20)) for _ in range(11)]
    *let_in, last = await asyncio.gather(*again, return_exceptions=True)
    assert not [each for each in let_in if isinstance(each, Exception)]
    assert isinstance(last, errors.RateLimited)


async def test_the_bucket_holds_one_second_and_says_when_to_come_back(timed: Admission) -> None:
    for left in (2, 1, 0):
        assert (await timed.admit(ask(requests_per_second=3))).rate == Rate(3, left, ANY)
    for passed in (0, 333):
        await set_time(timed, clock.now_ms() + passed)
        with pytest.raises(errors.RateLimited) as refusal:
            await timed.admit(ask(requests_per_second=3))
        assert (refusal.value.retry_after, refusal.value.extra) == (
            1,
            {"limit": 3, "remaining": 0, "scope": "service"},
        )
    assert await counters(timed) == (0, 300)
    await set_time(timed, clock.now_ms() + 334)
    await timed.admit(ask(requests_per_second=3))


async def test_zero_forbids_and_none_is_unlimited(admission: Admission) -> None:
    with pytest.raises(errors.TierForbids):
        await admission.admit(ask(requests_per_second=0))
    with pytest.raises(errors.QuotaExceeded):
        await admission.admit(ask(tokens_per_month=0))
    assert await counters(admission) == (0, 0)
    lease = await admission.admit(ask(output_cap=10**12))
    assert (lease.rate, lease.output_cap) == (None, 10**12)


async def test_a_quota_refusal_takes_nothing_from_the_bucket(admission: Admission) -> None:
    for _ in range(5):
        with pytest.raises(errors.QuotaExceeded):
            await admission.admit(ask(requests_per_second=3, tokens_per_month=99))
    assert (await admission.admit(ask(requests_per_second=3))).rate == Rate(3, 2, ANY)


async def test_402_only_where_used_tokens_alone_refuse(admission: Admission) -> None:
    running = await admission.admit(ask(tokens_per_month=150))
    with pytest.raises(errors.QuotaReserved) as waiting:
        await admission.admit(ask(tokens_per_month=150))
    assert waiting.value.retry_after == 1
    assert waiting.value.extra == {"limit": 150, "used": 0, "reserved": 100, "scope": "service"}
    await settle(admission, running, 51)
    with pytest.raises(errors.QuotaExceeded) as spent:
        await admission.admit(ask(tokens_per_month=150))
    assert (spent.value.extra["limit"], spent.value.extra["used"]) == (150, 51)
    await admission.admit(ask(tokens_per_month=151))


async def test_without_a_named_cap_a_call_gets_what_remains(admission: Admission) -> None:
    lease = await admission.admit(ask(tokens_per_month=60, cap_named=False))
    assert lease.output_cap == 50
    with pytest.raises(errors.QuotaReserved):
        await admission.admit(ask(tokens_per_month=60, cap_named=False))
    await settle(admission, lease, 49)
    last = await admission.admit(ask(tokens_per_month=60, cap_named=False))
    assert last.output_cap == 1
    await settle(admission, last, 11)
    with pytest.raises(errors.QuotaExceeded):
        await admission.admit(ask(tokens_per_month=60, cap_named=False))
    assert await counters(admission) == (60, 0)


async def test_two_hundred_at_once_never_overspend_and_waste_nothing(admission: Admission) -> None:
    """Demand is ten times the limit; every token of it is granted and not one more."""
    granted = 0

    async def call() -> None:
        nonlocal granted
        for _ in range(10):
            try:
                lease = await admission.admit(ask(tokens_per_month=20_000))
            except (errors.QuotaReserved, errors.QuotaExceeded):
                continue
            used, reserved = await counters(admission)
            assert used + reserved <= 20_000
            await settle(admission, lease, 100)
            granted += 100

    await asyncio.gather(*(call() for _ in range(200)))
    assert granted == 20_000
    assert await counters(admission) == (20_000, 0)
    assert len(await journalled(admission)) == 200


async def test_another_epoch_is_stale_and_changes_nothing(admission: Admission) -> None:
    lease = await admission.admit(ask())
    old = admission.epoch(SHARD)
    await admission._line.call(("SET", shards.epoch_key(SHARD), old.replace("1:", "2:", 1)))
    done = entry(lease.request_id, tokens=5)
    with pytest.raises(StaleEpoch):
        await admission.settle(done, journal.encode(done), epoch=old)
    assert not admission.is_live
    with pytest.raises(Unavailable):
        await admission.admit(ask())
    await admission.refresh_epochs()
    with pytest.raises(StaleEpoch):
        await admission.settle(done, journal.encode(done), epoch=old)
    assert await counters(admission) == (0, 100)
    assert await journalled(admission) == []

    await admission.append(SHARD, journal.encode(done))
    assert [how for how, _ in await journalled(admission)] == ["replay"]
    assert await counters(admission) == (0, 100)


async def test_nothing_is_settled_at_a_server_that_still_has_the_epoch_of_another(
    admission: Admission,
) -> None:
    """As one does that was set back to older files, or a replica that was promoted, until a drain opens it."""
    lease = await admission.admit(ask())
    done = entry(lease.request_id, tokens=5)
    before = "1:" + "0" * 40
    await admission._line.call(("SET", shards.epoch_key(SHARD), before))
    await admission.refresh_epochs()
    with pytest.raises(NotLive):
        await admission.settle(done, journal.encode(done), epoch=before)
    with pytest.raises(NotLive):
        await admission.lend(done, share="", epoch=before)
    assert await counters(admission) == (0, 100)
    assert await journalled(admission) == []


async def test_counters_of_another_server_life_are_not_believed(admission: Admission) -> None:
    await admission._line.call(("SET", shards.epoch_key(SHARD), "1:" + "0" * 40))
    assert not await admission.refresh_epochs()
    with pytest.raises(Unavailable) as refusal:
        await admission.admit(ask())
    assert refusal.value.retry_after == 1


async def test_a_full_journal_refuses_admission_but_never_a_settle(admission: Admission) -> None:
    lease = await admission.admit(ask())
    for _ in range(1000):
        admission._line.call(("XADD", shards.journal_key(SHARD), "*", "e", "x", "s", "lease"))
    with pytest.raises(Unavailable):
        await admission.admit(ask())
    await settle(admission, lease, 7)
    assert await counters(admission) == (7, 0)


async def test_an_id_far_from_the_servers_clock_is_refused(admission: Admission) -> None:
    with pytest.raises(Unavailable):
        await admission.admit(ask(request_id=uuid7(1_600_000_000_000)))
    assert await counters(admission) == (0, 0)


async def test_a_stall_while_clocks_are_compared_refuses_nobody_afterwards(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_call, stalls = Line.setup_call, iter([0.5])

    def stalling(line: Line, command: Any, **options: Any) -> asyncio.Future[Any]:
        answer = setup_call(line, command, **options)
        if command[0] == "TIME":
            asyncio.get_running_loop().call_soon(time.sleep, next(stalls, 0))  # once it is sent
        return answer

    monkeypatch.setattr(Line, "setup_call", stalling)
    async with opened_admission(own_valkey.url, seconds=0.1) as admission:
        for _ in range(20):
            with contextlib.suppress(Unavailable):  # where the machine is busy too
                assert (await admission.admit(ask())).output_cap == 90
                break
        else:
            pytest.fail("all were refused")


async def test_an_admission_nobody_waited_for_leaves_no_lease(hasty: Admission, own_valkey: Valkey) -> None:
    own_valkey.pause()
    asks = [hasty.admit(ask()) for _ in range(20)]
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    own_valkey.resume()
    # Past the line, which gives up where the machine is busy and Valkey silent.
    with contextlib.closing(redis.Redis.from_url(own_valkey.url)) as client:
        for _ in range(400):
            await asyncio.sleep(0.05)
            if not client.hlen(shards.leases_key(SHARD)):
                break
        assert client.hlen(shards.leases_key(SHARD)) == 0
        held = [client.hget(name, "reserved") for name in client.scan_iter(f"{shards.tag(SHARD)}:quota:*")]
        assert set(held) <= {b"0"}


async def test_leases_are_renewed_and_the_lost_are_named(admission: Admission) -> None:
    lease, gone = await admission.admit(ask()), uuid7()
    before = await admission._line.call(("HGET", shards.leases_key(SHARD), str(lease.request_id)))
    await asyncio.sleep(0.02)
    assert await admission.renew(SHARD, [lease.request_id, gone]) == [gone]
    after = await admission._line.call(("HGET", shards.leases_key(SHARD), str(lease.request_id)))
    assert struct.unpack(">d", after[:8]) > struct.unpack(">d", before[:8])
    assert after[8:] == before[8:]


async def test_a_dead_lifes_leases_are_closed_and_a_settle_after_that_is_late(admission: Admission) -> None:
    lease = await admission.admit(ask())
    successor = Admission(admission._line, gateway="gate:2", journal_bound=1000)
    await successor.on_connect(admission._line.by_shard[0])
    assert await predecessors.reap(successor, {"other"}) == 0
    assert await predecessors.reap(successor, {"gate"}) == 1
    assert await counters(admission) == (0, 0)
    await settle(admission, lease, 33)
    assert await counters(admission) == (33, 0)
    found = [(how, each.status, each.total_tokens) for how, each in await journalled(admission)]
    assert found == [("reaped", "unsettled", 0), ("late", "success", 33)]
