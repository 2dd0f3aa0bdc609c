"""Counts of large tables: bounded in rows and in time."""

import pytest
from django.db import connection

from accounts.models import Consumer
from common.paginators import BoundedPaginator
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting three rows takes longer than that."""
    monkeypatch.setattr(BoundedPaginator, "patience", 30)


def pages(per_page: int) -> BoundedPaginator:
    """Of three rows, each of which takes its time to be found."""
    for _ in range(3):
        factories.make_consumer()
    slow = Consumer.objects.extra(where=["pg_sleep(0.02) IS NOT NULL"]).order_by("id")
    return BoundedPaginator(slow, per_page)


def test_what_takes_too_long_to_count_has_as_many_pages_as_somebody_would_leaf(patient: None) -> None:
    assert pages(per_page=2).count == BoundedPaginator.bound


def test_what_is_on_one_page_is_counted_however_long_it_takes(patient: None) -> None:
    assert pages(per_page=3).count == 3


def test_what_comes_after_it_has_all_the_time_it_needs(patient: None) -> None:
    pages(per_page=2).count  # noqa: B018 - for what it leaves behind
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone()[0] == "0"


def test_in_time_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedPaginator, "patience", 20_000)
    assert pages(per_page=2).count == 3
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone()[0] == "0"
