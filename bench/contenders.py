"""Ours, nginx and the other gateways by turns, each alone on the measured core."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.calls import Target
from bench.connections import send_all
from bench.cores import GATEWAY_CORE
from bench.errors import BenchError
from bench.nginx import Nginx
from bench.peers import RECIPES, Peer
from bench.process import Process
from bench.report import say
from bench.running import Running
from bench.wrk import REST_SECONDS, Cost, cost_of

FEWEST_PEERS = 2
# Enough for pools to fill, and for what compiles as it runs to begin with it.
WARM_UP_CALLS = 64


@dataclass(frozen=True)
class Contender:
    """`rest`: seconds in which it answers the last calls."""

    process: Process
    target: Target
    does_not: str
    version: str = ""
    rest: int = REST_SECONDS
    # A process that nobody calls is stopped, lest it take from the core. Ours has leases to renew.
    pausable: bool = True


def start_peers(running: Running, folder: Path, upstream: Nginx) -> tuple[list[Contender], list[str]]:
    """Those that can be installed, started and called, and a line for each that cannot."""
    contenders, skipped = [], []
    for recipe in RECIPES:
        say(f"Starting {recipe.name}")
        try:
            peer = running.add(Peer(recipe, folder / "peers", upstream))
            peer.launch(GATEWAY_CORE)
            contender = Contender(peer, peer.target, recipe.does_not, recipe.version, peer.rest)
            asyncio.run(send_all(peer.target.port, peer.target.requests() * WARM_UP_CALLS))
        except BenchError as error:
            skipped.append(f"{recipe.name} is left out: {error}")
            say(f"  {skipped[-1]}")
            continue
        pause(contender)
        contenders.append(contender)
    return contenders, skipped


def require_peers(names: list[str]) -> None:
    if len(names) < FEWEST_PEERS:
        raise BenchError(f"of the other gateways only {names or 'none'} ran, and {FEWEST_PEERS} are needed")


def compare(
    folder: Path, ours: Contender, others: list[Contender], *, rounds: int, seconds: int
) -> tuple[dict[str, list[Cost]], list[str]]:
    """Every contender once a round, so that what else the machine does meets all of them alike.

    Also a line for each of the others that did not answer every call: it is left out. Where it is ours: BenchError.
    """
    costs: dict[str, list[Cost]] = {contender.target.name: [] for contender in (ours, *others)}
    broken: dict[str, str] = {}
    for number in range(rounds):
        for contender in (ours, *others):
            name = contender.target.name
            if name in broken:
                continue
            try:
                costs[name].append(measured_alone(folder, contender, seconds))
            except BenchError as error:
                if contender is ours:
                    raise
                broken[name] = f"{name} is left out: {error}"
                say(f"  {broken[name]}")
                continue
            say(f"  round {number + 1}  {told(name, costs[name][-1])}")
    return {name: found for name, found in costs.items() if name not in broken}, list(broken.values())


def measured_alone(folder: Path, contender: Contender, seconds: int) -> Cost:
    with alone(contender):
        return cost_of(folder, contender.target, contender.process, seconds=seconds, rest=contender.rest)


@contextlib.contextmanager
def alone(contender: Contender) -> Iterator[None]:
    if contender.pausable:
        contender.process.signal(signal.SIGCONT)
    try:
        yield
    finally:
        pause(contender)


def pause(contender: Contender) -> None:
    if contender.pausable:
        contender.process.signal(signal.SIGSTOP)


def told(name: str, cost: Cost) -> str:
    return (
        f"{name:10} {cost.cpu_us:9.1f} µs of CPU a call, {cost.per_cpu_second:7,.0f} calls a CPU-second, "
        f"{cost.load.per_second:7,.0f} calls/s, p99 {cost.load.p99_ms:.1f} ms, {cost.load.refused} refused"
    )
