"""Voids and corrections that people enter: rows of their own, within what the call came to, and told in the trail."""

from decimal import Decimal
from typing import Any

import pytest

from audit.models import AuditEntry
from finance import reconciliation
from metering import corrections, journal
from metering.corrections import Amounts, CorrectionRefused
from metering.models import JournalBatch, QuotaPeriod, UsageRecord, UsageRollup
from metering.usage import usage_statistics
from quotas import sync
from tests.console import console, operator
from tests.finance.test_exports import done
from tests.metering.market import Market


@pytest.fixture
def settled(market: Market) -> journal.Entry:
    """A call of 10 and 20 tokens at 0.003 USD, in the ledger."""
    entry = market.entry()
    market.write(entry)
    market.drain()
    return entry


def rows() -> list[tuple[Any, ...]]:
    found = UsageRecord.objects.order_by("id")
    return [(row.kind, row.status, row.settlement, row.total_tokens, row.cost_amount) for row in found]


def test_a_correction_is_a_row_of_its_own_in_ledger_rollups_and_outbox(
    market: Market, settled: journal.Entry, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Any
) -> None:
    monkeypatch.setattr(sync, "BETWEEN_LOOKS", 0.01)
    settings.EXPORT_DIR = tmp_path
    done()  # the last export is older, and has to be borne out still
    row = corrections.correct(
        market.record(settled),
        Amounts(prompt_tokens=-4, cost=Decimal("-0.000000000000000001")),
        note="counted twice upstream",
        actor="anna",
        address="10.0.0.1",
    )
    assert (row.corrects, row.request_id) == (settled.request_id, settled.request_id)
    assert row.metadata == {"note": "counted twice upstream"}
    assert rows() == [
        ("usage", "success", "lease", 30, Decimal("0.003")),
        ("correction", "success", "manual", -4, Decimal("-0.000000000000000001")),
    ]
    assert dict(UsageRollup.objects.values_list("kind", "cost_amount")) == {
        "usage": Decimal("0.003"), "correction": Decimal("-0.000000000000000001"),
    }  # fmt: skip
    assert QuotaPeriod.objects.get().used == 30
    assert [batch.record_ids for batch in JournalBatch.objects.order_by("number")][-1] == [row.id]
    entry = AuditEntry.objects.get(action="usage_corrected")
    assert (entry.actor, entry.address, entry.target_id) == ("anna", "10.0.0.1", str(settled.request_id))
    assert (entry.after["note"], entry.after["cost"]) == (
        "counted twice upstream",
        "-0.000000000000000001 USD",
    )

    statistics = usage_statistics(consumer_id=market.consumer.id, service_id=market.service.id, days=2)
    assert (statistics.total_requests, statistics.total_tokens) == (1, 26)
    assert statistics.total_cost == Decimal("0.002999999999999999")
    assert (statistics.avg_latency_ms, statistics.error_rate) == (120.0, 0.0)
    market.write(settled, market.entry(), how="replay")
    market.drain()
    market.assert_reconciled()
    reconciled = reconciliation.reconcile(asked_by="anna")
    assert reconciled is not None
    assert list(reconciled.differences.exclude(source="counter")) == []


def test_a_call_never_comes_to_less_than_nothing(market: Market, settled: journal.Entry) -> None:
    record = market.record(settled)
    corrections.correct(record, Amounts(cost=Decimal("-0.002")), note="half", actor="anna")
    for amounts in (
        Amounts(),
        Amounts(cost=Decimal("-0.0011")),
        Amounts(completion_tokens=-21),
        Amounts(cached_tokens=-1),
    ):
        with pytest.raises(CorrectionRefused):
            corrections.correct(record, amounts, note="more", actor="anna")
    assert len(rows()) == 2
    assert AuditEntry.objects.filter(action="usage_corrected").count() == 1
    corrections.correct(record, Amounts(cost=Decimal("-0.001")), note="the rest", actor="anna")


def test_only_what_is_unsettled_is_voided_and_only_what_is_settled_corrected(
    market: Market, settled: journal.Entry
) -> None:
    open_ = market.unsettled()
    market.write(open_, how="reaped")
    market.drain()
    with pytest.raises(CorrectionRefused):
        corrections.void(market.record(settled), note="free", actor="anna")
    with pytest.raises(CorrectionRefused):
        corrections.correct(market.record(open_), Amounts(cost=Decimal(1)), note="guess", actor="anna")
    voided = corrections.void(market.record(open_), note="free", actor="anna")
    with pytest.raises(CorrectionRefused):
        corrections.void(market.record(open_), note="free", actor="anna")
    assert (voided.status, voided.cost_amount) == ("unsettled", Decimal(0))
    assert voided.corrects == open_.request_id

    market.write(market.entry(request_id=open_.request_id), how="late")
    market.drain()
    assert [row[:3] for row in rows()[2:]] == [
        ("correction", "unsettled", "manual"),
        ("correction", "success", "late"),
    ]
    late = UsageRecord.objects.get(settlement="late")
    corrections.correct(late, Amounts(cost=Decimal("-0.003")), note="free after all", actor="anna")
    market.write(market.entry(request_id=open_.request_id), how="replay")
    market.drain()
    assert len(rows()) == 5
    market.assert_reconciled()


def test_finance_corrects_and_voids_in_the_console_with_a_note(
    market: Market, settled: journal.Entry
) -> None:
    open_ = market.unsettled()
    market.write(open_, how="reaped")
    market.drain()
    record, finance = market.record(settled), console(operator("finance"))
    page = f"/admin/metering/usagerecord/{record.id}/"
    amounts = {
        "prompt_tokens": 0,
        "completion_tokens": -20,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "cost": "-0.002",
    }
    for role in ("admin", "viewer", "approver"):
        client = console(operator(role))
        assert client.post(page + "correct/", {**amounts, "note": "x"}).status_code == 403
        assert "correct/" not in client.get(page + "change/").content.decode()
    assert page + "correct/" in finance.get(page + "change/").content.decode()
    assert finance.post(page + "correct/", amounts).status_code == 400  # no note
    answer = finance.post(page + "correct/", {**amounts, "cost": "-9", "note": "x", "seen": 1})
    assert "less than nothing" in answer.content.decode()
    assert len(rows()) == 2
    seen = finance.get(page + "correct/").context["form"]["seen"].value()
    told = {**amounts, "note": "cut off", "seen": seen}
    assert finance.post(page + "correct/", told).status_code == 302
    again = finance.post(page + "correct/", told)
    assert "another row meanwhile" in again.content.decode()
    assert len(rows()) == 3
    assert rows()[-1] == ("correction", "success", "manual", -20, Decimal("-0.002"))
    rare = {"cache_write_tokens": 3, "audio_prompt_tokens": 4, "audio_completion_tokens": 5}
    form = finance.get(page + "correct/").content.decode()
    assert all(f'name="{name}"' in form for name in rare)
    assert finance.post(page + "correct/", {**rare, "note": "read again", "seen": 2}).status_code == 302
    added = UsageRecord.objects.order_by("-id")[0].usage
    assert {name: added[name] for name in rare} == rare

    before = len(rows())
    chosen = {"action": "void", "_selected_action": [open_.request_id, settled.request_id]}
    assert "Why, for the trail" in finance.post("/admin/metering/usagerecord/", chosen).content.decode()
    assert len(rows()) == before
    text = finance.post(
        "/admin/metering/usagerecord/", {**chosen, "note": "lost"}, follow=True
    ).content.decode()
    assert "1 voided" in text
    assert "1 were not unsettled" in text
    assert AuditEntry.objects.get(action="usage_voided").after["note"] == "lost"
