"""The usage explorer: its sums are the ledger's, its lines open further, and nothing that is typed breaks it."""

import datetime as dt
import html
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.db.models import Sum
from django.test import Client

from common import clock
from metering import explorer
from metering.explorer import GROUPS, Question, Row, Sums
from metering.models import UsageRecord, UsageRollup
from tests import factories
from tests.console import console, operator
from tests.ledger_rows import Calls
from tests.rollups import make_rollup

pytestmark = pytest.mark.django_db
URL = "/admin/metering/usagerollup/explore/"
FEBRUARY = Question(dt.date(2028, 2, 1), dt.date(2028, 2, 29), "day")


def rolled(
    calls: Calls, at: dt.datetime, *, requests: int = 1, tokens: int = 15, **fields: Any
) -> UsageRollup:
    key = calls.key
    return make_rollup(
        at.replace(minute=0, second=0, microsecond=0),
        **{
            "consumer_id": key.consumer_id,
            "service": calls.service,
            "api_key": key,
            "price_version": calls.service.price_versions.get(),
            "tier": key.tier,
            "status": "success",
            "currency": "USD",
            "requests": requests,
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "cost_amount": Decimal(tokens) / 10_000,
            **fields,
        },
    )


@pytest.fixture
def calls() -> list[Calls]:
    """Two consumers at two services: in February 2028, and one of them a little in January."""
    made = [Calls(factories.make_service(), factories.make_consumer(name=f"Consumer {n}")) for n in (1, 2)]
    for day in (1, 15, 29):
        rolled(made[0], dt.datetime(2028, 2, day, 23, tzinfo=dt.UTC), tokens=100)
    rolled(made[1], dt.datetime(2028, 2, 29, 23, tzinfo=dt.UTC), tokens=1000, status="error")
    rolled(made[1], dt.datetime(2028, 1, 31, 23, tzinfo=dt.UTC), tokens=5000)
    rolled(made[1], dt.datetime(2028, 3, 1, tzinfo=dt.UTC), tokens=7)
    return made


def asked(by: str, **changes: Any) -> list[Row]:
    return explorer.rows(Question(**{"first": FEBRUARY.first, "last": FEBRUARY.last, "by": by, **changes}))


@pytest.mark.parametrize("by", GROUPS)
def test_every_grouping_adds_up_to_the_rollups(calls: list[Calls], by: str) -> None:
    rows = asked(by)
    assert sum(row.sums.total_tokens for row in rows) == 1300
    assert sum((row.sums.cost for row in rows), Decimal(0)) == Decimal("0.13")
    (total,) = explorer.totals(FEBRUARY)
    assert (total.calls, total.errors, total.cost) == (4, 1, Decimal("0.13"))


def test_moments_come_in_their_order_and_others_by_cost(calls: list[Calls]) -> None:
    days = asked("day")
    assert [row.label for row in days] == [f"2028-02-{day:02}" for day in range(1, 30)]
    assert [row.label for row in days if row.sums.calls] == ["2028-02-01", "2028-02-15", "2028-02-29"]
    assert {row.sums for row in days if not row.sums.calls} == {Sums("USD")}
    assert asked("day", first=dt.date(2028, 4, 1), last=dt.date(2028, 4, 30)) == []
    assert [(row.label, row.sums.total_tokens) for row in asked("consumer")] == [
        ("Consumer 2", 1000), ("Consumer 1", 300),
    ]  # fmt: skip
    assert [row.label for row in asked("month", first=dt.date(2028, 1, 1))] == ["2028-01", "2028-02"]


def test_currencies_are_never_added_together(calls: list[Calls]) -> None:
    rolled(calls[0], dt.datetime(2028, 2, 2, tzinfo=dt.UTC), currency="EUR", tokens=1)
    assert {(row.sums.currency, row.sums.total_tokens) for row in asked("month")} == {
        ("USD", 1300),
        ("EUR", 1),
    }


