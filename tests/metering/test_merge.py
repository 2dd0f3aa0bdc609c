"""The merge table, row by row, with exact values; and on every row, that nothing else changed."""

import datetime as dt
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from common.ids import moment_of, uuid7
from metering import journal, shards
from metering.models import (
    DeadLetter,
    JournalBatch,
    JournalPosition,
    QuotaPeriod,
    UsageRecord,
    UsageRollup,
)
from tests import factories
from tests.metering.market import Market, letters


def rollups() -> dict[str, tuple[Any, ...]]:
    return {
        row.status: (
            row.requests, row.duration_ms, row.prompt_tokens, row.completion_tokens, row.cached_tokens,
            row.reasoning_tokens, row.total_tokens, row.cost_amount,
        )
        for row in UsageRollup.objects.all()
    }  # fmt: skip


def used() -> int:
    return sum(QuotaPeriod.objects.values_list("used", flat=True))


def void(record: UsageRecord) -> UsageRecord:
    """What somebody writes who decides that an unsettled call stays free."""
    correction = UsageRecord.objects.get(id=record.id)
    correction.id = uuid7()
    correction.timestamp = moment_of(correction.id)
    correction.kind = UsageRecord.Kind.CORRECTION
    correction.corrects = record.id
    correction.save(force_insert=True)
    return correction


SETTLED = (1, 120, 10, 20, 0, 0, 30, Decimal("0.003"))
UNSETTLED = (1, 0, 0, 0, 0, 0, 0, Decimal(0))
NOTHING = (0, 0, 0, 0, 0, 0, 0, Decimal(0))


def test_a_settled_call_becomes_one_row_complete_in_every_column(market: Market) -> None:
    entry = market.entry(
        cached_tokens=4,
        reasoning_tokens=5,
        cache_write_tokens=3,
        audio_prompt_tokens=2,
        audio_completion_tokens=6,
        upstream_cost="0.0001",
        cost="0.000000000000000123",
        error="upstream\tfailed\\n",
        status="error",
        metadata=msgspec.Raw(b'{"a": "\\n\\t\\\\", "b": [1.10]}'),
    )
    market.write(entry, how="late")

    market.drain()

    row = market.record(entry)
    assert row.request_id == entry.request_id
    assert row.timestamp == moment_of(entry.request_id)
    assert (row.consumer_id, row.service_id) == (market.consumer.id, market.service.id)
    assert (row.api_key_id, row.price_version_id) == (market.key.id, market.price_version_id)
    assert (row.tier_id, row.duration_ms, row.total_tokens, row.currency) == ("enterprise", 120, 30, "USD")
    assert row.usage == {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
        "cached_tokens": 4,
        "reasoning_tokens": 5,
        "cache_write_tokens": 3,
        "audio_prompt_tokens": 2,
        "audio_completion_tokens": 6,
        "usage_source": "reported",
    }
    assert row.cost == {
        "amount": Decimal("0.000000000000000123"),
        "currency": "USD",
        "upstream": Decimal("0.0001"),
    }
    assert row.cost_amount == Decimal("0.000000000000000123")
    assert (row.status, row.error) == ("error", {"code": "upstream\tfailed\\n"})
    assert (row.kind, row.corrects, row.settlement) == ("usage", None, "late")
    assert row.metadata == {"a": "\n\t\\", "b": [1.1]}


def test_what_was_drained_is_rolled_up_announced_and_trimmed(market: Market) -> None:
    entries = [market.entry() for _ in range(3)]
    market.write(*entries)
    last: Any = market.valkey.xrevrange(shards.journal_key(market.shard), count=1)

    market.drain()

    hour = moment_of(entries[0].request_id).replace(minute=0, second=0, microsecond=0)
    rollup = UsageRollup.objects.get()
    assert rollup.hour == hour
    assert rollups() == {"success": (3, 360, 30, 60, 0, 0, 90, Decimal("0.009"))}
    period = QuotaPeriod.objects.get()
    assert (period.month, period.used, period.granted) == (market.month, 90, 1_000_000)
    position = JournalPosition.objects.get(shard=market.shard)
    assert (position.epoch, position.last_id, position.batch) == (1, last[0][0].decode(), 1)
    batch = JournalBatch.objects.get()
    assert (batch.shard, batch.number) == (market.shard, 1)
    assert batch.record_ids == [entry.request_id for entry in entries]
    assert market.valkey.get(shards.watermark_key(market.shard)) == f"1:{position.last_id}".encode()
    assert market.waiting() == 0


