"""What ``/metrics`` tells. Labels are bounded: no key, consumer or request is ever one."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

REGISTRY = CollectorRegistry()

HTTP_REQUESTS = Counter(
    "http_requests_total", "HTTP requests answered.", ("method", "path", "status"), registry=REGISTRY
)
CONSUMPTION_REQUESTS = Counter(
    "consumption_requests_total", "Calls by outcome.", ("service_id", "status"), registry=REGISTRY
)
TOKENS_CONSUMED = Counter(
    "tokens_consumed_total", "Tokens charged.", ("service_id", "tier"), registry=REGISTRY
)
RATE_LIMITS_EXCEEDED = Counter(
    "rate_limits_exceeded_total", "Calls refused by a rate limit.", ("service_id", "tier"), registry=REGISTRY
)
QUOTA_EXCEEDED = Counter(
    "quota_exceeded_total", "Calls refused by a quota.", ("service_id", "tier"), registry=REGISTRY
)
POLICY_VIOLATIONS = Counter(
    "policy_violations_total",
    "Calls refused by a policy.",
    ("service_id", "policy_id", "severity"),
    registry=REGISTRY,
)
SLA_VIOLATIONS = Gauge(
    "sla_violations_total",
    "Violations of service level objectives, as the ledger's checks recorded them.",
    ("service_id", "metric", "severity"),
    registry=REGISTRY,
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


class Timings(Collector):
    """A histogram that costs a twentieth of the library's to feed: one thread feeds it, so nothing is locked."""

    def __init__(self, name: str, help_: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels = name, help_, labels
        self._bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        REGISTRY.register(self)

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        """One more observation. Call it from the event loop's thread."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[labels] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The library's hook: what was fed so far."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, counts in list(self._counts.items()):
            upto = accumulate(counts)
            bounds = [*map(floatToGoString, self._bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, upto, strict=True)), self._sums[labels])
        yield family


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


@lru_cache(maxsize=4096)
def child(metric: Any, *labels: str) -> Any:
    """A metric's child by its labels; finding it anew costs more than counting."""
    return metric.labels(*labels)


_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")
#: The paths there are; all others share one label, or a scanner would fill the memory.
_PATHS = frozenset(
    {
        "/api/v1/consume/{id}", "/api/v1/quota/{id}", "/api/v1/usage/{id}", "/api/v1/keys", "/api/v1/keys/{id}",
        "/api/v1/services", "/api/v1/services/{id}", "/api/v1/token", "/api/v1/token/refresh",
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models",
        "/api/v1/openapi.json", "/api/v1/docs", "/health", "/health/ready", "/metrics",
    }
)  # fmt: skip
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


@lru_cache(maxsize=4096)
def _path_label(path: str) -> str:
    template = _UUID.sub("{id}", path)
    return template if template in _PATHS else "other"


def answered(method: str, path: str, status: int, seconds: float) -> None:
    """One HTTP request was answered."""
    labels = (method if method in _METHODS else "other", _path_label(path), str(status))
    child(HTTP_REQUESTS, *labels).inc()
    HTTP_DURATION.observe(labels, seconds)
