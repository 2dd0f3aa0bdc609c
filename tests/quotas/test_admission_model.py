"""Admission against a model in a few lines of Python: whatever happens in whatever order, the same answers."""

import asyncio
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common import clock
from common.errors import Problem
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import journal, shards
from quotas import errors
from quotas.admission import Admission, Ask, Lease, NotLive, StaleEpoch
from quotas.limits import CONCURRENT, MONEY_A_DAY, MONEY_A_MONTH, TOKENS, limit_set
from quotas.names import Period, Periods
from tests.harness.admission import open_epoch, opened_admission
from tests.harness.servers import RUN
from tests.quotas.limits import key_limit, money_limit, ordered, service_limit

SERVICES = [uuid.UUID(int=number) for number in (1, 2)]
LINEAGES = [uuid.UUID(int=number) for number in (11, 12)]
DAY_MS = 86_400_000
#: Nano-units that a token of output costs; prompts are free.
UNIT = 7
#: What a tier allows, in steps of the calls' own, so that limits are met to the last unit: tokens a month, calls that
#: run, a key's tokens, a consumer's money a day and a key's a month.
TIERS = [
    (300, 3, 400, 2450, 1750),
    (600, 4, 700, None, 3150),
    (None, None, None, 3850, None),
    (1000, 2, None, None, None),
]


@dataclass
class Account:
    used: int = 0
    reserved: int = 0


@dataclass
class Held:
    """A lease as the model knows it: what it reserves, by account."""

    lease: Lease
    day: int
    service: int
    key: int
    reserved: dict[str, int] = field(default_factory=dict)


class Model:
    """Accounts by name. A limit is a name, how much of it, and how much a call needs."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    def account(self, name: str) -> Account:
        return self.accounts.setdefault(name, Account())

    def decide(self, limits: list[tuple[str, int, int]]) -> str:
        """``ok``, or which kind of refusal. Calls that run are looked at first, then what is spent, then the rest."""
        running = [limit for limit in limits if limit[0].startswith("running")]
        others = [limit for limit in limits if limit not in running]
        if any(self.account(name).reserved + need > limit for name, limit, need in running):
            return "running"
        for name, limit, need in others:
            if self.account(name).used + need > limit:
                return f"spent {name.split()[0]}"
        for name, limit, need in others:
            account = self.account(name)
            if account.used + account.reserved + need > limit:
                return f"reserved {name.split()[0]}"
        return "ok"


MEANING: dict[type[Problem], str] = {
    errors.TooManyRunning: "running",
    errors.QuotaExceeded: "spent tokens",
    errors.QuotaReserved: "reserved tokens",
    errors.BudgetExceeded: "spent money",
    errors.BudgetReserved: "reserved money",
}


class Shifted(Periods):
    """Days go by in here, while the server's clock stands."""

    days = 0

    def of(self, at_ms: int) -> Period:
        return super().of(at_ms + self.days * DAY_MS)


