"""What the ledger says about objectives: exact numbers, and what counts in which."""

import datetime as dt
from fractions import Fraction

import pytest

from common import clock
from sla.measures import Measure, measure
from sla.models import Metric, Severity
from tests.factories import make_service
from tests.ledger_rows import Calls

pytestmark = pytest.mark.django_db

SECONDS = dt.timedelta(seconds=1)
MINUTES = dt.timedelta(minutes=1)


def measured(now: dt.datetime, metric: Metric) -> Fraction | None:
    (found,) = [each for each in measure(now) if each.metric is metric]
    return found.actual


def test_p95_is_of_the_successful_calls_of_the_last_five_minutes() -> None:
    now = clock.now()
    calls = Calls(make_service(sla={"latency_p95_ms": 100}))
    for duration in range(1, 102):  # 1 … 101: the 95th percentile is exactly 96
        calls.record(at=now - 10 * SECONDS, duration_ms=duration)
    calls.record(at=now - 10 * SECONDS, duration_ms=60_000, status="error")
    calls.record(at=now - 10 * SECONDS, duration_ms=60_000, status="cancelled")
    calls.record(at=now - 10 * MINUTES, duration_ms=60_000)
    assert measured(now, Metric.LATENCY_P95_MS) == 96


def test_a_call_counts_in_the_window_in_which_it_ended() -> None:
    now = clock.now()
    calls = Calls(make_service(sla={"latency_p95_ms": 100}, deadline_seconds=30))
    calls.record(at=now - 5 * MINUTES - 20 * SECONDS, duration_ms=25_000)
    assert measured(now, Metric.LATENCY_P95_MS) == 25_000
    assert measured(now + 10 * SECONDS, Metric.LATENCY_P95_MS) is None


def test_error_rate_leaves_out_cancelled_and_unsettled_calls() -> None:
    now = clock.now()
    calls = Calls(make_service(sla={"error_rate": 0.5}))
    for status in ["success", "success", "error", "cancelled", "cancelled", "unsettled"]:
        calls.record(at=now - SECONDS, status=status)
    assert measured(now, Metric.ERROR_RATE) == Fraction(1, 3)


def test_uptime_is_the_share_of_minutes_with_traffic_in_which_a_call_succeeded() -> None:
    now = clock.now().replace(second=30)
    calls = Calls(make_service(sla={"uptime": 0.999}))
    calls.record(at=now - 3 * MINUTES, status="error")
    calls.record(at=now - 3 * MINUTES, status="success")
    calls.record(at=now - 4 * MINUTES, status="error")
    calls.record(at=now - 4 * MINUTES, status="error")
    calls.record(at=now - 5 * MINUTES, status="success")
    calls.record(at=now - 6 * MINUTES, status="cancelled")
    calls.record(at=now - 7 * MINUTES, status="unsettled")
    assert measured(now, Metric.UPTIME) == Fraction(2, 3)


def test_corrections_and_other_services_do_not_count() -> None:
    now = clock.now()
    calls = Calls(make_service(sla={"latency_p95_ms": 100}))
    calls.record(at=now - SECONDS, duration_ms=7_000, kind="correction")
    Calls(make_service()).record(at=now - SECONDS, duration_ms=7_000)
    assert measured(now, Metric.LATENCY_P95_MS) is None


def test_only_services_with_objectives_are_measured_and_only_by_them() -> None:
    service = make_service(sla={"uptime": 0.9, "latency_p95_ms": 1})
    make_service(sla={})
    assert [(found.service_id, found.metric) for found in measure(clock.now())] == [
        (service.id, Metric.LATENCY_P95_MS),
        (service.id, Metric.UPTIME),
    ]


@pytest.mark.parametrize(
    ("metric", "threshold", "actual", "severity"),
    [
        (Metric.LATENCY_P95_MS, "100", "100", None),
        (Metric.LATENCY_P95_MS, "100", "100.5", Severity.WARNING),
        (Metric.LATENCY_P95_MS, "100", "199.9", Severity.WARNING),
        (Metric.LATENCY_P95_MS, "100", "200", Severity.CRITICAL),
        (Metric.ERROR_RATE, "0", "0", None),
        (Metric.ERROR_RATE, "0", "0.001", Severity.CRITICAL),
        (Metric.ERROR_RATE, "0.1", "0.2", Severity.CRITICAL),
        (Metric.UPTIME, "0.999", "0.999", None),
        (Metric.UPTIME, "0.999", "0.9985", Severity.WARNING),
        (Metric.UPTIME, "0.999", "0.998", Severity.CRITICAL),
        (Metric.UPTIME, "1", "1", None),
        (Metric.UPTIME, "1", "0.9999", Severity.CRITICAL),
    ],
)
def test_severity_is_critical_from_exactly_twice_the_allowed(
    metric: Metric, threshold: str, actual: str, severity: Severity | None
) -> None:
    found = Measure(make_service().id, metric, Fraction(threshold), Fraction(actual))
    assert found.severity is severity
