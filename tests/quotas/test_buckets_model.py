"""Buckets of requests and of tokens against a model in a few lines, the server's time being the test's.

All amounts are sums of powers of two, so that the model's floats and the server's are the same to the last bit.
"""

import asyncio
import math
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule, run_state_machine_as_test

from common import clock
from common.errors import Problem
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import journal, shards
from quotas import errors
from quotas.admission import Admission, Ask, Lease
from quotas.limits import REQUESTS, TOKENS_A_MINUTE, limit_set
from quotas.names import Period, Periods
from tests.harness.admission import opened_admission
from tests.harness.servers import RUN
from tests.quotas.limits import key_limit, ordered, service_limit
from tests.quotas.server_time import set_time

SERVICE, LINEAGE = uuid.UUID(int=1), uuid.UUID(int=11)
#: Requests a second of the tier and of the key; tokens a minute: 1/32 a millisecond.
TIER, KEY, MINUTE = 4, 2, 1875
#: What a release leaves out, since moments are whole milliseconds.
ROUNDING_MS = 2


class Bucket:
    """So much fits in, and so much comes in a millisecond."""

    def __init__(self, size: int, ms: int) -> None:
        self.size, self.per_ms = size, size / ms
        self.level, self.since = float(size), 0

    def at(self, now: int) -> float:
        return min(self.size, self.level + (now - self.since) * self.per_ms)

    def take(self, amount: float, now: int) -> None:
        self.level, self.since = self.at(now) - amount, now

    def give_back(self, full_in: float, passed: int) -> None:
        """A request, unless it might have become full since. ``full_in``: ms, from when it was taken."""
        self.level += max(0.0, min(1.0, (full_in - passed - ROUNDING_MS) * self.size / 1000))


class Held(NamedTuple):
    lease: Lease
    need: int
    key: bool
    since: int


class FirstPeriod(Periods):
    """The month does not end while this is tried."""

    def __init__(self) -> None:
        super().__init__()
        self._first = super().of(clock.now_ms())

    def of(self, at_ms: int) -> Period:
        return self._first


class Buckets(RuleBasedStateMachine):
    """One consumer, one service, one key, and seconds that pass as told."""

    leases = Bundle("leases")
    loop: asyncio.AbstractEventLoop
    admission: Admission

    def __init__(self) -> None:
        super().__init__()
        self.consumer = uuid.uuid4()
        self.shard = shards.shard_of(self.consumer)
        self.now = clock.now_ms()
        self.tier, self.key, self.minute = Bucket(TIER, 1000), Bucket(KEY, 1000), Bucket(MINUTE, 60_000)

    @rule(ms=st.sampled_from([125, 250, 500, 1000, 8000, 61_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(target=leases, need=st.sampled_from([1, 500, 1000, 1875, 1876]), key=st.booleans())
    def admit(self, need: int, key: bool) -> Held | None:
        """With the key's own bucket, or without it."""
        refusal = self.expected(need, key)
        answer = self.loop.run_until_complete(self.asked(need, key))
        if refusal is not None:
            assert not isinstance(answer, Lease)
            assert (type(answer), answer.retry_after) == refusal
            return None
        assert isinstance(answer, Lease), answer
        self.tier.take(1, self.now)
        left = self.tier.at(self.now)
        size = TIER
        if key:
            self.key.take(1, self.now)
            if self.key.at(self.now) < left:
                left, size = self.key.at(self.now), KEY
        self.minute.take(need, self.now)
        assert answer.rate is not None
        assert answer.rate.left == math.floor(left)
        assert answer.rate.limit == size
        return Held(answer, need, key, self.now)

    def expected(self, need: int, key: bool) -> tuple[type[Problem], int | None] | None:
        buckets = [self.tier, self.key] if key else [self.tier]
        for bucket in buckets:
            if bucket.at(self.now) < 1:
                return errors.RateLimited, math.ceil((1 - bucket.at(self.now)) / bucket.size)
        if need > MINUTE:
            return errors.TokensLimited, None
        if need > self.minute.at(self.now):
            return errors.TokensLimited, math.ceil((need - self.minute.at(self.now)) * 60 / MINUTE)
        return None

    async def asked(self, need: int, key: bool) -> Lease | Problem:
        further = [service_limit(TOKENS_A_MINUTE, SERVICE, MINUTE)]
        if key:
            further.append(key_limit(REQUESTS, LINEAGE, KEY))
        limits = limit_set(TIER, None, ordered(*further))
        await set_time(self.admission, self.now)
        id_ = uuid7(self.now)
        entry = journal.encode(self.entry(id_, 0))
        ask = Ask(str(id_), id_, self.consumer, SERVICE, limits, 0, need, 1, True, entry)
        self.admission._lines[self.shard].clock_offset_ms = self.now - clock.now_ms()
        try:
            return await self.admission.admit(ask)
        except Problem as refusal:
            return refusal

    def entry(self, id_: uuid.UUID, tokens: int) -> journal.Entry:
        return journal.Entry(
            request_id=id_, consumer_id=self.consumer, service_id=SERVICE, api_key_id=uuid.uuid4(),
            key_lineage=LINEAGE, price_version_id=uuid.uuid4(), tier="t", currency="USD",
            status="success" if tokens else "unsettled", completion_tokens=tokens, cost="0",
        )  # fmt: skip

    @rule(held=consumes(leases), share=st.sampled_from([0, 1, 1, 2]))
    def settle(self, held: Held | None, share: int) -> None:
        """What was used of it: nothing, half, or all (of an even number)."""
        if held is None:
            return
        lease, need, *_ = held
        tokens = min(need, share * (need // 2))
        done = self.entry(lease.request_id, tokens)
        self.loop.run_until_complete(self.admission.settle(done, journal.encode(done)))
        self.minute.level += need - tokens

    @rule(held=consumes(leases), reaped=st.booleans())
    def come_to_nothing(self, held: Held | None, reaped: bool) -> None:
        if held is None:
            return
        lease, need, key, since = held
        if reaped:
            self.loop.run_until_complete(self.admission.close_leases(self.shard, [str(lease.request_id)]))
        else:
            assert lease.rate is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(clock, "now_ms", lambda: self.now)
                self.loop.run_until_complete(self.admission.release(lease))
            passed = self.now - since
            self.tier.give_back(1000 / TIER if key else lease.rate.full_in_ms, passed)
            if key:
                self.key.give_back(1000 / KEY, passed)
        self.minute.level += need


def test_buckets_answer_as_the_model_does(own_time: None, tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", inherit=[RUN.lock.descriptor])
    server.start()
    loop = asyncio.new_event_loop()
    opened = opened_admission(server.url)
    try:
        Buckets.loop, Buckets.admission = loop, loop.run_until_complete(opened.__aenter__())
        Buckets.admission._periods = FirstPeriod()
        few: Any = settings(
            max_examples=60, stateful_step_count=40, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        run_state_machine_as_test(Buckets, settings=few)
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()
        server.stop()
