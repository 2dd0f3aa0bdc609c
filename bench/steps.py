"""Where a call's time goes: the gateway's own histogram per step, between two readings of `/metrics`."""

import re
import urllib.request
from dataclasses import dataclass

BUCKET = re.compile(r'consumption_step_duration_seconds_bucket\{le="([^"]+)",step="([^"]+)"\} (\S+)')

Histogram = dict[str, dict[float, float]]


def read_steps(url: str) -> Histogram:
    """Cumulative counts by step and upper bound (seconds)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: Histogram = {}
    for bound, step, count in BUCKET.findall(text):
        found.setdefault(step, {})[float(bound)] = float(count)
    return found


@dataclass(frozen=True)
class StepTime:
    """Milliseconds."""

    step: str
    p50: float
    p95: float
    p99: float


def step_times(before: Histogram, after: Histogram) -> list[StepTime]:
    """In the order in which the gateway tells its steps; only those that were taken in between."""
    times = []
    for step, counts in after.items():
        earlier = before.get(step, {})
        fresh = {bound: count - earlier.get(bound, 0.0) for bound, count in sorted(counts.items())}
        if fresh[float("inf")]:
            times.append(StepTime(step, *(quantile(fresh, share) * 1e3 for share in (0.5, 0.95, 0.99))))
    return times


def quantile(cumulative: dict[float, float], share: float) -> float:
    """Seconds, interpolated within the bucket as Prometheus does; what is beyond the last bound is that bound."""
    wanted = cumulative[float("inf")] * share
    lower, below = 0.0, 0.0
    for bound, count in cumulative.items():
        if count >= wanted:
            if bound == float("inf"):
                break
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
        lower, below = bound, count
    return lower
