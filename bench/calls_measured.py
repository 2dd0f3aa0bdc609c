"""Calls that are answered at once: what one costs, what it waits, and what disturbs it."""

import statistics
from pathlib import Path

from bench.figures import Figure
from bench.ledger import LedgerWatch
from bench.marketplace import Gateway, Marketplace
from bench.nginx import ANSWER_TOKENS, Nginx
from bench.open_loop import Latencies, measure
from bench.plan import Plan
from bench.report import say
from bench.wrk import Cost, Load, Wrk
from bench.wrong_keys import good_key_latency, wrong_requests

RATE = 1000
AT_LEAST, AIM = 9_000, 13_000
AT_LEAST_TIMES, AIM_TIMES = 1.2, 1.6


def spread(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def throughput(ours: Gateway, costs: dict[str, list[Cost]], peers: list[str]) -> list[Figure]:
    """From the CPU of one call, ours and the other gateways'."""
    medians = {
        name: statistics.median(cost.per_cpu_second for cost in found) for name, found in costs.items()
    }
    mine, fastest = medians[ours.target.name], max(peers, key=medians.__getitem__)
    own = spread([cost.per_cpu_second for cost in costs[ours.target.name]])
    times = mine / medians[fastest]
    return [
        Figure("calls per CPU-second, 64 connections", mine, AT_LEAST, AIM, "/s", True, own),
        Figure(f"the same against {fastest}, the fastest", times, AT_LEAST_TIMES, AIM_TIMES, "times", True),
    ]


def added_latency(
    ours: Gateway, upstream: Nginx, ledger: LedgerWatch, plan: Plan, *, rate: int = RATE
) -> tuple[list[Figure], list[tuple[Latencies, Latencies]]]:
    """An open loop through the gateway and straight to the upstream, by turns; also each pair, ours first."""
    requests = ours.target.requests()
    pairs = []
    for _ in range(plan.latency_pairs):
        through = measure(ours.port, requests, rate=rate, seconds=plan.latency_seconds)
        direct = measure(upstream.port, requests, rate=rate, seconds=plan.latency_seconds)
        ledger.expect(through.answered, ANSWER_TOKENS)
        pairs.append((through, direct))
        say(f"  {rate} calls/s: " + " / ".join(added(through, direct, share) for share in (0.5, 0.99)))
    figures = []
    for share, at_least, aim in ((0.5, 1.0, 0.4), (0.99, 5.0, 2.0)):
        differences = [through.at(share) - direct.at(share) for through, direct in pairs]
        figures.append(
            Figure(
                f"added latency at {rate:,} calls/s, p{share * 100:.0f}",
                statistics.median(differences),
                at_least,
                aim,
                "ms",
                spread=spread(differences),
            )
        )
    return figures, pairs


def added(through: Latencies, direct: Latencies, share: float) -> str:
    return f"p{share * 100:.0f} {through.at(share):.2f} ms, direct {direct.at(share):.2f} ms"


def wrong_keys(ours: Gateway, marketplace: Marketplace, ledger: LedgerWatch, plan: Plan) -> Figure:
    """How much the p99 of a good key moves under 2,000 wrong ones a second."""
    good, wrong = ours.target.requests(), wrong_requests(marketplace.calls)
    moved = []
    for _ in range(plan.wrong_key_pairs):
        quiet = good_key_latency(ours.port, good, [], seconds=plan.wrong_key_seconds)
        noisy = good_key_latency(ours.port, good, wrong, seconds=plan.wrong_key_seconds)
        ledger.expect(quiet.answered + noisy.answered, ANSWER_TOKENS)
        moved.append(noisy.at(0.99) - quiet.at(0.99))
        say(f"  p99 of a good key {quiet.at(0.99):.2f} ms, under wrong keys {noisy.at(0.99):.2f} ms")
    median = statistics.median(moved)
    return Figure("p99 of a good key, moved by 2,000 wrong ones/s", median, 5, 5, "ms", spread=spread(moved))


def two_processes(folder: Path, first: Gateway, second: Gateway, ledger: LedgerWatch, plan: Plan) -> Figure:
    """CPU of a call where two gateways share the connections, against one that has them all."""
    more = []
    for _ in range(plan.rounds):
        alone = cost_together(folder, [first], plan.seconds)
        shared = cost_together(folder, [first, second], plan.seconds)
        ledger.expect(alone.load.answered + shared.load.answered, ANSWER_TOKENS)
        more.append((shared.cpu_us / alone.cpu_us - 1) * 100)
        say(f"  one gateway {alone.cpu_us:.1f} µs of CPU a call, two {shared.cpu_us:.1f} µs")
    return Figure(
        "CPU of a call with two gateways, more than with one",
        statistics.median(more),
        10,
        3,
        "%",
        spread=spread(more),
    )


def cost_together(folder: Path, gateways: list[Gateway], seconds: int) -> Cost:
    """64 connections in all, on that many gateways at once."""
    before = [gateway.process.cpu_seconds() for gateway in gateways]
    loads = []
    for number, gateway in enumerate(gateways):
        own = folder / f"wrk-{number}"
        own.mkdir(exist_ok=True)
        start = number * len(gateway.target.calls) // len(gateways)
        wrk = Wrk(own, gateway.target, seconds=seconds, connections=64 // len(gateways), start=start)
        loads.append(wrk.start())
    found = [load.result() for load in loads]
    spent = sum(
        gateway.process.cpu_seconds() - earlier for gateway, earlier in zip(gateways, before, strict=True)
    )
    answered = sum(load.answered for load in found)
    slowest = max(found, key=lambda load: load.p99_ms)
    together = Load(answered, seconds, slowest.p50_ms, slowest.p99_ms, sum(load.refused for load in found))
    return Cost(together, spent)
