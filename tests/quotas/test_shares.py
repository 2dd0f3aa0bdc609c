"""Shares that gateways hold for local mode, on a real server: what all of them hold and use never exceeds the limit."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.ids import milliseconds_of, uuid7
from consumption.local_mode import LocalMode
from consumption.spool import Spool
from devstack.valkey import Valkey
from metering import journal, shards
from quotas import errors
from quotas import shares as shares_module
from quotas.admission import Admission, Ask, Lease, StaleEpoch
from quotas.commands import Counted, Ready
from quotas.limits import MONEY_A_MONTH, Limit, limit_set
from quotas.local_admission import LocalAdmission
from quotas.names import names_of
from quotas.shares import Shares
from tests.harness.admission import opened_admission
from tests.quotas.test_admission import CONSUMER, SERVICE, SHARD, ask, entry

LIMIT = 1_000
NAMES = names_of(CONSUMER, SERVICE)


@pytest.fixture
async def admission(own_valkey: Valkey) -> AsyncIterator[Admission]:
    async with opened_admission(own_valkey.url) as admission:
        yield admission


@pytest.fixture(autouse=True)
def asked_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares_module, "EASY_SECONDS", 0.0)


def ready_for(**changes: Any) -> Ready:
    whole: dict[str, Any] = {"requests_per_second": None, "tokens_per_month": LIMIT} | changes
    return Ready(NAMES, limit_set(**whole), Counted(uuid7(), "USD"))


def asking(ready: Ready, tokens: int = 100) -> Ask:
    asked = ask(prompt_bound=10, output_cap=tokens - 10)
    return msgspec.structs.replace(asked, limits=ready.limits, ready=ready)


async def counters(admission: Admission) -> tuple[int, int]:
    keys = await admission._line.call(("KEYS", f"{NAMES.quota}*"))
    used, reserved = await admission._line.call(("HMGET", keys[0], "used", "reserved"))
    return int(used or 0), int(reserved or 0)


async def held_by(admission: Admission, ready: Ready, *, gateways: int = 2) -> Shares:
    shares = Shares(admission, gateways=gateways)
    shares.seen(ready)
    await shares.refresh()
    return shares


def size_of(shares: Shares, ready: Ready) -> int:
    share = shares.find(ready, milliseconds_of(uuid7()))
    return 0 if share is None else share.size


async def test_a_share_is_the_remainder_divided_by_the_gateways_and_follows_it(admission: Admission) -> None:
    ready = ready_for()
    shares = await held_by(admission, ready)
    assert size_of(shares, ready) == 500
    assert await counters(admission) == (0, 500)
    other = await held_by(admission, ready)
    assert size_of(other, ready) == 250
    lease = await admission.admit(asking(ready, 200))
    await admission.settle(entry(lease.request_id, tokens=200), b"{}", ready=ready)
    for _ in range(20):
        for one in (shares, other):
            one.seen(ready)
            await one.refresh()
    # Each is half of what the other one leaves of 800.
    assert (size_of(shares, ready), size_of(other, ready)) == (267, 266)
    await shares.give_back()
    await other.give_back()
    assert await counters(admission) == (200, 0)


async def test_shares_make_room_for_calls_in_every_gateway(admission: Admission) -> None:
    ready = ready_for()
    one, other = await held_by(admission, ready), await held_by(admission, ready)
    with pytest.raises(errors.QuotaReserved):
        await admission.admit(asking(ready, 900))
    one.crowded(ready)
    await one.refresh()
    for _ in range(2):
        other.seen(ready)
        await other.refresh()
    assert (size_of(one, ready), size_of(other, ready)) == (0, 0)
    await admission.admit(asking(ready, 900))
    one.seen(ready)
    await one.refresh()
    assert size_of(one, ready) == 0


async def test_a_share_is_smaller_before_anybody_is_asked_and_larger_only_after(
    admission: Admission, own_valkey: Valkey
) -> None:
    ready = ready_for()
    shares = await held_by(admission, ready)
    await admission.admit(asking(ready, 400))
    shares.seen(ready)
    await shares.refresh()
    own_valkey.pause()
    shares.seen(ready)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(shares.refresh(), 0.05)
    assert size_of(shares, ready) == 300
    own_valkey.resume()


async def test_what_a_share_served_is_lent_and_settled_once(admission: Admission, tmp_path: Path) -> None:
    ready = ready_for()
    shares = await held_by(admission, ready)
    spool = Spool(tmp_path)
    spool.open()
    local = LocalMode(LocalAdmission(shares), spool)
    lease = await local.admit(asking(ready, 300))
    settled = entry(lease.request_id, tokens=120)
    await spool.settle_all(admission)
    assert await counters(admission) == (0, 500)
    await local.settle(settled, journal.encode(settled))
    assert await counters(admission) == (0, 500)
    share = shares.find(ready, milliseconds_of(lease.request_id))
    assert share is not None
    assert (share.size, share.out) == (500, 120)
    (record,) = spool._records.values()
    await spool.settle_all(admission)
    assert await counters(admission) == (120, 380)
    assert (len(spool), share.size, share.out) == (0, 380, 0)

    # Told again, as after a crash before the file was written anew.
    await admission.lend(settled, share=record.share, epoch=record.epoch)
    await admission.settle(settled, record.encoded, epoch=record.epoch)
    assert await counters(admission) == (120, 380)
    with pytest.raises(StaleEpoch):
        await admission.lend(settled, share=record.share, epoch="2:other")
    assert [fields[3] for _, fields in await journalled(admission)] == [b"lease"]
    spool.close()


async def journalled(admission: Admission) -> list[Any]:
    return list(await admission._line.call(("XRANGE", shards.journal_key(SHARD), "-", "+")))


async def test_a_dead_gateways_calls_are_counted_before_its_share_goes(
    admission: Admission, tmp_path: Path
) -> None:
    ready = ready_for()
    first = Spool(tmp_path)
    first.open()
    local = LocalMode(LocalAdmission(await held_by(admission, ready)), first)
    answered, cut = [await local.admit(asking(ready, 200)) for _ in range(2)]
    given_up = await local.admit(asking(ready, 50))
    await local.release(given_up.request_id)
    settled = entry(answered.request_id, tokens=120)
    await local.settle(settled, journal.encode(settled))
    first.close()

    second = Spool(tmp_path)
    second.open()
    assert (len(second), second.has_adopted) == (2, True)
    await second.settle_all(admission)
    assert not second.has_adopted
    assert await counters(admission) == (120, 380)
    entries = [(journal.decode(fields[1]), fields[3]) for _, fields in await journalled(admission)]
    found = {told.request_id: (told.status, told.total_tokens, how) for told, how in entries}
    assert found == {
        answered.request_id: ("success", 120, b"lease"),
        cut.request_id: ("unsettled", 0, b"replay"),
    }
    # The share is closed like a lease, and is no call.
    share_ids = list(await admission.open_leases(SHARD))
    assert await admission.close_leases(SHARD, share_ids) == 1
    assert await counters(admission) == (120, 0)
    assert len(await journalled(admission)) == 2
    second.close()


class Market:
    """Three gateways on one server; now one of them is alone, now another, while the others go on."""

    def __init__(self, admission: Admission, folder: Path) -> None:
        self.chance = random.Random(16)
        self.ready = ready_for()
        self.admission = admission
        self.gateways = [self._gateway(folder / str(number)) for number in range(3)]
        self.running: list[tuple[Lease, LocalMode | None]] = []
        self.used = 0

    def _gateway(self, folder: Path) -> tuple[Shares, LocalMode, Spool]:
        spool = Spool(folder)
        spool.open()
        shares = Shares(self.admission, gateways=3)
        return shares, LocalMode(LocalAdmission(shares), spool), spool

    async def step(self) -> None:
        shares, local, spool = self.chance.choice(self.gateways)
        actions: dict[str, Callable[[], Awaitable[Any]]] = {
            "local": lambda: self.call(local.admit, local),
            "shared": lambda: self.call(self.admission.admit, None),
            "settle": self.settle,
            "refresh": shares.refresh,
            "hand in": lambda: spool.settle_all(self.admission),
        }
        (name,) = self.chance.choices(list(actions), (3, 2, 3, 1, 1))
        try:
            await actions[name]()
        except errors.QuotaReserved:
            shares.crowded(self.ready)
        except (errors.QuotaExceeded, errors.Away):
            return
        if name == "shared":
            shares.seen(self.ready)

    async def call(self, admit: Callable[[Ask], Awaitable[Lease]], by: LocalMode | None) -> None:
        self.running.append((await admit(asking(self.ready, self.chance.randint(11, 60))), by))

    async def settle(self) -> None:
        if self.running:
            lease, by = self.running.pop(self.chance.randrange(len(self.running)))
            told = entry(lease.request_id, tokens=self.chance.randint(0, 11))
            self.used += told.total_tokens
            if by is None:
                await self.admission.settle(told, journal.encode(told), ready=self.ready)
            else:
                await by.settle(told, journal.encode(told))

    async def close(self) -> None:
        for lease, by in self.running:
            await (self.admission.release(lease) if by is None else by.release(lease.request_id))
        for shares, _, spool in self.gateways:
            await spool.settle_all(self.admission)
            await shares.give_back()
            spool.close()


async def test_no_gateway_overspends_whatever_the_others_do(admission: Admission, tmp_path: Path) -> None:
    market = Market(admission, tmp_path)
    await market.call(admission.admit, None)
    most, locally = 0, 0
    for _ in range(300):
        await market.step()
        most = max(most, sum(await counters(admission)))
        locally = max(locally, sum(by is not None for _, by in market.running))
    assert LIMIT * 0.9 < most <= LIMIT
    assert locally > 3
    await market.close()
    assert await counters(admission) == (market.used, 0)


async def test_what_cannot_be_kept_alone_is_refused(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ready_for()
    alone = LocalAdmission(await held_by(admission, plain))
    for refused, changes in (
        (errors.Away, {"further": (Limit(MONEY_A_MONTH, "consumer", "m:USD", 10**12, "USD"),)}),
        (errors.Away, {"requests_per_second": 1}),  # half a request for each
        (errors.TierForbids, {"requests_per_second": 0}),
        (errors.QuotaExceeded, {"tokens_per_month": 0}),
    ):
        with pytest.raises(refused):
            alone.admit(asking(ready_for(**changes)))
    with pytest.raises(errors.Away):
        alone.admit(asking(plain, 501))
    assert alone.admit(asking(plain, 500))[1].tokens == 500
    with pytest.raises(errors.Away):
        alone.admit(asking(plain, 11))
    # Another life of the server holds nothing for us.
    admission.moved(SHARD)
    with pytest.raises(errors.Away):
        LocalAdmission(await held_by(admission, plain)).admit(asking(plain, 11))


async def test_a_cap_that_nobody_named_is_what_the_share_leaves(admission: Admission) -> None:
    ready = ready_for()
    alone = LocalAdmission(await held_by(admission, ready))
    asked = msgspec.structs.replace(asking(ready, 900), cap_named=False)
    assert alone.admit(asked)[0].output_cap == 490


async def test_requests_flow_in_at_the_gateways_part_of_the_rate(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = ready_for(requests_per_second=20, tokens_per_month=None)
    now = [1_000.0]
    monkeypatch.setattr("quotas.local_admission.monotonic", lambda: now[0])
    alone = LocalAdmission(Shares(admission, gateways=2))

    def let_in() -> int:
        for count in range(100):
            try:
                alone.admit(asking(ready))
            except errors.RateLimited as refusal:
                return count if refusal.retry_after == 1 else -1
        return 100

    assert let_in() == 0  # Valkey's bucket may just have been emptied
    now[0] += 0.25
    assert let_in() == 2
    now[0] += 60
    assert let_in() == 10
    alone.not_alone()
    assert let_in() == 0
