"""Ours, nginx and the other gateways by turns, each alone on the measured core."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.calls import Target
from bench.cores import GATEWAY_CORE
from bench.errors import BenchError
from bench.nginx import Nginx
from bench.peers import RECIPES, Peer
from bench.process import Process
from bench.report import say
from bench.running import Running
from bench.wrk import REST_SECONDS, Cost, cost_of

FEWEST_PEERS = 2
# Long enough for what compiles as it runs, and for pools to fill.
WARM_UP_SECONDS = 2


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
            cost_of(folder, peer.target, peer, seconds=WARM_UP_SECONDS, rest=peer.rest)
        except BenchError as error:
            skipped.append(f"{recipe.name} is left out: {error}")
            say(f"  {skipped[-1]}")
            continue
        pause(contender)
        contenders.append(contender)
    return contenders, skipped


def require_peers(contenders: list[Contender]) -> None:
    if len(contenders) < FEWEST_PEERS:
        raise BenchError(f"only {len(contenders)} other gateways ran, and {FEWEST_PEERS} are needed")


def compare(folder: Path, contenders: list[Contender], *, rounds: int, seconds: int) -> dict[str, list[Cost]]:
    """Every contender once a round, so that what else the machine does meets all of them alike."""
    costs: dict[str, list[Cost]] = {contender.target.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            with alone(contender):
                cost = cost_of(
                    folder, contender.target, contender.process, seconds=seconds, rest=contender.rest
                )
            costs[contender.target.name].append(cost)
            say(f"  round {number + 1}  {told(contender.target.name, cost)}")
    return costs


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
        f"{cost.load.per_second:7,.0f} calls/s, p99 {cost.load.p99_ms:.1f} ms"
    )
