"""Limits under everything at once: no token and no cent more than allowed, and none less where it was asked for."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import Counter

import msgspec
import redis

from common import clock
from common.errors import Problem
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import journal, shards
from quotas import errors
from quotas.admission import Admission, Ask
from quotas.limits import MONEY_A_MONTH, limit_set
from tests.harness.admission import opened_admission
from tests.harness.servers import ROOT
from tests.quotas import hammer
from tests.quotas.limits import money_limit

#: ``make soak`` asks for a million.
CALLS = int(os.environ.get("ADMISSIONS", "100000"))
PROCESSES = 4


class Observer:
    """Looks at all counters from outside, again and again: what is used and reserved fits (invariant I3)."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most, self.looks = 0, 0

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def counters(self) -> list[tuple[int, int]]:
        """Used and reserved, by pair."""
        pipeline = self._client.pipeline(transaction=False)
        month = clock.month_of(clock.now())
        for number in range(hammer.PAIRS):
            consumer, service = hammer.pair(number)
            pipeline.hmget(
                shards.quota_key(shards.shard_of(consumer), consumer, service, month), "used", "reserved"
            )
        return [(int(used or 0), int(reserved or 0)) for used, reserved in pipeline.execute()]

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, *(used + reserved for used, reserved in self.counters()))
            self.looks += 1


async def test_a_hundred_thousand_admissions_grant_what_there_is_and_no_more(own_valkey: Valkey) -> None:
    async with opened_admission(own_valkey.url) as admission:
        with Observer(own_valkey.url) as observer:
            told = await asyncio.to_thread(hammered, own_valkey.url)
        outcomes: Counter[str] = Counter()
        granted: Counter[int] = Counter()
        for each in told:
            outcomes.update(each["outcomes"])
            granted.update({int(number): tokens for number, tokens in each["granted"].items()})
        assert observer.looks > 5
        assert observer.most == hammer.LIMIT
        assert set(outcomes) <= {
            "settled", "released", "abandoned", "quota_reserved", "quota_exceeded", "unavailable",
        }  # fmt: skip
        ended = outcomes["settled"] + outcomes["released"]
        assert min(ended, outcomes["quota_exceeded"], outcomes["quota_reserved"], outcomes["abandoned"]) > 0

        # What was abandoned comes back; at rest nobody is refused who fits.
        for shard in range(shards.SHARDS):
            ids = list(await admission.open_leases(shard))
            if ids:
                await admission.close_leases(shard, ids)
        assert {reserved for _, reserved in observer.counters()} == {0}
        assert [used for used, _ in observer.counters()] == [granted[n] for n in range(hammer.PAIRS)]
        for number in range(hammer.PAIRS):
            granted[number] += await drained(admission, number)
        assert set(granted.values()) == {hammer.LIMIT}
        assert set(observer.counters()) == {(hammer.LIMIT, 0)}


def hammered(url: str) -> list[dict[str, dict[str, int]]]:
    """What the processes were granted, and how their calls ended."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.quotas.hammer", url, str(seed), str(CALLS // PROCESSES)],
            cwd=ROOT,
            env={**os.environ, "PROCESS": "gateway"},  # which starts in half the time
            stdout=subprocess.PIPE,
        )
        for seed in range(PROCESSES)
    ]
    told = [process.communicate(timeout=CALLS / 500)[0] for process in running]
    assert {process.returncode for process in running} == {0}
    return [json.loads(text) for text in told]


async def drained(admission: Admission, number: int) -> int:
    """Take what is left of a pair; returns how much."""
    consumer, service = hammer.pair(number)
    taken = 0
    with contextlib.suppress(errors.QuotaExceeded):
        while True:
            ask = _ask(consumer, service)
            await admission.admit(ask)
            done = hammer._entry(ask.request_id, consumer, service, hammer.USED)
            await admission.settle(done, journal.encode(done))
            taken += hammer.USED
    return taken


def _ask(consumer: uuid.UUID, service: uuid.UUID) -> Ask:
    id_ = uuid7()
    entry = hammer._entry(id_, consumer, service, 0)
    limits = limit_set(None, hammer.LIMIT)
    return Ask(str(id_), id_, consumer, service, limits, 0, hammer.USED, 1, True, journal.encode(entry))


async def test_five_hundred_at_once_share_the_last_dollar(own_valkey: Valkey) -> None:
    """Each may cost a cent: a hundred are let in, and each cent that one did not need lets another one in."""
    consumer, services = uuid.uuid4(), [uuid.uuid4() for _ in range(5)]
    dollar = limit_set(None, None, (money_limit(MONEY_A_MONTH, "consumer", None, 10**9),), (0, 0, 10**5))
    async with opened_admission(own_valkey.url) as admission:

        async def call(number: int) -> tuple[int, str]:
            """Nano-units spent, and how it ended. Every other call costs half of what it might."""
            ask = msgspec.structs.replace(_ask(consumer, services[number % 5]), limits=dollar, output_cap=100)
            try:
                await admission.admit(ask)
            except Problem as refusal:
                return 0, refusal.code
            await asyncio.sleep(0.005)
            nano = 10**7 if number % 2 else 5 * 10**6
            done = hammer._entry(ask.request_id, consumer, services[number % 5], 10)
            done = msgspec.structs.replace(done, cost=f"0.{nano:09d}")
            await hammer._settled(admission, done)
            return nano, "settled"

        spent, codes = 0, set()
        for _ in range(20):
            ended = await asyncio.gather(*(call(number) for number in range(500)))
            spent += sum(nano for nano, _ in ended)
            codes |= {code for _, code in ended}
            assert spent <= 10**9
        assert codes == {"settled", "budget_reserved", "budget_exceeded"}
        # A cent has to be left for one to be let in, so less than that may remain.
        assert 10**9 - 10**7 < spent <= 10**9
        key = shards.spent_key(shards.shard_of(consumer), consumer, f"{clock.now():%Y%m}")
        found = await admission._line.call(("HMGET", key, "m:USD", "rm:USD"))
        assert [int(amount) for amount in found] == [spent, 0]
