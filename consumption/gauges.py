"""Gauges that are read when ``/metrics`` is asked for."""

import logging

import hiredis
from django.db import DatabaseError, connection
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Abs

from catalog.snapshot import Snapshot
from consumption import metrics
from consumption.local_mode import MODES
from consumption.routing import Router
from consumption.runtime import Runtime
from quotas.line import LineError
from quotas.models import QuotaDrift
from sla.models import SlaViolation

log = logging.getLogger(__name__)


async def observe(running: Runtime) -> None:
    """What this process and its Valkey know."""
    metrics.ANALYTICS_BUFFER_SIZE.set(len(running.events))
    metrics.ANALYTICS_DROPPED.set(running.events.dropped)
    metrics.OPEN_CALLS.set(running.settlement.open_calls)
    metrics.SPOOLED.set(len(running.spool))
    retained = running.spool.retained
    metrics.RETAINED.labels("memory").set(retained.in_memory)
    metrics.RETAINED.labels("disk").set(retained.files.records)
    metrics.RETAINED_BYTES.set(retained.bytes)
    for mode in MODES:
        metrics.GATEWAY_MODE.labels(mode).set(mode == running.mode)
    observe_endpoints(running.gateway.snapshot, running.gateway.upstream.router)
    clients = 0
    try:
        for line in set(running.line.by_shard):
            info: bytes = await line.call(("INFO", "clients"), timeout=1.0)
            clients += next(
                int(row[18:]) for row in info.splitlines() if row.startswith(b"connected_clients:")
            )
    except (LineError, hiredis.ReplyError):
        return
    metrics.REDIS_CONNECTIONS_ACTIVE.set(clients)


def observe_endpoints(snapshot: Snapshot, router: Router) -> None:
    """The state of every endpoint that the catalogue has now; those that it had are not told of any more."""
    gauge = metrics.UPSTREAM_ENDPOINT_STATE
    gauge.clear()
    for offer in snapshot.offers.values():
        for endpoint in offer.endpoints:
            gauge.labels(offer.text, endpoint.text).set(router.state(endpoint))


def observe_database() -> None:
    """What PostgreSQL knows. Where it is down the gauges keep their last values."""
    try:
        _observe_sessions()
        _observe_violations()
        _observe_drifts()
    except DatabaseError as error:
        log.warning("gauges not read: %s", type(error).__name__)


def _observe_sessions() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state = 'idle')"
            " FROM pg_stat_activity WHERE datname = current_database()"
        )
        active, idle = cursor.fetchone() or (0, 0)
    metrics.DB_CONNECTIONS_ACTIVE.set(active)
    metrics.DB_CONNECTIONS_IDLE.set(idle)


def _observe_violations() -> None:
    grouped = (
        SlaViolation.objects.order_by()
        .values_list("service_id", "metric", "severity")
        .annotate(n=Count("id"))
    )
    for service_id, metric, severity, count in grouped:
        metrics.SLA_VIOLATIONS.labels(str(service_id), metric, severity).set(count)


def _observe_drifts() -> None:
    of_tokens = Q(currency="") & ~Q(counted__startswith=QuotaDrift.RUNNING_CALLS)
    grouped = (
        QuotaDrift.objects.order_by()
        .values("healed")
        .annotate(n=Count("id"), tokens=Sum(Abs(F("counter") - F("ledger")), filter=of_tokens, default=0))
    )
    found = {row["healed"]: (row["n"], row["tokens"]) for row in grouped}
    for healed in (True, False):
        count, tokens = found.get(healed, (0, 0))
        metrics.QUOTA_DRIFTS.labels(str(healed).lower()).set(count)
        metrics.QUOTA_DRIFT_TOKENS.labels(str(healed).lower()).set(tokens)
