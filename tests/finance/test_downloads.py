"""Files are given to finance alone, by links that are signed, live for minutes, and are written down."""

import datetime as dt
import time
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from audit.models import AuditEntry
from common import clock
from finance import downloads, exports
from finance.errors import DownloadRefused
from finance.models import ExportJob
from finance.tasks import run_export
from tests import factories
from tests.console import console, operator
from tests.finance.test_exports import done
from tests.ledger_rows import Calls

LIST = "/admin/finance/exportjob/"


@pytest.fixture
def job(committed: None) -> ExportJob:
    Calls(factories.make_service()).record()
    return done()[0]


@pytest.mark.django_db
@pytest.mark.parametrize(("role", "is_offered"), [("finance", True), ("admin", False), ("viewer", False)])
def test_the_list_of_usage_leads_finance_to_an_export(role: str, is_offered: bool) -> None:
    page = console(operator(role)).get("/admin/metering/usagerecord/")
    assert page.status_code == 200
    assert (f'href="{LIST}add/"' in page.content.decode()) is is_offered


def links(client: Client, job: ExportJob) -> dict[str, str]:
    context: Any = client.get(f"{LIST}{job.id}/change/").context
    return {part: context[f"{part}_url"] for part in ("file", "manifest") if f"{part}_url" in context}


def test_finance_orders_and_downloads(committed: None) -> None:
    record = Calls(factories.make_service()).record()
    person = operator("finance")
    client = console(person)
    day = f"{clock.now():%Y-%m-%d}"
    posted = client.post(f"{LIST}add/", {"format": "csv", "first": "2026-01-01", "last": day})
    assert posted.status_code == 302, posted.context["errors"]
    job = ExportJob.objects.get()
    run_export(str(job.id))
    urls = links(client, job)
    file: Any = client.get(urls["file"])
    assert str(record.id).encode() in b"".join(file.streaming_content)
    assert file["Content-Disposition"].startswith('attachment; filename="usage_2026-01-01_')
    manifest: Any = client.get(urls["manifest"])
    assert b'"rows": 1' in b"".join(manifest.streaming_content)
    told = (
        AuditEntry.objects.filter(target_id=job.id).order_by("id").values_list("actor", "action", "address")
    )
    assert list(told) == [
        (person.username, "export.ordered", "127.0.0.1"),
        (person.username, "export.downloaded", "127.0.0.1"),
        (person.username, "export.downloaded", "127.0.0.1"),
    ]
    assert client.get(LIST).status_code == 200


@pytest.mark.parametrize("role", ["admin", "approver", "viewer"])
def test_others_see_jobs_and_get_no_file(role: str, job: ExportJob) -> None:
    client = console(operator(role))
    assert client.get(LIST).status_code == 200
    assert links(client, job) == {}
    assert client.get(f"{LIST}add/").status_code == 403
    token = downloads.sign(job, user=operator("finance"))
    assert client.get(f"{LIST}download/", {"token": token}).status_code == 403
    own = downloads.sign(job, user=client_user(client))
    assert client.get(f"{LIST}download/", {"token": own}).status_code == 403
    assert not AuditEntry.objects.filter(action="export.downloaded").exists()


def client_user(client: Client) -> User:
    return User.objects.get(pk=client.session["_auth_user_id"])


def test_a_link_is_refused_when_altered_stale_or_for_another(
    job: ExportJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, other = operator("finance"), operator("finance")
    token = downloads.sign(job, user=person)
    refusals = [(token + "x", person), ("", person), (token, other)]
    for text, user in refusals:
        with pytest.raises(DownloadRefused):
            downloads.redeem(text, user=user)
    with pytest.raises(DownloadRefused):
        downloads.redeem(token, user=person, part="../../etc/passwd")
    now = time.time()
    monkeypatch.setattr("django.core.signing.time.time", lambda: now + downloads.LINK_SECONDS + 1)
    with pytest.raises(DownloadRefused):
        downloads.redeem(token, user=person)
    assert not AuditEntry.objects.filter(action="export.downloaded").exists()
    monkeypatch.undo()


def test_a_link_to_a_file_that_went_is_refused(job: ExportJob) -> None:
    person = operator("finance")
    token = downloads.sign(job, user=person)
    ExportJob.objects.filter(id=job.id).update(expires_at=clock.now())
    exports.expire()
    with pytest.raises(DownloadRefused):
        downloads.redeem(token, user=person)


@pytest.mark.parametrize(
    ("first", "last"),
    [("2026-02-01", "2026-01-31"), ("x", "2026-01-31"), ("9998-12-31", "9999-12-31"), ("", "")],
)
def test_a_range_that_is_none_is_not_ordered(first: str, last: str, committed: None) -> None:
    client = console(operator("finance"))
    response = client.post(f"{LIST}add/", {"format": "csv", "first": first, "last": last})
    assert response.status_code == 200
    assert not ExportJob.objects.exists()


def test_finance_cancels_in_the_list(committed: None) -> None:
    now = clock.now()
    job = exports.order(format="csv", start=now - dt.timedelta(days=1), end=now, actor="anna")
    client = console(operator("finance"))
    client.post(LIST, {"action": "cancel", "_selected_action": [str(job.id)]})
    job.refresh_from_db()
    assert job.state == ExportJob.State.CANCELLED
