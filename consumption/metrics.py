"""What ``/metrics`` tells. Labels are bounded: no key, consumer or request is ever one."""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

REGISTRY = CollectorRegistry()


class Tally(Collector):
    """A counter that costs a tenth of the library's to count with: one thread counts, so nothing is locked."""

    def __init__(self, name: str, help_: str, labels: Sequence[str]) -> None:
        self._name, self._help, self._labels = name, help_, labels
        self._counts: dict[tuple[str, ...], int] = defaultdict(int)
        REGISTRY.register(self)

    def add(self, *labels: str, count: int = 1) -> None:
        """Count. Call it from the event loop's thread."""
        self._counts[labels] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The library's hook: what was counted so far."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class Timing:
    """One histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more observation. Call it from the event loop's thread."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Timings(Collector):
    """A histogram for each set of labels, fed as cheaply as a ``Tally``."""

    def __init__(self, name: str, help_: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels = name, help_, labels
        self._bounds = tuple(bounds)
        self._timings: dict[tuple[str, ...], Timing] = {}
        REGISTRY.register(self)

    def of(self, *labels: str) -> Timing:
        """The histogram of these labels."""
        timing = self._timings.get(labels)
        if timing is None:
            timing = self._timings[labels] = Timing(self._bounds)
        return timing

    def items(self) -> list[tuple[tuple[str, ...], Timing]]:
        """Every histogram by its labels."""
        return list(self._timings.items())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The library's hook: what was fed so far."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, timing in self.items():
            upto = accumulate(timing.counts)
            bounds = [*map(floatToGoString, self._bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, upto, strict=True)), timing.sum)
        yield family


CONSUMPTION_REQUESTS = Tally("consumption_requests_total", "Calls by outcome.", ("service_id", "status"))
TOKENS_CONSUMED = Tally("tokens_consumed_total", "Tokens charged.", ("service_id", "tier"))
RATE_LIMITS_EXCEEDED = Tally(
    "rate_limits_exceeded_total", "Calls refused by a rate limit.", ("service_id", "tier")
)
QUOTA_EXCEEDED = Tally("quota_exceeded_total", "Calls refused by a quota.", ("service_id", "tier"))
POLICY_VIOLATIONS = Tally(
    "policy_violations_total", "Calls refused by a policy.", ("service_id", "policy_id", "severity")
)
SLA_VIOLATIONS = Gauge(
    "sla_violations_total",
    "Violations of service level objectives, as the ledger's checks recorded them.",
    ("service_id", "metric", "severity"),
    registry=REGISTRY,
)
QUOTA_DRIFTS = Gauge(
    "quota_drifts",
    "Live counters that differed from the ledger twice, as the comparisons recorded them.",
    ("healed",),
    registry=REGISTRY,
)
QUOTA_DRIFT_TOKENS = Gauge(
    "quota_drift_tokens", "Tokens that these counters were off by, in all.", ("healed",), registry=REGISTRY
)
DB_CONNECTIONS_ACTIVE = Gauge("db_connections_active", "PostgreSQL sessions at work.", registry=REGISTRY)
DB_CONNECTIONS_IDLE = Gauge("db_connections_idle", "PostgreSQL sessions at rest.", registry=REGISTRY)
REDIS_CONNECTIONS_ACTIVE = Gauge(
    "redis_connections_active", "Clients connected to Valkey.", registry=REGISTRY
)
ANALYTICS_BUFFER_SIZE = Gauge("analytics_buffer_size", "Events waiting in this process.", registry=REGISTRY)
ANALYTICS_DROPPED = Gauge("analytics_events_dropped", "Events dropped by this process.", registry=REGISTRY)
OPEN_CALLS = Gauge("consumption_open_calls", "Calls let in and not yet settled.", registry=REGISTRY)
SPOOLED = Gauge(
    "consumption_spooled_records", "Settled calls that Valkey has not confirmed.", registry=REGISTRY
)
RETAINED = Gauge(
    "consumption_retained_records",
    "Settled calls that the ledger may not have yet, in case Valkey loses them; beyond what memory may hold on disk.",
    ("held",),
    registry=REGISTRY,
)
RETAINED_BYTES = Gauge(
    "consumption_retained_bytes", "What those in memory take of it, about.", registry=REGISTRY
)
LOCAL_ADMISSIONS = Tally(
    "consumption_local_admissions_total",
    "Calls that this process let in by itself, out of its share.",
    ("service_id",),
)
GATEWAY_MODE = Gauge(
    "consumption_gateway_mode",
    "Who decides about limits, 1 where it is so: normal, Valkey; local, this process, for services that say so; "
    "closed, nobody.",
    ("mode",),
    registry=REGISTRY,
)
UPSTREAM_ENDPOINT_STATE = Gauge(
    "upstream_endpoint_state",
    "Breaker of an endpoint in this process: 0 closed, 1 half-open, 2 open.",
    ("service_id", "endpoint_id"),
    registry=REGISTRY,
)

STEP_DURATION = Timings(
    "consumption_step_duration_seconds",
    "Time of one step of a call.",
    ("step",),
    (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
)
HTTP_DURATION = Timings(
    "http_request_duration_seconds",
    "Time to answer a request.",
    ("method", "path", "status"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30),
)


class _Requests(Collector):
    """How many requests were answered is in their histogram already."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The library's hook: what was observed so far."""
        labels = ("method", "path", "status")
        family = CounterMetricFamily("http_requests_total", "HTTP requests answered.", labels=labels)
        for values, timing in HTTP_DURATION.items():
            family.add_metric(values, sum(timing.counts))
        yield family


REGISTRY.register(_Requests())

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")
#: The paths there are; all others share one label, or a scanner would fill the memory.
_PATHS = frozenset(
    {
        "/api/v1/consume/{id}", "/api/v1/quota/{id}", "/api/v1/usage/{id}", "/api/v1/keys", "/api/v1/keys/{id}",
        "/api/v1/services", "/api/v1/services/{id}", "/api/v1/token", "/api/v1/token/refresh",
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/models",
        "/api/v1/openapi.json", "/api/v1/docs", "/health", "/health/ready", "/metrics",
    }
)  # fmt: skip
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


@lru_cache(maxsize=4096)
def _requests(method: str, path: str, status: int) -> Timing:
    template = _UUID.sub("{id}", path)
    label = template if template in _PATHS else "other"
    return HTTP_DURATION.of(method if method in _METHODS else "other", label, str(status))


def answered(method: str, path: str, status: int, seconds: float) -> None:
    """One HTTP request was answered."""
    _requests(method, path, status).observe(seconds)
