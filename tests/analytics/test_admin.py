"""The console's pages on events and on how far they have come."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from analytics import stream
from analytics.models import AnalyticsEvent, AnalyticsPosition
from common.paginators import BoundedPaginator
from tests.factories import make_service
from tests.ledger_rows import Calls, outbox

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

PAGE = "/admin/analytics/analyticsevent/"


@pytest.fixture
def calls() -> Calls:
    calls = Calls(make_service())
    outbox(9, 1, *[calls.record() for _ in range(3)])
    stream.flush()
    return calls


def shown(client: Client, query: str) -> set[str]:
    answer = client.get(f"{PAGE}?{query}")
    assert answer.status_code == 200
    return {row.event_id for row in answer.context["cl"].result_list}


def test_events_are_found_by_their_id_and_their_subject(admin_client: Client, calls: Calls) -> None:
    ids = set(AnalyticsEvent.objects.values_list("event_id", flat=True))
    one = min(ids)
    assert shown(admin_client, "") == ids
    assert shown(admin_client, f"q={one}") == {one}
    assert shown(admin_client, f"q={calls.service.id}") == ids
    assert shown(admin_client, "q=other") == set()
    assert shown(admin_client, "type__exact=sla_violation") == set()


def test_the_list_never_counts_all_events(
    admin_client: Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedPaginator, "bound", 2)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answer = admin_client.get(PAGE)
    counts = [q["sql"] for q in queries if "COUNT(" in q["sql"] and "analytics_events" in q["sql"]]
    assert len(counts) == 1
    assert "LIMIT 2" in counts[0]
    assert answer.context["cl"].result_count == 2


def test_nothing_can_be_changed(admin_client: Client, calls: Calls) -> None:
    event = AnalyticsEvent.objects.all()[0]
    assert admin_client.get(f"{PAGE}{event.pk}/change/").status_code == 200
    assert admin_client.post(f"{PAGE}{event.pk}/change/", {"subject": "x"}).status_code == 403
    assert admin_client.post(f"{PAGE}{event.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{PAGE}add/").status_code == 403


@pytest.mark.parametrize("page", ["analyticsposition/", "analyticsposition/9/change/", "sourceposition/"])
def test_positions_are_shown(admin_client: Client, calls: Calls, page: str) -> None:
    assert AnalyticsPosition.objects.get().shard == 9
    assert admin_client.get(f"/admin/analytics/{page}").status_code == 200