def test_every_kind_is_rolled_up_and_what_is_charged_and_what_the_upstream_cost(market: Market) -> None:
    kinds = {
        "cached_tokens": 1, "reasoning_tokens": 2, "cache_write_tokens": 3, "audio_prompt_tokens": 4,
        "audio_completion_tokens": 5,
    }  # fmt: skip
    market.write(
        market.entry(**kinds, upstream_cost="0.001"),
        market.entry(**kinds, upstream_cost="0"),
        market.entry(),
        market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0"),
        market.entry(status="error", usage_source="estimated"),
    )

    market.drain()

    good, bad = UsageRollup.objects.get(status="success"), UsageRollup.objects.get(status="error")
    assert {name: getattr(good, name) for name in kinds} == {name: 2 * n for name, n in kinds.items()}
    assert (good.requests, good.charged, good.upstream_requests) == (3, 3, 2)
    assert (good.cost_amount, good.upstream_amount) == (Decimal("0.009"), Decimal("0.001"))
    assert (bad.requests, bad.charged, bad.upstream_requests) == (2, 1, 0)
    market.assert_reconciled()


def test_an_entry_of_before_there_were_more_kinds_is_read(market: Market) -> None:
    entry = market.entry()
    old = msgspec.json.decode(journal.encode(entry))
    assert not {*journal.RARE_COUNTS, "upstream_cost"} & old.keys()
    market.write(msgspec.json.encode(old))

    market.drain()

    row = market.record(entry)
    assert set(row.usage) == {
        "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "usage_source",
    }  # fmt: skip
    assert row.cost == {"amount": Decimal("0.003"), "currency": "USD"}
    assert rollups() == {"success": SETTLED}


def test_the_same_settle_again_changes_nothing(market: Market) -> None:
    entry = market.entry()
    market.write(entry)
    market.drain()

    market.write(entry, how="replay")
    market.drain()

    assert UsageRecord.objects.get().settlement == "lease"
    assert rollups() == {"success": SETTLED}
    assert used() == 30
    assert [batch.record_ids for batch in JournalBatch.objects.all()] == [[entry.request_id], []]
    assert not DeadLetter.objects.exists()


def test_one_request_twice_in_one_batch_counts_once(market: Market) -> None:
    entry = market.entry()
    other = market.entry()
    market.write(entry, other, entry)

    market.drain()

    assert UsageRecord.objects.count() == 2
    assert rollups() == {"success": (2, 240, 20, 40, 0, 0, 60, Decimal("0.006"))}
    assert JournalBatch.objects.get().record_ids == [entry.request_id, other.request_id]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two batches"])
def test_a_settle_after_the_reaper_takes_the_unsettled_rows_place(market: Market, together: bool) -> None:
    settled = market.entry(limit=500)
    market.write(market.unsettled(request_id=settled.request_id), how="reaped")
    if not together:
        market.drain()
        assert (rollups(), used()) == ({"unsettled": UNSETTLED}, 0)
    market.write(settled, how="late")

    market.drain()

    row = UsageRecord.objects.get()
    assert (row.status, row.settlement, row.total_tokens) == ("success", "late", 30)
    assert (row.cost_amount, row.duration_ms) == (Decimal("0.003"), 120)
    assert rollups() == {"success": SETTLED} | ({} if together else {"unsettled": NOTHING})
    assert (used(), QuotaPeriod.objects.get().granted) == (30, 500)
    market.assert_reconciled()


def test_an_unsettled_row_is_settled_once(market: Market) -> None:
    settled = market.entry()
    market.write(market.unsettled(request_id=settled.request_id), how="reaped")
    market.drain()
    market.write(settled, settled, how="late")
    market.drain()
    market.write(settled, how="replay")
    market.drain()

    assert (UsageRecord.objects.count(), used(), letters()) == (1, 30, [])
    market.assert_reconciled()


