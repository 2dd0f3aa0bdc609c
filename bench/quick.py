"""The first figure alone, in under a minute: CPU of one call, ours and nginx as a bare proxy."""

import statistics
from pathlib import Path

from bench import nginx
from bench.calls import Target, target
from bench.cores import GATEWAY_CORE, OTHER_CORE
from bench.ledger import LedgerWatch
from bench.marketplace import Marketplace
from bench.process import Process
from bench.report import say
from bench.running import Running
from bench.wrk import Cost, cost_of

ROUNDS, SECONDS = 3, 4
TOKENS = nginx.ANSWER_TOKENS


def quick(folder: Path, *, rounds: int = ROUNDS, seconds: int = SECONDS) -> None:
    with Running() as running:
        upstream = running.add(nginx.upstream(folder / "upstream"))
        upstream.launch(OTHER_CORE)
        marketplace = running.add(Marketplace(folder))
        say("Starting the marketplace")
        marketplace.start(f"{upstream.url}/v1")
        proxy = running.add(nginx.proxy(folder / "proxy", upstream))
        proxy.launch(GATEWAY_CORE)
        ledger = LedgerWatch(marketplace.postgres.url)
        gateway = marketplace.gateway()
        gateway.start()
        idle = gateway.process.rss()
        say("Proving every key once")
        ledger.expect(gateway.prove_keys(), TOKENS)
        contenders: list[tuple[Process, Target]] = [
            (gateway.process, gateway.target),
            (proxy, target("nginx", proxy.url, marketplace.calls)),
        ]
        costs: dict[str, list[Cost]] = {aimed.name: [] for _, aimed in contenders}
        for _ in range(rounds):
            for process, aimed in contenders:
                cost = cost_of(folder, aimed, process, seconds=seconds)
                costs[aimed.name].append(cost)
                say(f"  {told(aimed.name, cost)}")
        ledger.expect(sum(cost.load.answered for cost in costs["ours"]), TOKENS)
        say(f"ledger: {ledger.check()}, as answered")
        say(
            f"memory of the gateway: {idle / 1e6:.0f} MB idle, {gateway.process.rss() / 1e6:.0f} MB after the load"
        )
        for name, found in costs.items():
            say(f"{name:6}  median {statistics.median(cost.cpu_us for cost in found):7.1f} µs of CPU a call")


def told(name: str, cost: Cost) -> str:
    return (
        f"{name:6}  {cost.cpu_us:7.1f} µs of CPU a call, {cost.per_cpu_second:7,.0f} calls a CPU-second, "
        f"{cost.load.per_second:7,.0f} calls/s, p99 {cost.load.p99_ms:.1f} ms"
    )
