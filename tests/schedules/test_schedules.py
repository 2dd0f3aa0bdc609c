"""Two faults and more at once, drawn by seeds: whatever dies, every call is in the ledger once, and all sums agree.

A schedule that fails is made again by ``SCHEDULE_SEED=n pytest tests/schedules``. Processes are real, so what falls
together in it differs by milliseconds from one time to the next.
"""

import signal
import time
from dataclasses import replace

import pytest
from django.db import connection

from metering.models import JournalPosition
from metering.ownership import SHARD_LOCK
from quotas import reaper
from tests.harness.waiting import wait_for
from tests.schedules.conftest import seeds
from tests.schedules.faults import FAULTS
from tests.schedules.gateway import Offer, Told
from tests.schedules.invariants import Before, assert_all_hold
from tests.schedules.offers import make_buyer
from tests.schedules.schedule import OPENING_STEPS, STEPS, PlannedFault, Schedule, schedule
from tests.schedules.world import World, log_since

#: Seconds in which everything has to be well again once nothing is broken any more; on a machine that has time, two.
HEALED_IN = 45.0


pytestmark = [pytest.mark.usefixtures("db"), pytest.mark.timeout(200)]


@pytest.mark.parametrize("seed", seeds())
def test_every_call_counts_once_whatever_breaks(world: World, offers: list[Offer], seed: int) -> None:
    play_and_look(world, schedule(seed), offers)


@pytest.mark.parametrize("step", STEPS + OPENING_STEPS)
def test_a_drain_dies_at_every_step(world: World, offers: list[Offer], step: str) -> None:
    name = f"every drain dies at {step}"
    before = world.seen[f"died {step}"]
    planned = replace(schedule(0), faults=(PlannedFault(0.05, name, 0), PlannedFault(0.2, name, 1)))

    play_and_look(world, planned, offers)

    assert world.seen[f"died {step}"] - before == 2


def play_and_look(world: World, planned: Schedule, offers: list[Offer]) -> None:
    """Play it, heal everything, and see that every invariant holds."""
    print(planned)  # noqa: T201 - told where it fails
    told = Told([make_buyer() for _ in range(planned.consumers)], offers[: planned.services])
    before, logged = Before(), world.log.stat().st_size
    world.gateway.register()
    connection.close()

    play(world, planned, told)
    world.heal()
    try:
        world.gateway.finish(HEALED_IN)
        world.settle_down(HEALED_IN)
        reap_what_is_open(world, told)
    finally:
        log = log_since(world.log, logged)
        print(log)  # noqa: T201 - told where it fails
    assert "Traceback" not in log
    world.seen["full disk"] += log.count("No space left on device")

    client = world.client()
    assert_all_hold(told, before, client, lost=planned.loses)
    client.close()


def play(world: World, planned: Schedule, told: Told) -> None:
    while len([drain for drain in world.alive if not drain.ended]) < planned.drains:
        world.start_drain()
    world.gateway.begin(planned.calls, told)
    started = time.monotonic()
    for planned_fault in planned.faults:
        time.sleep(max(0.0, started + planned_fault.at - time.monotonic()))
        FAULTS[planned_fault.name](world, planned_fault.random, told)
        if not [drain for drain in world.alive if not drain.ended]:
            world.start_drain()


def reap_what_is_open(world: World, told: Told) -> None:
    """What was let in and left, and what an older Valkey knows as open: as the reaper does when its time has come."""
    client = world.client()
    for shard in {buyer.shard for buyer in told.buyers}:
        reaper.reap(shard=shard, request_ids=world.leases(client, shard))
    client.close()
    world.settle_down(HEALED_IN)


def owned(world: World) -> list[int]:
    """How many shards each drain owns."""
    with world.superuser() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s GROUP BY pid",
            [SHARD_LOCK],
        )
        return sorted(count for (count,) in cursor.fetchall())


def test_drains_come_and_go_and_share_the_shards(world: World, offers: list[Offer]) -> None:
    world.heal()
    world.settle_down(HEALED_IN)
    told, before = Told([make_buyer() for _ in range(8)], offers), Before()
    epochs = set(JournalPosition.objects.values_list("shard", "epoch"))
    calls = schedule(0).calls * 4
    world.gateway.begin(
        tuple(replace(call, consumer=n % 8, at=n / 200, end="settled") for n, call in enumerate(calls)), told
    )
    for drain in world.alive:
        world.end(drain, signal.SIGTERM)

    first = world.start_drain()
    wait_for(lambda: owned(world) == [64])
    world.start_drain()
    wait_for(lambda: owned(world) == [32, 32])
    world.start_drain()
    wait_for(lambda: owned(world) == [20, 22, 22])
    world.end(first, signal.SIGKILL)
    wait_for(lambda: owned(world) == [32, 32])
    world.gateway.finish(HEALED_IN)
    world.settle_down(HEALED_IN)

    client = world.client()
    assert_all_hold(told, before, client, lost=False)
    client.close()
    assert set(JournalPosition.objects.values_list("shard", "epoch")) == epochs


#: What has to have been seen at least once, and the fault that shows it.
WANTED = {
    "COMMIT without an answer": "the answer to a COMMIT is lost",
    "crash of PostgreSQL": "a server process is killed",
    "end of PostgreSQL": "PostgreSQL is killed",
    "full disk": "the disk is full",
}


@pytest.mark.parametrize("what", WANTED)
def test_what_schedules_are_to_show_was_seen(world: World, offers: list[Offer], what: str) -> None:
    """Whether a fault drawn by a seed strikes is up to the machine too, so one that never did is played by itself."""
    if what == "full disk" and world.disk is None:
        pytest.skip("a disk that is full needs root, and was left out")
    for attempt in range(10):
        if not world.seen[what]:
            alone = (PlannedFault(0.0, WANTED[what], attempt),)
            play_and_look(world, replace(schedule(attempt), faults=alone), offers)
    assert world.seen[what]