@pytest.mark.parametrize("times", [1, 2])
def test_unsettled_after_a_settle_changes_nothing(market: Market, times: int) -> None:
    settled = market.entry()
    market.write(settled)
    market.drain()
    market.write(*[market.unsettled(request_id=settled.request_id)] * times, how="reaped")

    market.drain()

    assert UsageRecord.objects.get().status == "success"
    assert (rollups(), used(), letters()) == ({"success": SETTLED}, 30, [])


def test_a_settle_of_a_voided_row_becomes_one_correction(market: Market) -> None:
    settled = market.entry()
    market.write(market.unsettled(request_id=settled.request_id), how="reaped")
    market.drain()
    voided = void(market.record(settled))

    market.write(settled, how="late")
    market.drain()
    market.write(settled, how="replay")
    market.drain()

    assert market.record(settled).status == "unsettled"
    correction = UsageRecord.objects.exclude(id__in=(settled.request_id, voided.id)).get()
    assert (correction.kind, correction.corrects) == ("correction", settled.request_id)
    assert correction.request_id == settled.request_id
    assert (correction.status, correction.cost_amount, correction.total_tokens) == (
        "success",
        Decimal("0.003"),
        30,
    )
    assert correction.timestamp == moment_of(correction.id) > voided.timestamp
    assert rollups() == {"unsettled": UNSETTLED, "success": SETTLED}
    assert UsageRollup.objects.get(status="success").kind == "correction"
    assert (used(), letters()) == (0, [])
    assert JournalBatch.objects.order_by("-number")[1].record_ids == [correction.id]
    assert market.used() == 0


def test_another_settle_after_the_correction_is_a_conflict(market: Market) -> None:
    settled = market.entry()
    market.write(market.unsettled(request_id=settled.request_id), how="reaped")
    market.drain()
    void(market.record(settled))
    market.write(settled, market.entry(request_id=settled.request_id, cost="9"), how="late")

    market.drain()

    assert UsageRecord.objects.filter(kind="correction", status="success").count() == 1
    assert letters() == [("conflict", "the ledger has other amounts for this request")]


@pytest.mark.parametrize(
    "other",
    [
        {"prompt_tokens": 11},
        {"completion_tokens": 21},
        {"cached_tokens": 1},
        {"reasoning_tokens": 1},
        {"audio_prompt_tokens": 1},
        {"cost": "0.0031"},
        {"currency": "EUR"},
    ],
    ids=lambda other: next(iter(other)),
)
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two batches"])
def test_other_amounts_for_a_settled_call_wait_for_a_person(
    market: Market, other: dict[str, Any], together: bool
) -> None:
    settled = market.entry()
    good = market.entry()
    market.write(settled)
    if not together:
        market.drain()
    market.write(market.entry(request_id=settled.request_id, **other), good)

    market.drain()

    assert {row.id: row.cost_amount for row in UsageRecord.objects.all()} == {
        settled.request_id: Decimal("0.003"),
        good.request_id: Decimal("0.003"),
    }
    assert used() == 60
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.shard, letter.settlement) == ("conflict", market.shard, "lease")
    assert market.waiting() == 0


def test_a_call_of_another_consumer_never_takes_an_unsettled_rows_place(market: Market) -> None:
    entry = market.unsettled()
    market.write(entry, how="reaped")
    market.drain()
    stranger = factories.make_consumer()
    market.write(market.entry(request_id=entry.request_id, consumer_id=stranger.id), how="late")

    market.drain()

    assert market.record(entry).status == "unsettled"
    assert [reason for reason, _ in letters()] == ["conflict"]


def test_a_late_call_of_last_month_counts_in_its_own_month(market: Market) -> None:
    month_start = dt.datetime(market.month.year, market.month.month, 1, tzinfo=dt.UTC)
    before = market.entry(request_id=uuid7(int(month_start.timestamp() * 1000) - 1))
    after = market.entry(request_id=uuid7(int(month_start.timestamp() * 1000)))
    market.write(before, after, how="replay")

    market.drain()

    last_month = (month_start - dt.timedelta(days=1)).date().replace(day=1)
    assert dict(QuotaPeriod.objects.values_list("month", "used")) == {last_month: 30, market.month: 30}
    assert UsageRecord.objects.count() == 2
    market.assert_reconciled()
