"""What breaks, by name. Each comes back within a second or so; whatever it leaves broken, ``World.heal`` mends."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from random import Random

import psycopg2
import redis

from metering import shards
from tests.harness.proxy import Direction
from tests.schedules.gateway import Told
from tests.schedules.schedule import OPENING_STEPS, STEPS
from tests.schedules.world import DrainProcess, World

Fault = Callable[[World, Random, Told], None]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return register


def a_moment(random: Random, most: float = 0.05) -> None:
    time.sleep(random.uniform(0.0, most))


def any_drain(world: World, random: Random) -> DrainProcess:
    """One that runs and is to go on; started where there is none."""
    running = [drain for drain in world.alive if not drain.ended]
    return random.choice(running) if running else world.start_drain()


# -- the drain ---------------------------------------------------------------------------------------------------


@fault("a drain dies at a step")
def dies_at_a_step(world: World, random: Random, told: Told) -> None:
    die_at(world, f"{random.choice(STEPS)}:{random.choice((1, 1, 1, 2, 3))}", seconds=0.3)


@fault("a drain dies while it opens the shards")
def dies_while_it_opens(world: World, random: Random, told: Told) -> None:
    world.restart_valkey()
    die_at(world, f"{random.choice(OPENING_STEPS + STEPS)}:1", seconds=1.0)


def die_at(world: World, step: str, *, seconds: float) -> None:
    """A drain that dies there, if it gets there meanwhile. All shards are its own."""
    for drain in world.alive:
        world.end(drain, signal.SIGKILL)
    drain = world.start_drain(step)
    deadline = time.monotonic() + seconds
    while drain.is_alive and time.monotonic() < deadline:
        time.sleep(0.01)


def death_at(step: str) -> Fault:
    """Of every drain, at this very step, which the next one is certain to come to: there is something to drain."""

    def die(world: World, random: Random, told: Told) -> None:
        for drain in world.alive:
            world.end(drain, signal.SIGKILL)
        if step in OPENING_STEPS:
            world.restart_valkey()
        poison(world, random, told)
        die_at(world, step, seconds=60.0)

    return die


FAULTS |= {f"every drain dies at {step}": death_at(step) for step in STEPS + OPENING_STEPS}


@fault("a drain is killed")
def is_killed(world: World, random: Random, told: Told) -> None:
    a_moment(random)
    world.end(any_drain(world, random), signal.SIGKILL)
    a_moment(random)
    world.start_drain()


@fault("a drain is told to stop and started again")
def is_told_to_stop(world: World, random: Random, told: Told) -> None:
    world.end(any_drain(world, random), signal.SIGTERM)
    a_moment(random)
    world.start_drain()


@fault("one drain more")
def one_more(world: World, random: Random, told: Told) -> None:
    if len(world.alive) < 4:
        world.start_drain()
    a_moment(random)


@fault("a drain sleeps, and its session ends")
def sleeps(world: World, random: Random, told: Told) -> None:
    """It wakes up believing that it owns what another one has by then."""
    drain = any_drain(world, random)
    drain.send(signal.SIGSTOP)
    world.start_drain()
    _end_sessions(world, random, most=1)
    time.sleep(random.uniform(0.0, 0.3))
    drain.send(signal.SIGCONT)


# -- PostgreSQL --------------------------------------------------------------------------------------------------


@fault("the answer to a COMMIT is lost")
def answer_is_lost(world: World, random: Random, told: Told) -> None:
    any_drain(world, random)
    if world.proxy.hold_answer_to(b"COMMIT").wait(0.3):
        world.saw("COMMIT without an answer")
        time.sleep(random.choice((0.0, 0.002, 0.02)))
    _cut(world)


@fault("connections are cut")
def are_cut(world: World, random: Random, told: Told) -> None:
    for _ in range(random.randint(1, 5)):
        a_moment(random, 0.03)
        world.proxy.reset()


@fault("connections hang, and are cut")
def hang(world: World, random: Random, told: Told) -> None:
    world.proxy.pause(*random.choice(([Direction.TO_CLIENT], [Direction.TO_SERVER], list(Direction))))
    a_moment(random, 0.1)
    _cut(world)


def _cut(world: World) -> None:
    world.proxy.links[Direction.TO_SERVER].awaited = None
    world.proxy.reset()
    world.proxy.resume()


@fault("PostgreSQL cannot be reached")
def cannot_be_reached(world: World, random: Random, told: Told) -> None:
    world.proxy.refuse()
    world.proxy.reset()
    time.sleep(random.uniform(0.05, 0.3))
    world.proxy.accept()


@fault("sessions are ended")
def are_ended(world: World, random: Random, told: Told) -> None:
    _end_sessions(world, random, most=9)


def _end_sessions(world: World, random: Random, *, most: int) -> None:
    with contextlib.suppress(psycopg2.Error), world.superuser() as cursor:
        for pid in world.sessions()[:most]:
            cursor.execute(
                f"SELECT {random.choice(('pg_terminate_backend', 'pg_cancel_backend'))}(%s)", [pid]
            )


@fault("a server process is killed")
def server_process_is_killed(world: World, random: Random, told: Told) -> None:
    """PostgreSQL then ends all others too, and recovers."""
    any_drain(world, random)
    with contextlib.suppress(psycopg2.Error, ProcessLookupError):
        if found := world.sessions():
            os.kill(random.choice(found), signal.SIGKILL)
            world.saw("crash of PostgreSQL")


@fault("PostgreSQL stops in order")
def stops_in_order(world: World, random: Random, told: Told) -> None:
    _end_postgres(world, random, signal.SIGINT)


@fault("PostgreSQL stops at once")
def stops_at_once(world: World, random: Random, told: Told) -> None:
    _end_postgres(world, random, signal.SIGQUIT)


@fault("PostgreSQL is killed")
def postgres_is_killed(world: World, random: Random, told: Told) -> None:
    _end_postgres(world, random, signal.SIGKILL)


def _end_postgres(world: World, random: Random, number: signal.Signals) -> None:
    world.end_postgres(number)
    world.saw("end of PostgreSQL")
    a_moment(random, 0.1)
    world.restart_postgres()


@fault("the disk is full")
def disk_is_full(world: World, random: Random, told: Told) -> None:
    """The kernel refuses to write. Where what is written ahead finds no room, PostgreSQL ends and must be started."""
    if world.disk is None:
        return
    full_until = time.monotonic() + random.uniform(0.1, 0.4)
    while time.monotonic() < full_until:
        world.disk.fill()
        time.sleep(0.005)
    world.disk.free()
    world.restart_postgres()


@fault("rows are locked in the opposite order")
def locked_in_the_opposite_order(world: World, random: Random, told: Told) -> None:
    held = sorted({buyer.shard for buyer in told.buyers}, reverse=True)
    with contextlib.suppress(psycopg2.Error), world.superuser() as cursor:
        cursor.execute("BEGIN")
        for shard in held:
            cursor.execute("UPDATE journal_positions SET batch = batch WHERE shard = %s", [shard])
            time.sleep(random.uniform(0.0, 0.1))
        cursor.execute("COMMIT")


# -- Valkey ------------------------------------------------------------------------------------------------------


@fault("Valkey stalls")
def valkey_stalls(world: World, random: Random, told: Told) -> None:
    world.valkey.pause()
    time.sleep(random.uniform(0.05, 0.25))
    world.valkey.resume()


@fault("Valkey is restarted")
def valkey_is_restarted(world: World, random: Random, told: Told) -> None:
    world.valkey.stop()
    a_moment(random)
    world.valkey.start()


@fault("Valkey is killed")
def valkey_is_killed(world: World, random: Random, told: Told) -> None:
    world.restart_valkey()


@fault("Valkey is emptied")
def valkey_is_emptied(world: World, random: Random, told: Told) -> None:
    with contextlib.suppress(redis.RedisError):
        world.client().flushall()


@fault("Valkey loses its files")
def valkey_loses_its_files(world: World, random: Random, told: Told) -> None:
    world.valkey.kill()
    world.valkey.erase()
    world.valkey.start()


@fault("Valkey comes back with older files")
def valkey_comes_back_with_older_files(world: World, random: Random, told: Told) -> None:
    """As after a loss of power, in which what was not on disk yet is gone; and as a copy would be."""
    older = world.valkey.folder / "older"
    shutil.rmtree(older, ignore_errors=True)
    shutil.copytree(world.valkey.data, older)
    time.sleep(random.uniform(0.02, 0.2))
    world.valkey.kill()
    shutil.rmtree(world.valkey.data)
    older.rename(world.valkey.data)
    world.valkey.start()


# -- what comes in -----------------------------------------------------------------------------------------------


@fault("poison")
def poison(world: World, random: Random, told: Told) -> None:
    entry = f"no entry, {random.random()}".encode()
    client = world.client()
    with contextlib.suppress(redis.RedisError):
        told.poison.append(entry)
        client.xadd(shards.journal_key(random.choice(told.buyers).shard), {"e": entry, "s": "lease"})
    client.close()
