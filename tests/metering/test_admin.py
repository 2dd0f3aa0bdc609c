"""The admin of metering: every list opens, searches and filters; nothing but a dead letter can be acted upon."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from common import clock
from common.ids import uuid7
from metering.models import DeadLetter
from tests import factories
from tests.metering.market import Market

BASE = "/admin/metering"


@pytest.fixture
def operator(market: Market) -> Client:
    client = Client()
    client.force_login(factories.make_user(is_staff=True, is_superuser=True))
    return client


def shown(response: Any) -> list[str]:
    """The keys of the rows of a list."""
    assert response.status_code == 200, response
    return [str(row.pk) for row in response.context["cl"].result_list]


@pytest.mark.parametrize(
    "model",
    ["usagerecord", "usagerollup", "quotaperiod", "journalposition", "shardepoch", "journalbatch", "deadletter",
     "closedmonth"],
)  # fmt: skip
def test_every_list_and_every_row_opens_and_nothing_can_be_added(
    market: Market, operator: Client, model: str
) -> None:
    market.write(market.entry(), b"poison")
    market.drain()

    for key in shown(operator.get(f"{BASE}/{model}/")):
        assert operator.get(f"{BASE}/{model}/{key}/change/").status_code == 200
        assert operator.post(f"{BASE}/{model}/{key}/change/", {}).status_code == 403
        assert operator.post(f"{BASE}/{model}/{key}/delete/", {"post": "yes"}).status_code == 403
    assert operator.get(f"{BASE}/{model}/add/").status_code == 403


def test_usage_is_found_by_request_consumer_and_service(market: Market, operator: Client) -> None:
    other = factories.make_consumer(name="Somebody else")
    first, second, third = (
        market.entry(),
        market.entry(status="error", error="upstream_failed"),
        market.entry(consumer_id=other.id),
    )
    market.write(first, second, third)
    market.drain()
    ids = [str(entry.request_id) for entry in (first, second, third)]

    def search(**question: str) -> list[str]:
        return sorted(shown(operator.get(f"{BASE}/usagerecord/", question)))

    assert search() == sorted(ids)
    assert search(q=ids[0]) == [ids[0]]
    assert search(q=ids[0].replace("-", "").upper()) == [ids[0]]
    assert search(q=str(other.id)) == [ids[2]]
    assert search(q=str(market.service.id)) == sorted(ids)
    assert search(q="no id") == []
    assert search(status__exact="error") == [ids[1]]
    assert search(of_consumer="somebody") == [ids[2]]
    assert search(of_consumer=str(market.consumer.id), status__exact="success") == [ids[0]]
    assert search(of_consumer="some\0body") == []
    assert search(service__id__exact=str(market.service.id)) == sorted(ids)


def test_a_list_asks_the_same_few_questions_however_many_rows(
    market: Market, operator: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    market.write(*[market.entry() for _ in range(120)])
    market.drain()

    with django_assert_max_num_queries(13):
        assert len(shown(operator.get(f"{BASE}/usagerecord/"))) == 50
    assert len(shown(operator.get(f"{BASE}/usagerecord/", {"p": "3"}))) == 20


def test_a_day_is_found_to_the_millisecond_by_the_ids_that_are_made_of_it(
    market: Market, operator: Client
) -> None:
    midnight = int(clock.day_start(clock.now().date()).timestamp() * 1000)
    before, first, last = (uuid7(midnight + ms) for ms in (-1, 0, 1))
    market.write(*[market.entry(request_id=id_) for id_ in (before, first, last)])
    market.drain()
    day = f"{clock.now():%Y-%m-%d} 00:00:00"

    def listed(**asked: str) -> list[str]:
        with CaptureQueriesContext(connection) as questions:
            found = shown(operator.get(f"{BASE}/usagerecord/", asked))
        rows = [question["sql"] for question in questions if 'FROM "usage_records"' in question["sql"]]
        assert rows
        assert all('"usage_records"."id" >' in row or '"usage_records"."id" <' in row for row in rows)
        return found

    assert listed(timestamp__gte=f"{day}+00:00") == [str(last), str(first)]
    assert listed(timestamp__gte=f"{day}.001+00:00") == [str(last)]
    assert listed(timestamp__lt=f"{day}+00:00") == [str(before)]
    assert listed(timestamp__gte=f"{day}+00:00", timestamp__lt=f"{day}.001+00:00") == [str(first)]


def test_rows_whose_consumer_is_gone_are_listed(market: Market, operator: Client) -> None:
    entry = market.entry(consumer_id=uuid7())
    market.write(entry)
    market.drain()

    assert shown(operator.get(f"{BASE}/usagerecord/")) == [str(entry.request_id)]


@pytest.mark.parametrize("text", ["x", "2026-13-01", "9999-12-31 23:59:59+00:00", ""])
def test_a_moment_that_is_none_is_no_error_of_ours(text: str, operator: Client) -> None:
    answer = operator.get(f"{BASE}/usagerecord/", {"timestamp__gte": text})
    assert answer.status_code in (200, 302)


def test_letters_are_sent_again_by_an_action(market: Market, operator: Client) -> None:
    market.write(b"poison")
    market.drain()
    letter = DeadLetter.objects.get()

    response = operator.post(
        f"{BASE}/deadletter/", {"action": "retry", "_selected_action": [letter.pk]}, follow=True
    )

    assert b"1 entries are in the journal again" in response.content
    assert market.waiting() == 1
    market.drain()
    assert DeadLetter.objects.filter(resolved_at=None).count() == 1
    assert DeadLetter.objects.count() == 2


def test_letters_wait_while_valkey_is_away(market: Market, operator: Client, settings: Any) -> None:
    market.write(b"poison")
    market.drain()
    settings.REDIS_URL = "redis://127.0.0.1:9/0"

    response = operator.post(
        f"{BASE}/deadletter/",
        {"action": "retry", "_selected_action": [DeadLetter.objects.get().pk]},
        follow=True,
    )

    assert b"Valkey does not answer" in response.content
    assert DeadLetter.objects.get().resolved_at is None