class Admissions(RuleBasedStateMachine):
    """One consumer, two services, two keys, days that pass, tiers that change, epochs that are lost."""

    leases = Bundle("leases")
    loop: asyncio.AbstractEventLoop
    admission: Admission

    def __init__(self) -> None:
        super().__init__()
        self.consumer = uuid.uuid4()  # its own, so that machines share a server
        self.shard = shards.shard_of(self.consumer)
        self.model = Model()
        self.days = 0
        self.tier = TIERS[0]
        self.epoch_lost = False
        self.settled: dict[uuid.UUID, tuple[Held, int, int, str]] = {}
        self.open: dict[uuid.UUID, Held] = {}
        self.admission._periods = Shifted()

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def period(self, day: int) -> Period:
        moment = Shifted()
        moment.days = day
        return moment.of(clock.now_ms())

    def names(self, day: int, service: int, key: int) -> dict[str, str]:
        """The model's accounts that a call touches."""
        period = self.period(day)
        return {
            "quota": f"tokens s{service} {period.month}",
            "running": f"running s{service}",
            "key": f"tokens k{key} {period.month}",
            "day": f"money all {period.day}",
            "month": f"money k{key} {period.month}",
        }

    @rule(days=st.sampled_from([0, 0, 0, 1, 31]))
    def time_passes(self, days: int) -> None:
        self.days += days
        assert isinstance(self.admission._periods, Shifted)
        self.admission._periods.days = self.days

    @rule(tier=st.sampled_from(TIERS))
    def tier_changes(self, tier: Any) -> None:
        self.tier = tier

    @precondition(lambda self: not self.epoch_lost)
    @rule(
        target=leases, service=st.integers(0, 1), key=st.integers(0, 1), prompt=st.sampled_from([0, 50]),
        cap=st.sampled_from([50, 100]), choices=st.sampled_from([1, 1, 2]),
    )  # fmt: skip
    def admit(self, service: int, key: int, prompt: int, cap: int, choices: int) -> Any:
        names = self.names(self.days, service, key)
        need = prompt + choices * cap
        money = choices * cap * UNIT
        tokens, running, of_key, today, month = self.tier
        wanted: list[tuple[str, int | None, int]] = [
            (names["quota"], tokens, need), (names["running"], running, 1), (names["key"], of_key, need),
            (names["month"], month, money), (names["day"], today, money),
        ]  # fmt: skip
        limits = [(name, limit, amount) for name, limit, amount in wanted if limit is not None]
        expected = self.model.decide(limits)
        answer = self.run(self.asked(service, key, prompt, cap, choices))
        if not isinstance(answer, Lease):
            assert MEANING[type(answer)] == expected
            return None
        assert expected == "ok"
        held = Held(answer, self.days, service, key)
        # The tier's quota is held whether or not it is limited.
        held.reserved = {names["quota"]: need} | {name: amount for name, _, amount in limits}
        for name, amount in held.reserved.items():
            self.model.account(name).reserved += amount
        self.open[answer.request_id] = held
        return held

    async def asked(self, service: int, key: int, prompt: int, cap: int, choices: int) -> Lease | Problem:
        tokens, running, of_key, today, month = self.tier
        further = [
            service_limit(CONCURRENT, SERVICES[service], running) if running is not None else None,
            key_limit(TOKENS, LINEAGES[key], of_key) if of_key is not None else None,
            money_limit(MONEY_A_MONTH, "key", LINEAGES[key], month) if month is not None else None,
            money_limit(MONEY_A_DAY, "consumer", None, today) if today is not None else None,
        ]
        id_ = uuid7()
        limits = limit_set(None, tokens, ordered(*(one for one in further if one is not None)), (0, 0, UNIT))
        entry = journal.encode(self.entry(id_, service, key, 0, "0"))
        ask = Ask(str(id_), id_, self.consumer, SERVICES[service], limits, prompt, cap, choices, True, entry)
        try:
            return await self.admission.admit(ask)
        except Problem as refusal:
            return refusal

    def entry(self, id_: uuid.UUID, service: int, key: int, tokens: int, cost: str) -> journal.Entry:
        return journal.Entry(
            request_id=id_, consumer_id=self.consumer, service_id=SERVICES[service], api_key_id=uuid.uuid4(),
            key_lineage=LINEAGES[key], price_version_id=uuid.uuid4(), tier="t", currency="USD",
            status="success" if tokens else "unsettled", completion_tokens=tokens, cost=cost,
        )  # fmt: skip

    def at(self, held: Held) -> None:
        """A call counts in the period in which it began."""
        assert isinstance(self.admission._periods, Shifted)
        self.admission._periods.days = held.day

    def back(self) -> None:
        assert isinstance(self.admission._periods, Shifted)
        self.admission._periods.days = self.days

    def give_back(self, held: Held) -> None:
        if self.open.pop(held.lease.request_id, None) is not None:
            for name, amount in held.reserved.items():
                self.model.account(name).reserved -= amount

    def used(self, held: Held, tokens: int, nano: int) -> None:
        names = self.names(held.day, held.service, held.key)
        for name in ("quota", "key"):
            self.model.account(names[name]).used += tokens
        for name in ("day", "month"):
            self.model.account(names[name]).used += nano

    @precondition(lambda self: not self.epoch_lost)
    @rule(held=leases, share=st.sampled_from([0, 50, 100, 100]))
    def settle(self, held: Held | None, share: int) -> None:
        """Once, and again with no effect; after a reap or a loss it is late, and counts."""
        if held is None:
            return
        id_ = held.lease.request_id
        if id_ not in self.settled:
            tokens = held.lease.output_cap * share // 100
            self.give_back(held)
            self.used(held, tokens, tokens * UNIT)
            self.settled[id_] = (held, tokens, tokens * UNIT, "")
        held, tokens, nano, first = self.settled[id_]
        done = self.entry(id_, held.service, held.key, tokens, f"0.{nano:09d}" if nano else "0")
        self.at(held)
        stream_id = self.run(self.admission.settle(done, journal.encode(done)))
        self.back()
        assert first in ("", stream_id)
        self.settled[id_] = (held, tokens, nano, stream_id)

    @precondition(lambda self: not self.epoch_lost)
    @rule(held=consumes(leases))
    def release(self, held: Held | None) -> None:
        if held is None or held.lease.request_id in self.settled:
            return
        self.at(held)
        self.run(self.admission.release(held.lease))
        self.run(self.admission.release(held.lease))
        self.back()
        self.give_back(held)

    @precondition(lambda self: not self.epoch_lost)
    @rule(held=leases)
    def reap(self, held: Held | None) -> None:
        if held is None:
            return
        was_open = held.lease.request_id in self.open
        assert self.run(self.admission.close_leases(self.shard, [str(held.lease.request_id)])) == was_open
        self.give_back(held)

    @precondition(lambda self: not self.epoch_lost)
    @rule(held=leases)
    def renew(self, held: Held | None) -> None:
        if held is None:
            return
        id_ = held.lease.request_id
        gone = self.run(self.admission.renew(self.shard, [id_]))
        assert gone == ([] if id_ in self.open else [id_])

    @precondition(lambda self: not self.epoch_lost)
    @rule()
    def lose_the_epoch(self) -> None:
        self.run(self.admission._line.call(("DEL", shards.epoch_key(self.shard)), timeout=5))
        self.epoch_lost = True

    @precondition(lambda self: self.epoch_lost)
    @rule(held=leases)
    def nothing_is_settled_without_an_epoch(self, held: Held | None) -> None:
        if held is not None:
            done = self.entry(held.lease.request_id, held.service, held.key, 1, "0")
            with pytest.raises((StaleEpoch, NotLive)):  # whether this gateway has noticed yet
                self.run(self.admission.settle(done, journal.encode(done)))

    @precondition(lambda self: self.epoch_lost)
    @rule()
    def open_the_shard(self) -> None:
        self.run(open_epoch(self.admission._line.by_shard[0], 1))
        assert self.run(self.admission.refresh_epochs())
        self.epoch_lost = False

    def teardown(self) -> None:
        if self.epoch_lost:
            self.open_the_shard()
        assert self.counted() == {
            name: (account.used, account.reserved)
            for name, account in self.model.accounts.items()
            if (account.used, account.reserved) != (0, 0)
        }

    def counted(self) -> dict[str, tuple[int, int]]:
        """The same accounts as the server has them; what is zero left out."""
        found: dict[str, tuple[int, int]] = {}
        tag, line = shards.tag(self.shard), self.admission._line
        for name in self.model.accounts:
            kind, of, *period = name.split()
            if kind == "running":
                key = f"{tag}:now:{self.consumer}"
                fields = ("", f"c:{SERVICES[int(of[1:])]}")
            elif of.startswith("s"):
                key = f"{tag}:quota:{self.consumer}:{SERVICES[int(of[1:])]}:{period[0]}"
                fields = ("used", "reserved")
            else:
                key = f"{tag}:spent:{self.consumer}:{period[0]}"
                lineage = None if of == "all" else LINEAGES[int(of[1:])]
                one = (
                    shards.money_field("USD", lineage)
                    if kind == "money" or lineage is None
                    else shards.tokens_field(lineage)
                )
                fields = (one, shards.reserved_field(one))
            used, reserved = self.run(line.call(("HMGET", key, *fields), timeout=5))
            if (int(used or 0), int(reserved or 0)) != (0, 0):
                found[name] = (int(used or 0), int(reserved or 0))
        return found


def test_admission_answers_as_the_model_does(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", inherit=[RUN.lock.descriptor])
    server.start()
    loop = asyncio.new_event_loop()
    opened = opened_admission(server.url)
    try:
        Admissions.loop, Admissions.admission = loop, loop.run_until_complete(opened.__aenter__())
        few = settings(
            max_examples=60, stateful_step_count=60, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        run_state_machine_as_test(Admissions, settings=few)
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()
        server.stop()
