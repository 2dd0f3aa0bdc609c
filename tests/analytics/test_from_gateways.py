"""Refusals: from the gateways' stream to events and violation rows."""

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from analytics import events, from_gateways, stream
from analytics.models import AnalyticsEvent, SourcePosition
from analytics.sinks import TableSink
from catalog.models import Service
from metering import valkey
from policy.models import PolicyViolation
from tests.factories import make_consumer, make_service

pytestmark = pytest.mark.django_db


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    client = valkey.connect()
    client.delete(events.STREAM)
    yield client
    client.delete(events.STREAM)
    client.close()


def add(server: redis.Redis, event: events.Event | bytes, **options: Any) -> None:
    data = event if isinstance(event, bytes) else events.encode(event)
    server.xadd(events.STREAM, {events.STREAM_FIELD: data}, **options)


def limited(id_: str = "request-1") -> events.Event:
    return events.Event(id=id_, type="rate_limit_exceeded", subject="service", data={"tier": "basic"})


def refused(service: Service, **changes: Any) -> events.Event:
    request_id = uuid.uuid4()
    data = {
        "request_id": str(request_id),
        "consumer_id": str(make_consumer().id),
        "service_id": str(service.id),
        "policy_id": "data-residency",
        "severity": "critical",
        "reason": "It has to stay.",
        **changes,
    }
    moment = dt.datetime(2025, 11, 3, 12, 0, tzinfo=dt.UTC)
    return events.Event(
        id=str(request_id), type="policy_violation", subject=str(service.id), time=moment, data=data
    )


def event_ids() -> list[str]:
    return list(AnalyticsEvent.objects.order_by("id").values_list("event_id", flat=True))


def place() -> tuple[int, int]:
    row = SourcePosition.objects.get(source="gateways")
    return row.passed, row.lost


def test_a_refusal_becomes_an_event_once(server: redis.Redis) -> None:
    add(server, limited())
    stream.flush()
    stream.flush()
    event = AnalyticsEvent.objects.get()
    assert (event.event_id, event.type, event.subject) == ("request-1", "rate_limit_exceeded", "service")
    assert event.data == {"tier": "basic"}


def test_more_than_one_read_takes_come_in_order(server: redis.Redis) -> None:
    ids = [f"request-{number}" for number in range(1_234)]
    for id_ in ids:
        add(server, limited(id_))
    stream.flush()
    assert event_ids() == ids
    assert place() == (1_234, 0)


def test_an_event_that_a_gateway_sent_twice_is_one(server: redis.Redis) -> None:
    add(server, limited())
    add(server, limited())
    stream.flush()
    add(server, limited())
    stream.flush()
    assert event_ids() == ["request-1"]


def test_a_policys_refusal_becomes_a_violation_row_too(server: redis.Redis) -> None:
    service = make_service()
    event = refused(service)
    add(server, event)
    stream.flush()
    row = PolicyViolation.objects.get()
    assert str(row.id) == event.id
    assert (str(row.request_id), str(row.consumer_id)) == (
        event.data["request_id"],
        event.data["consumer_id"],
    )
    assert (row.service, row.policy_id, row.severity) == (service, "data-residency", "critical")
    assert (row.reason, row.timestamp) == ("It has to stay.", event.time)
    add(server, event)
    stream.flush()
    assert PolicyViolation.objects.count() == 1
    assert event_ids() == [event.id]


@pytest.mark.parametrize(
    "changes",
    [
        {"consumer_id": str(uuid.uuid4())},
        {"service_id": str(uuid.uuid4())},
        {"service_id": "not an id"},
        {"severity": "unheard of"},
        {"reason": "x" * 256},
    ],
)
def test_a_violation_that_fits_no_row_is_an_event_still(server: redis.Redis, changes: dict[str, str]) -> None:
    event, after = refused(make_service(), **changes), refused(make_service())
    add(server, event)
    add(server, after)
    stream.flush()
    assert event_ids() == [event.id, after.id]
    assert [str(row.id) for row in PolicyViolation.objects.all()] == [after.id]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        events.encode(limited())[:-1],
        events.encode(limited("x" * 101)),
        events.encode(limited("a\0b")),
        events.encode(limited()).replace(b"rate_limit_exceeded", b"something_else"),
    ],
)
def test_what_cannot_be_read_holds_nothing_up(server: redis.Redis, data: bytes) -> None:
    add(server, data)
    server.xadd(events.STREAM, {"another field": b""})
    add(server, limited("good"))
    stream.flush()
    assert event_ids() == ["good"]
    assert place() == (3, 0)


def test_entries_pushed_out_before_they_were_read_are_counted(server: redis.Redis) -> None:
    add(server, limited("a"))
    stream.flush()
    for id_ in "bcdef":
        add(server, limited(id_), maxlen=2, approximate=False)
    stream.flush()
    assert event_ids() == ["a", "e", "f"]
    assert place() == (6, 3)
    add(server, limited("g"), maxlen=2, approximate=False)
    stream.flush()
    assert event_ids() == ["a", "e", "f", "g"]
    assert place() == (7, 3)


def test_a_valkey_that_lost_its_data_starts_again_without_loss(server: redis.Redis) -> None:
    for id_ in "abc":
        add(server, limited(id_))
    stream.flush()
    server.delete(events.STREAM)
    add(server, limited("d"))
    stream.flush()
    assert event_ids() == ["a", "b", "c", "d"]
    assert place() == (1, 0)


def test_a_server_whose_clock_was_set_back_is_read_from_its_start(server: redis.Redis) -> None:
    add(server, limited("a"))
    stream.flush()
    server.delete(events.STREAM)
    server.xadd(events.STREAM, {events.STREAM_FIELD: events.encode(limited("b"))}, id="5-1")
    stream.flush()
    assert event_ids() == ["a", "b"]


def test_what_another_worker_has_kept_is_not_kept_again(server: redis.Redis) -> None:
    add(server, limited())
    found = from_gateways.read(server)
    assert found is not None
    assert from_gateways.keep(found, TableSink()) == 1
    AnalyticsEvent.objects.all().delete()
    assert from_gateways.keep(found, TableSink()) == 0
    assert event_ids() == []
    assert place() == (1, 0)


def test_without_valkey_the_ledger_still_becomes_events(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    stream.flush()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("refusals stay in Valkey for now")
