"""What the ledger says about a service's objectives, for all services in one query."""

import datetime as dt
import json
import uuid
from dataclasses import dataclass
from fractions import Fraction

from django.db import connection, transaction

from sla.models import Metric, Severity

#: Calls that ended within this time count for latency and error rate.
WINDOW = dt.timedelta(minutes=5)
#: Minutes within this time count for uptime.
UPTIME_WINDOW = dt.timedelta(hours=24)

# Partitions and index are found by ``timestamp``, when a call began. It counts where it ended, else a call
# under way during a check would be in no window. It began at most one deadline before it ended.
# Each minute of the day is asked for one success, which the index finds at once: it costs the same at any traffic.
_QUERY = """
    SELECT service.id, service.sla, recent.p95, recent.succeeded, recent.failed, day.minutes, day.minutes_up
    FROM services service
    LEFT JOIN LATERAL (
        SELECT
            percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms)
                FILTER (WHERE status = 'success') AS p95,
            count(*) FILTER (WHERE status = 'success') AS succeeded,
            count(*) FILTER (WHERE status = 'error') AS failed
        FROM usage_records
        WHERE service_id = service.id AND kind = 'usage'
            AND "timestamp" >= %(since)s - service.deadline_seconds * interval '1 second'
            AND "timestamp" + duration_ms * interval '1 millisecond' >= %(since)s
    ) recent ON true
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE up OR down) AS minutes, count(*) FILTER (WHERE up) AS minutes_up
        FROM generate_series(date_trunc('minute', %(day)s), %(now)s, interval '1 minute') AS minute
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT FROM usage_records
                WHERE service_id = service.id AND kind = 'usage' AND status = 'success'
                    AND "timestamp" >= minute AND "timestamp" < minute + interval '1 minute'
            ) AS up
        ) succeeded
        CROSS JOIN LATERAL (
            SELECT NOT up AND EXISTS (
                SELECT FROM usage_records
                WHERE service_id = service.id AND kind = 'usage' AND status = 'error'
                    AND "timestamp" >= minute AND "timestamp" < minute + interval '1 minute'
            ) AS down
        ) failed
        WHERE jsonb_exists(service.sla, 'uptime')
    ) day ON true
    WHERE service.sla <> '{}'::jsonb
    ORDER BY service.id
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """One objective and how it was kept. ``actual`` is None where there is no data.

    Fractions, because 0.98 against 0.99 is exactly twice the downtime allowed and a float does not know it.
    """

    service_id: uuid.UUID
    metric: Metric
    threshold: Fraction
    actual: Fraction | None

    @property
    def severity(self) -> Severity | None:
        """None: kept. Critical: twice the allowed or more (uptime: the downtime allowed). Else warning."""
        if self.actual is None:
            return None
        used, allowed = self.actual, self.threshold
        if self.metric is Metric.UPTIME:
            used, allowed = 1 - used, 1 - allowed
        if used <= allowed:
            return None
        return Severity.CRITICAL if used >= 2 * allowed else Severity.WARNING


def measure(now: dt.datetime) -> list[Measure]:
    """Every objective of every service, measured.

    - ``latency_p95_ms``: 95th percentile of ``duration_ms`` of the successful calls of the last five minutes.
    - ``error_rate``: errors among successes and errors of the last five minutes. Calls that the client
      cancelled and calls of unknown outcome (``unsettled``) are in neither number.
    - ``uptime``: of the minutes (UTC, by a call's beginning) of the last 24 hours in which calls succeeded or
      failed, the share in which at least one succeeded. Minutes without traffic say nothing.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SET LOCAL jit = off"
        )  # the estimate is far off, and compiling took five times the query
        cursor.execute(_QUERY, {"now": now, "since": now - WINDOW, "day": now - UPTIME_WINDOW})
        rows = cursor.fetchall()
    return [found for row in rows for found in _measures(*row)]


def _measures(
    service_id: uuid.UUID,
    sla: str,
    p95: float | None,
    succeeded: int,
    failed: int,
    minutes: int,
    minutes_up: int,
) -> list[Measure]:
    actual = {
        Metric.LATENCY_P95_MS: None if p95 is None else Fraction(p95),
        Metric.ERROR_RATE: _share(failed, succeeded + failed),
        Metric.UPTIME: _share(minutes_up, minutes),
    }
    objectives = json.loads(sla, parse_float=Fraction, parse_int=Fraction)
    return [
        Measure(service_id, metric, objectives[metric], actual[metric])
        for metric in Metric
        if metric in objectives
    ]


def _share(part: int, whole: int) -> Fraction | None:
    return Fraction(part, whole) if whole else None
