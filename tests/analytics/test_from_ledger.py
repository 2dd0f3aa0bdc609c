"""The ledger's rows as events: all of them, once, in each shard's order."""

import datetime as dt
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from django.db import connection

from analytics import from_ledger, stream
from analytics.events import Event
from analytics.models import AnalyticsEvent, AnalyticsPosition
from analytics.sinks import EventSink, TableSink
from common import clock
from metering.models import JournalBatch, UsageRecord
from tests.factories import make_service
from tests.ledger_rows import Calls, outbox


class Unreachable(EventSink):
    """Somebody else's server, away after so many batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def write(self, events: object) -> None:
        self.batches -= 1
        if self.batches < 0:
            raise ConnectionError


class Kept(EventSink):
    def __init__(self) -> None:
        self.batches: list[list[Event]] = []

    def write(self, events: object) -> None:
        assert isinstance(events, list)
        self.batches.append(events)


def move_all() -> None:
    while from_ledger.move(TableSink()):
        pass


def positions() -> dict[int, int]:
    return dict(AnalyticsPosition.objects.values_list("shard", "batch"))


@pytest.fixture
def calls() -> Calls:
    return Calls(make_service("chat", version="2.1"))


@pytest.mark.django_db
def test_an_event_says_everything_about_a_call_and_nothing_of_its_content(calls: Calls) -> None:
    record = calls.record(
        prompt=100, completion=20, cost="0.012000000000000000", metadata={"user": "somebody@example.org"}
    )
    outbox(5, 1, record)
    move_all()
    event = AnalyticsEvent.objects.get()
    assert (event.event_id, event.type) == (str(record.id), "consumption_request")
    assert (event.subject, event.time) == (str(calls.service.id), record.timestamp)
    assert event.data == {
        "request_id": str(record.id),
        "kind": "usage",
        "consumer_id": str(calls.key.consumer_id),
        "service_id": str(calls.service.id),
        "service": "chat@2.1",
        "api_key_id": str(calls.key.id),
        "price_version_id": str(record.price_version_id),
        "tier": "enterprise",
        "status": "success",
        "settlement": "lease",
        "duration_ms": 100,
        "tokens": {
            "prompt": 100,
            "completion": 20,
            "cached": 0,
            "reasoning": 0,
            "cache_write": 0,
            "audio_prompt": 0,
            "audio_completion": 0,
            "total": 120,
        },
        "usage_source": "reported",
        "cost": "0.012",
        "currency": "USD",
    }
    assert positions() == {5: 1}


@pytest.mark.django_db
def test_batches_of_many_shards_become_one_event_a_row(calls: Calls) -> None:
    ids = set()
    for shard in (3, 0, 63):
        for number in (1, 2, 3):
            records = [calls.record() for _ in range(4)]
            outbox(shard, number, *records)
            ids |= {str(record.id) for record in records}
    outbox(0, 4)
    move_all()
    assert set(AnalyticsEvent.objects.values_list("event_id", flat=True)) == ids
    assert AnalyticsEvent.objects.count() == 36
    assert positions() == {0: 4, 3: 3, 63: 3}


@pytest.mark.django_db
def test_a_batch_that_commits_later_in_another_shard_is_not_missed(calls: Calls) -> None:
    outbox(7, 1, calls.record())
    move_all()
    late = calls.record()
    batch = outbox(2, 1, late)
    JournalBatch.objects.filter(id=batch.id).update(id=0)  # took its number from the sequence long before
    move_all()
    assert AnalyticsEvent.objects.filter(event_id=str(late.id)).exists()


@pytest.mark.django_db
def test_a_row_settled_later_changes_its_event(calls: Calls) -> None:
    record = calls.record(status="unsettled", prompt=0, completion=0, cost="0", settlement="reaped")
    outbox(1, 1, record)
    move_all()
    UsageRecord.objects.filter(id=record.id).update(status="success", cost_amount=Decimal("0.5"))
    outbox(1, 2, record)
    move_all()
    event = AnalyticsEvent.objects.get()
    assert (event.data["status"], event.data["cost"]) == ("success", "0.5")


@pytest.mark.django_db
def test_a_row_that_stands_in_two_waiting_batches_is_one_event(calls: Calls) -> None:
    record = calls.record()
    outbox(1, 1, record, record)
    outbox(1, 2, record)
    move_all()
    assert AnalyticsEvent.objects.count() == 1


@pytest.mark.django_db
def test_a_correction_is_an_event_of_its_own(calls: Calls) -> None:
    record = calls.record(status="unsettled")
    correction = calls.record(kind="correction", request_id=record.id, corrects=record.id)
    outbox(1, 1, record)
    outbox(1, 2, correction)
    move_all()
    event = AnalyticsEvent.objects.get(event_id=str(correction.id))
    assert event.data["kind"] == "correction"
    assert (event.data["request_id"], event.data["corrects"]) == (str(record.id), str(record.id))


@pytest.mark.django_db
def test_rows_of_several_months_are_found(calls: Calls) -> None:
    month_ahead = clock.month_start(clock.next_month(clock.now().date().replace(day=1)))
    records = [calls.record(), calls.record(at=month_ahead + dt.timedelta(hours=1))]
    outbox(1, 1, *records)
    move_all()
    assert AnalyticsEvent.objects.count() == 2


@pytest.mark.django_db
def test_a_sink_gets_at_most_a_hundred_events_at_a_time(calls: Calls) -> None:
    outbox(1, 1, *[calls.record() for _ in range(150)])
    outbox(2, 1, *[calls.record() for _ in range(70)])
    sink = Kept()
    from_ledger.move(sink)
    assert [len(batch) for batch in sink.batches] == [100, 100, 20]


@pytest.mark.django_db
def test_no_position_moves_when_the_sink_is_away(calls: Calls) -> None:
    outbox(1, 1, *[calls.record() for _ in range(150)])
    with pytest.raises(ConnectionError):
        stream.flush(Unreachable(batches=1))
    assert positions() == {}
    stream.flush()
    assert AnalyticsEvent.objects.count() == 150


@pytest.mark.django_db
def test_a_row_that_is_not_in_the_ledger_is_told_and_holds_nothing_up(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    here = calls.record()
    missing = uuid.UUID(int=here.id.int + 1)
    outbox(1, 1, missing, here)
    move_all()
    assert [row.event_id for row in AnalyticsEvent.objects.all()] == [str(here.id)]
    assert caplog.messages == ["1 rows of the drain's batches are not in the ledger"]


@pytest.mark.django_db
def test_passed_batches_go_except_the_last_ten_of_a_shard(calls: Calls) -> None:
    for number in range(1, 16):
        outbox(4, number)
    move_all()
    outbox(4, 16)  # not passed yet
    from_ledger.forget_passed()
    assert list(JournalBatch.objects.order_by("number").values_list("number", flat=True)) == [*range(6, 17)]


@pytest.mark.usefixtures("committed")
def test_workers_at_once_write_each_event_once() -> None:
    calls = Calls(make_service())
    expected = set()
    for number in range(1, 11):
        for shard in range(4):
            records = [calls.record() for _ in range(10)]
            outbox(shard, number, *records)
            expected |= {str(record.id) for record in records}
    together = threading.Barrier(6)

    def run() -> None:
        together.wait()
        try:
            stream.flush()
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(run) for _ in range(6)]:
            future.result()
    stream.flush()
    written = list(AnalyticsEvent.objects.values_list("event_id", flat=True))
    assert len(written) == 400
    assert set(written) == expected
    assert positions() == {0: 10, 1: 10, 2: 10, 3: 10}
