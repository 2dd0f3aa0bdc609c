"""Limits beside the tier's rate and monthly tokens: calls that run, a key's own, tokens a minute, money."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from common import clock
from common.errors import Problem
from common.ids import milliseconds_of, uuid7
from devstack.valkey import Valkey
from metering import journal, shards
from metering.journal import Entry
from quotas import errors
from quotas.admission import Admission, Ask, Lease
from quotas.limits import (
    CONCURRENT,
    MONEY_A_DAY,
    MONEY_A_MONTH,
    REQUESTS,
    TOKENS,
    TOKENS_A_MINUTE,
    Limit,
    limit_set,
)
from quotas.names import Periods
from quotas.refusals import Rate
from tests.harness.admission import opened_admission
from tests.quotas.limits import every_kind, key_limit, money_limit, ordered, service_limit

CONSUMER, SERVICE, LINEAGE = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
SHARD = shards.shard_of(CONSUMER)
#: Nano-units that a call, a prompt token and a token of output cost at most.
PRICE = (0, 1, 10)
ALL = every_kind(SERVICE, LINEAGE)


@pytest.fixture
async def admission(own_valkey: Valkey) -> AsyncIterator[Admission]:
    async with opened_admission(own_valkey.url, journal_bound=1000) as admission:
        yield admission


def ask(*further: Limit, rate: int | None = None, tokens: int | None = None, **changes: Any) -> Ask:
    """A call of 10 prompt tokens and 90 of output: 910 nano-units at most."""
    request_id = uuid7()
    whole = Ask(
        id=str(request_id),
        request_id=request_id,
        consumer_id=CONSUMER,
        service_id=SERVICE,
        limits=limit_set(rate, tokens, ordered(*further), PRICE),
        prompt_bound=10,
        output_cap=90,
        choices=1,
        cap_named=True,
        unsettled=journal.encode(entry(request_id)),
    )
    return msgspec.structs.replace(whole, **changes)


def entry(request_id: uuid.UUID, *, tokens: int = 0, cost: str = "0") -> Entry:
    return Entry(
        request_id=request_id,
        consumer_id=CONSUMER,
        service_id=SERVICE,
        api_key_id=uuid.uuid4(),
        key_lineage=LINEAGE,
        price_version_id=uuid.uuid4(),
        tier="basic",
        currency="USD",
        status="success" if tokens else "unsettled",
        completion_tokens=tokens,
        cost=cost,
    )


async def settle(admission: Admission, lease: Lease, tokens: int, cost: str = "0") -> str:
    done = entry(lease.request_id, tokens=tokens, cost=cost)
    return await admission.settle(done, journal.encode(done))


async def held(admission: Admission) -> dict[str, float]:
    """Whatever is counted of the consumer, by field; what is zero and when buckets were looked at left out."""
    found: dict[str, float] = {}
    for pattern in (f"now:{CONSUMER}", f"spent:{CONSUMER}:*", f"quota:{CONSUMER}:*"):
        for key in await admission._line.call(("KEYS", f"{shards.tag(SHARD)}:{pattern}")):
            fields = await admission._line.call(("HGETALL", key))
            day = "day " if len(key.rpartition(b":")[2]) == 8 else ""
            for name, value in fields.items():
                found[f"{day}{_short(name.decode())}"] = float(value)
    return {name: value for name, value in found.items() if value and not name.endswith(":at")}


def _short(field: str) -> str:
    return field.replace(str(SERVICE), "service").replace(str(LINEAGE), "key")


async def refused(admission: Admission, kind: type[Problem], asked: Ask) -> Problem:
    """The refusal; it leaves everything as it was."""
    before = await held(admission)
    with pytest.raises(kind) as refusal:
        await admission.admit(asked)
    after = await held(admission)
    assert {n: v for n, v in after.items() if n[0] != "b"} == {n: v for n, v in before.items() if n[0] != "b"}
    return refusal.value


async def test_every_limit_is_held_and_given_back_once(admission: Admission) -> None:
    lease = await admission.admit(ask(*ALL, tokens=1000))
    found = await held(admission)
    assert found.pop("b:key") == 999
    assert found.pop("p:service") == 9_900
    assert found == {
        "c:service": 1, "c:key": 1, "rt:key": 100, "rm:USD": 910, "reserved": 100,
        "day rm:USD:key": 910, "day rm:USD:service": 910,
    }  # fmt: skip

    first = await settle(admission, lease, 40, cost="0.0000004001")
    assert await settle(admission, lease, 40, cost="0.0000004001") == first
    found = await held(admission)
    assert found.pop("p:service") == 9_960
    assert found.pop("b:key") == 999
    money = dict.fromkeys(("m:USD", "m:USD:key", "m:USD:service"), 401.0)  # rounded up
    assert found == {"t:key": 40, "used": 40, **money, **{f"day {name}": 401.0 for name in money}}


async def test_money_is_counted_to_the_last_unit_where_numbers_of_scripts_are_not(
    admission: Admission,
) -> None:
    """2^53 nano-units are some hundred dollars in the smallest currencies."""
    lease = await admission.admit(ask())
    month = f"{shards.tag(SHARD)}:spent:{CONSUMER}:{Periods().of(milliseconds_of(lease.request_id)).month}"
    await admission._line.call(("HSET", month, "m:USD", 2**53 + 1, f"m:USD:{SERVICE}", 2**53 - 1))
    await settle(admission, lease, 1, cost="0.000000001")
    found = await admission._line.call(("HMGET", month, "m:USD", f"m:USD:{SERVICE}", f"m:USD:{LINEAGE}"))
    assert list(map(int, found)) == [2**53 + 2, 2**53, 1]


@pytest.mark.parametrize("how", ["released", "reaped"])
async def test_a_call_that_came_to_nothing_holds_nothing(admission: Admission, how: str) -> None:
    lease = await admission.admit(ask(*ALL))
    for _ in range(2):
        if how == "released":
            await admission.release(lease)
        else:
            await admission.close_leases(SHARD, [str(lease.request_id)])
    found = await held(admission)
    assert {name for name in found if name[0] != "b"} == {"p:service"}
    assert found["p:service"] == 10_000

    if how == "reaped":
        await settle(admission, lease, 7, cost="0.000001")
        assert (await held(admission))["t:key"] == 7
        assert (await held(admission))["day m:USD:key"] == 1000


async def test_so_many_run_at_once_and_no_more(admission: Admission) -> None:
    two = (key_limit(CONCURRENT, LINEAGE, 2),)
    leases = [await admission.admit(ask(*two)) for _ in range(2)]
    refusal = await refused(admission, errors.TooManyRunning, ask(*two))
    assert (refusal.status, refusal.retry_after) == (429, 1)
    assert refusal.extra == {"limit": 2, "running": 2, "scope": "key"}
    await settle(admission, leases[0], 5)
    await admission.admit(ask(*two))


async def test_a_key_has_a_bucket_of_its_own_and_the_tighter_one_is_told(timed: Admission) -> None:
    limits = (key_limit(REQUESTS, LINEAGE, 2),)
    lease = await timed.admit(ask(*limits, rate=100))
    assert lease.rate is not None
    assert (lease.rate.limit, lease.rate.left) == (2, 1)
    await timed.admit(ask(*limits, rate=100))
    with pytest.raises(errors.RateLimited) as refusal:
        await timed.admit(ask(*limits, rate=100))
    assert refusal.value.retry_after == 1
    assert refusal.value.extra == {"limit": 2, "remaining": 0, "scope": "key"}
    assert isinstance(refusal.value.rate, Rate)
    assert (refusal.value.rate.limit, refusal.value.rate.left) == (2, 0)
    other = await timed.admit(ask(rate=100))
    assert other.rate is not None
    assert other.rate.left == 97  # what was refused by the key's took nothing from the service's


async def test_a_minute_has_so_many_tokens(timed: Admission) -> None:
    limits = (service_limit(TOKENS_A_MINUTE, SERVICE, 150),)
    lease = await timed.admit(ask(*limits))
    refusal = await refused(timed, errors.TokensLimited, ask(*limits))
    assert refusal.retry_after == 20  # 50 tokens short, at 2.5 a second
    assert refusal.extra == {"limit": 150, "scope": "service"}
    await settle(timed, lease, 50)
    await timed.admit(ask(*limits))
    never = await refused(timed, errors.TokensLimited, ask(*limits, output_cap=141))
    assert never.retry_after is None
    least = await timed.admit(ask(key_limit(TOKENS_A_MINUTE, LINEAGE, 60), cap_named=False))
    assert least.output_cap == 50


async def test_money_is_402_only_where_what_is_spent_alone_refuses(admission: Admission) -> None:
    budget = (money_limit(MONEY_A_MONTH, "consumer", None, 1500),)
    lease = await admission.admit(ask(*budget))
    waiting = await refused(admission, errors.BudgetReserved, ask(*budget))
    assert (waiting.status, waiting.retry_after) == (429, 1)
    assert waiting.extra == {
        "limit": "0.0000015", "used": "0", "reserved": "0.00000091", "currency": "USD", "period": "month",
        "scope": "consumer",
    }  # fmt: skip
    await settle(admission, lease, 60, cost="0.0000006")
    spent = await refused(admission, errors.BudgetExceeded, ask(*budget))
    assert (spent.status, spent.retry_after) == (402, None)
    assert spent.extra["used"] == "0.0000006"
    assert spent.extra["reset_at"].endswith("-01T00:00:00Z")
    unnamed = await admission.admit(ask(*budget, cap_named=False))
    assert unnamed.output_cap == 89  # 10 of prompt and 890 of output are what is left


async def test_a_key_spends_its_months_tokens(admission: Admission) -> None:
    limits = (key_limit(TOKENS, LINEAGE, 120),)
    lease = await admission.admit(ask(*limits))
    waiting = await refused(admission, errors.QuotaReserved, ask(*limits))
    assert waiting.extra == {"limit": 120, "used": 0, "reserved": 100, "scope": "key"}
    await settle(admission, lease, 30)
    assert (await refused(admission, errors.QuotaExceeded, ask(*limits))).status == 402


async def test_what_was_used_before_a_limit_was_set_counts(admission: Admission) -> None:
    await settle(admission, await admission.admit(ask()), 50, cost="0.0000009")
    refusal = await refused(admission, errors.QuotaExceeded, ask(key_limit(TOKENS, LINEAGE, 149)))
    assert refusal.extra["used"] == 50
    today = money_limit(MONEY_A_DAY, "service", SERVICE, 1809)
    assert (await refused(admission, errors.BudgetExceeded, ask(today))).extra["used"] == "0.0000009"
    await admission.admit(
        ask(key_limit(TOKENS, LINEAGE, 150), money_limit(MONEY_A_DAY, "service", SERVICE, 1810))
    )


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        (service_limit(CONCURRENT, SERVICE, 0), errors.TierForbids),
        (service_limit(TOKENS_A_MINUTE, SERVICE, 0), errors.TierForbids),
        (key_limit(REQUESTS, LINEAGE, 0), errors.KeyForbids),
        (key_limit(TOKENS, LINEAGE, 0), errors.QuotaExceeded),
        (money_limit(MONEY_A_DAY, "consumer", None, 0), errors.BudgetExceeded),
    ],
)
async def test_zero_forbids_also_what_is_free(
    admission: Admission, limit: Limit, kind: type[Problem]
) -> None:
    free = ask(limits=limit_set(None, None, (limit,), (0, 0, 0)))
    await refused(admission, kind, free)
    assert await held(admission) == {}


async def test_an_upgrade_in_mid_month_keeps_what_was_used(admission: Admission) -> None:
    for _ in range(2):
        await settle(admission, await admission.admit(ask(tokens=200)), 100)
    spent = await refused(admission, errors.QuotaExceeded, ask(tokens=200))
    assert (spent.extra["limit"], spent.extra["used"]) == (200, 200)

    await settle(admission, await admission.admit(ask(tokens=350)), 100)
    assert (await held(admission))["used"] == 300
    spent = await refused(admission, errors.QuotaExceeded, ask(tokens=350))
    assert (spent.extra["limit"], spent.extra["used"]) == (350, 300)


async def test_counters_go_forty_days_after_their_month_and_four_days_after_their_day_began(
    admission: Admission,
) -> None:
    """Whichever command makes them: what is reserved alone, and what is settled late alone."""
    await admission.admit(ask(*ALL, tokens=1000))
    await settle(admission, await admission.admit(ask()), 10, cost="0.000001")
    now = clock.now()
    month_end = clock.month_start(clock.next_month(clock.month_of(now)))
    month = int(month_end.timestamp()) + 40 * 86_400
    day = int(clock.day_start(now.date()).timestamp()) + 4 * 86_400
    ends = set()
    for kind in ("quota", "spent"):
        for key in await admission._line.call(("KEYS", f"{shards.tag(SHARD)}:{kind}:*")):
            period = key.decode().rpartition(":")[2]
            ends.add((kind, period, await admission._line.call(("EXPIRETIME", key))))
    assert ends == {
        ("quota", f"{now:%Y%m}", month), ("spent", f"{now:%Y%m}", month), ("spent", f"{now:%Y%m%d}", day),
    }  # fmt: skip