def test_what_moved_is_told_against_as_many_days_before(calls: list[Calls]) -> None:
    moves = explorer.movers(Question(FEBRUARY.first, FEBRUARY.last, "consumer"))
    assert [(move.row.label, move.before, move.change) for move in moves] == [
        ("Consumer 2", Decimal("0.5"), Decimal("-0.4")), ("Consumer 1", Decimal(0), Decimal("0.03")),
    ]  # fmt: skip
    gone = explorer.movers(Question(dt.date(2028, 2, 1), dt.date(2028, 2, 1), "consumer"))
    assert [(move.row.label, move.row.sums.cost, move.change) for move in gone] == [
        ("Consumer 2", Decimal(0), Decimal("-0.5")), ("Consumer 1", Decimal("0.01"), Decimal("0.01")),
    ]  # fmt: skip


def test_what_moved_is_told_of_all_not_of_the_dearest_alone(
    calls: list[Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question(FEBRUARY.first, FEBRUARY.last, "consumer")
    moves = explorer.movers(question)
    monkeypatch.setattr(explorer, "MOST_ROWS", 1)
    assert explorer.movers(question) == moves
    assert [move.row.label for move in explorer.movers(question, most=1)] == ["Consumer 2"]


def page(**question: Any) -> Any:
    days = {"first": FEBRUARY.first, "last": FEBRUARY.last, "by": "day", "measure": "cost"}
    return console(operator("finance")).get(URL, {**days, **question})


@pytest.mark.parametrize("by", GROUPS)
@pytest.mark.parametrize("measure", ["cost", "total_tokens", "calls"])
def test_each_line_opens_what_it_is_made_of(calls: list[Calls], by: str, measure: str) -> None:
    context = page(by=by, measure=measure).context
    for line in context["lines"]:
        if not line["calls"]:
            continue
        if by == "tier":
            assert line["url"] is None
            continue
        deeper = {name: values[0] for name, values in parse_qs(line["url"][1:]).items()}
        (sums,) = page(**deeper).context["totals"]
        assert (sums["tokens"], sums["cost"]) == (line["tokens"], line["cost"])


def test_filters_narrow_it(calls: list[Calls]) -> None:
    for filters in (
        {"consumer": "consumer 1"},
        {"consumer": calls[0].key.consumer_id},
        {"service": calls[0].service.id},
        {"key": calls[0].key.id},
        {"status": "success"},
    ):
        (sums,) = page(**filters).context["totals"]
        assert sums["tokens"] == 300, filters
    assert page(consumer="nobody").context["totals"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": "2028-03-01"}, {"first": "1999-01-01"}, {"last": "9999-12-31"}, {"first": "x"}, {"by": "password"},
        {"measure": "x"}, {"service": "x"}, {"service": "00000000-0000-0000-0000-000000000000"}, {"key": "'"},
        {"status": "x"}, {"consumer": "x" * 201}, {"first": "2020-01-01"}, {"consumer": "\x00"},
    ],
)  # fmt: skip
def test_what_is_typed_wrong_is_told_and_breaks_nothing(wrong: dict[str, str]) -> None:
    answer = page(**wrong)
    assert answer.status_code == 400
    assert b"errorlist" in answer.content


def test_names_are_text_and_nothing_else(calls: list[Calls]) -> None:
    name = "<script>alert(1)</script>"
    calls[0].key.consumer.name = name
    calls[0].key.consumer.save()
    content = page(by="consumer").content.decode()
    assert name not in content
    assert html.escape(name) in content


def test_without_a_question_the_last_thirty_days_are_shown(client: Client) -> None:
    made = Calls(factories.make_service())
    rolled(made, clock.now(), tokens=3)
    answer = console(operator("viewer")).get(URL)
    assert [line["tokens"] for line in answer.context["lines"]] == [0] * 29 + [3]
    assert answer.content.count(b'class="bar"') == 30
    assert (
        b'href="/admin/metering/usagerollup/explore/"' in console(operator("viewer")).get("/admin/").content
    )


def test_the_explorer_and_the_ledger_agree_after_a_drain(market: Any) -> None:
    market.write(market.entry(), market.entry())
    market.drain()
    today = clock.now().date()
    (total,) = explorer.totals(Question(today - dt.timedelta(days=1), today, "day"))
    ledger = UsageRecord.objects.aggregate(tokens=Sum("total_tokens"), cost=Sum("cost_amount"))
    assert (total.total_tokens, total.cost) == (ledger["tokens"], ledger["cost"])
