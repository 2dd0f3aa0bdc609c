"""Every page of the console, in every role, for staff without one, for a member, and for nobody."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django_celery_beat import models as beat

from accounts.models import Consumer
from accounts.roles import ROLES
from analytics.models import AnalyticsEvent, AnalyticsPosition, SourcePosition
from common import clock
from finance.exports import order
from finance.models import ArchiveStep
from metering.models import ClosedMonth, DeadLetter, Gateway, JournalBatch, JournalPosition, ShardEpoch
from sla.models import SlaIncident, SlaViolation
from tests.console import console, operator
from tests.factories import make_user
from tests.foreign.rows import every_row
from tests.foreign.world import Other

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

Rows = dict[type[Model], Model]

#: v: the list, a row and its history; a: add; c: change; d: delete. In the order of ``ROLES``, a dash for nothing.
MAY = {
    "accounts.consumer":           ("vac",  "vac",  "v",  "v",  "v", "-"),
    "accounts.consumerbudget":     ("vacd", "vacd", "v",  "v",  "v", "-"),
    "accounts.membership":         ("vacd", "vacd", "v",  "-",  "v", "-"),
    "accounts.user":               ("vacd", "vac",  "v",  "-",  "-", "-"),
    "analytics.analyticsevent":    ("v",    "v",    "v",  "-",  "v", "-"),
    "analytics.analyticsposition": ("v",    "v",    "v",  "-",  "v", "-"),
    "analytics.sourceposition":    ("v",    "v",    "v",  "-",  "v", "-"),
    "audit.auditentry":            ("v",    "v",    "v",  "-",  "-", "-"),
    "auth.group":                  ("vacd", "-",    "-",  "-",  "-", "-"),
    "catalog.entitlement":         ("vacd", "vacd", "v",  "v",  "v", "-"),
    "catalog.priceversion":        ("v",    "v",    "v",  "v",  "v", "-"),
    "catalog.service":             ("vac",  "vac",  "vc", "v",  "v", "-"),
    "catalog.tier":                ("vac",  "vac",  "v",  "v",  "v", "-"),
    # Its rows lead on to the service's own page.
    "consumption.serviceupstream": ("vc",   "vc",   "vc", "vc", "vc", "-"),
    "finance.archivestep":         ("v",    "v",    "v",  "v",  "v", "-"),
    "finance.exportjob":           ("va",   "v",    "v",  "va", "v", "-"),
    "finance.reconciliation":      ("v",    "v",    "v",  "v",  "v", "-"),
    "finance.reportdelivery":      ("v",    "v",    "v",  "v",  "v", "-"),
    "finance.reportschedule":      ("vac",  "v",    "v",  "vac", "v", "-"),
    "keys.apikey":                 ("vac",  "vac",  "v",  "v",  "v", "-"),
    "keys.keynotice":              ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.gateway":            ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.closedmonth":        ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.deadletter":         ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.journalbatch":       ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.journalposition":    ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.quotaperiod":        ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.shardepoch":         ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.usagerecord":        ("v",    "v",    "v",  "v",  "v", "-"),
    "metering.usagerollup":        ("v",    "v",    "v",  "v",  "v", "-"),
    "policy.policy":               ("vacd", "vacd", "v",  "-",  "v", "-"),
    "policy.policyviolation":      ("v",    "v",    "v",  "-",  "v", "-"),
    "quotas.budgetnotice":         ("v",    "v",    "v",  "v",  "v", "-"),
    "quotas.quotadrift":           ("v",    "v",    "v",  "v",  "v", "-"),
    "sla.slaincident":             ("v",    "v",    "v",  "-",  "v", "-"),
    "sla.slaviolation":            ("v",    "v",    "v",  "-",  "v", "-"),
}  # fmt: skip
#: Pages of the libraries: the super_admin's alone.
LIBRARIES = {
    "axes.accessattempt": "vcd", "axes.accessfailurelog": "vcd", "axes.accesslog": "vcd",
    "django_celery_beat.clockedschedule": "vacd", "django_celery_beat.crontabschedule": "vacd",
    "django_celery_beat.intervalschedule": "vacd", "django_celery_beat.periodictask": "vacd",
    "django_celery_beat.solarschedule": "vacd",
}  # fmt: skip
#: Who may read usage and what it costs.
READERS = {"super_admin", "admin", "approver", "finance", "viewer"}
#: Pages that only some models have: who may open them.
MORE: dict[str, set[str]] = {
    "accounts.user:auth_user_password_change": {"super_admin", "admin"},
    # A signed link alone opens it: see tests/finance.
    "finance.exportjob:finance_exportjob_download": set(),
    "finance.reconciliation:finance_reconciliation_now": {"super_admin", "finance"},
    "keys.apikey:keys_apikey_revoke": {"super_admin", "admin"},
    "keys.apikey:keys_apikey_rotate": {"super_admin", "admin"},
    "metering.usagerollup:metering_usagerollup_explore": READERS,
    "metering.closedmonth:finance_margins": READERS,
    "metering.closedmonth:finance_statements": READERS,
    "metering.closedmonth:finance_statement": READERS,
    "metering.closedmonth:finance_statement_pdf": READERS,
    "metering.closedmonth:metering_closedmonth_close": {"super_admin", "finance"},
    "metering.usagerecord:metering_usagerecord_correct": {"super_admin", "finance"},
    "catalog.priceversion:finance_price_preview": READERS,
    "catalog.service:catalog_service_price": {"super_admin", "admin", "approver"},
}


#: Where a page is not about a row of its model.
OTHER_ARGUMENTS: dict[str, Callable[[Rows], list[Any]]] = {
    "metering_closedmonth_close": lambda rows: [2020, 2],
    "finance_statement": lambda rows: [2020, 2, rows[Consumer].pk],
    "finance_statement_pdf": lambda rows: [2020, 2, rows[Consumer].pk],
}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """One row for every page there is."""
    monkeypatch.setattr("finance.tasks.reconcile_books.delay", lambda *_: None)
    other = Other()
    now, month = clock.now(), dt.date(2020, 1, 1)
    order(format="csv", start=now - dt.timedelta(days=1), end=now, actor="a test")
    DeadLetter.objects.create(shard=0, epoch=1, stream_id="1-0", reason="unreadable", entry=b"{}")
    ClosedMonth.objects.create(month=month)
    ArchiveStep.objects.create(month=month, step="written", rows=0, totals={}, schema_version=1, manifest={})
    JournalBatch.objects.create(shard=0, number=1, record_ids=[])
    JournalPosition.objects.get_or_create(shard=0, defaults={"epoch": 1})
    ShardEpoch.objects.get_or_create(shard=0, defaults={"number": 1})
    Gateway.objects.create(id="a-test", host="a-test", started_at=now, seen_at=now)
    _analytics(other, now)
    _libraries(now)
    found = {model: model._default_manager.order_by("pk").first() for model in admin.site._registry}
    missing = [model for model, row in found.items() if row is None]
    assert not missing, f"no row for the pages of {missing}"
    return {model: row for model, row in found.items() if row is not None}


def _analytics(other: Other, now: dt.datetime) -> None:
    AnalyticsEvent.objects.create(event_id="1", type="quota_exceeded", time=now, data={})
    AnalyticsPosition.objects.create(shard=0)
    SourcePosition.objects.get_or_create(source="sla")
    of_it = {"service": other.hidden, "metric": "uptime", "severity": "warning"}
    incident = SlaIncident.objects.create(**of_it, opened_at=now, last_seen_at=now)
    SlaViolation.objects.create(**of_it, incident=incident, threshold=1, actual=0, timestamp=now)


def _libraries(now: dt.datetime) -> None:
    who = {"username": "somebody", "ip_address": "192.0.2.1", "user_agent": "a test", "path_info": "/"}
    AccessAttempt.objects.create(**who, get_data="", post_data="", failures_since_start=1)
    AccessFailureLog.objects.create(**who)
    AccessLog.objects.create(**who)
    interval = beat.IntervalSchedule.objects.create(every=1, period="days")
    beat.CrontabSchedule.objects.create()
    beat.ClockedSchedule.objects.create(clocked_time=now)
    beat.SolarSchedule.objects.create(event="sunset", latitude=0, longitude=0)
    beat.PeriodicTask.objects.create(name="a test", task="a.test", interval=interval)


def url_of(page: str, row: Model, *, of_row: bool) -> str:
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{page}", args=[row.pk] if of_row else [])


def opened(client: Client, row: Model) -> str:
    """What somebody may do on the pages of one model, in the letters of ``MAY``."""
    read = {
        client.get(url_of("changelist", row, of_row=False)).status_code,
        client.get(url_of("history", row, of_row=True)).status_code,
    }
    tries = {
        "a": client.get(url_of("add", row, of_row=False)),
        # Empty: what may be changed asks for what is missing, or takes it. The rest of the test does not mind.
        "c": client.post(url_of("change", row, of_row=True), {"page": "of a test"}),
        "d": client.get(url_of("delete", row, of_row=True)),
    }
    assert read in ({200}, {403}), (row, read)
    assert {answer.status_code for answer in tries.values()} <= {200, 302, 403}, (row, tries)
    letters = "v" if read == {200} else ""
    return letters + "".join(letter for letter, answer in tries.items() if answer.status_code != 403)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_what_the_table_says(role: str, rows: Rows) -> None:
    client = console(operator(role))
    place = list(ROLES).index(role)
    expected = {label: letters[place].strip("-") for label, letters in MAY.items()}
    expected |= {label: letters if role == "super_admin" else "" for label, letters in LIBRARIES.items()}
    found = {model._meta.label_lower: opened(client, row) for model, row in rows.items()}
    assert found == expected


def more_pages(rows: Rows) -> dict[str, str]:
    """Pages besides the usual five, by model and name; their addresses."""
    found = {}
    for model, page in admin.site._registry.items():
        label, start = model._meta.label_lower, f"{model._meta.app_label}_{model._meta.model_name}_"
        usual = {start + name for name in ("changelist", "add", "change", "delete", "history")}
        for pattern in page.get_urls():
            if pattern.name and pattern.name not in usual:
                about = OTHER_ARGUMENTS.get(pattern.name)
                args = about(rows) if about else [rows[model].pk]
                found[f"{label}:{pattern.name}"] = reverse(
                    f"admin:{pattern.name}", args=args if "<" in str(pattern.pattern) else []
                )
    return found


def test_the_table_of_further_pages_is_whole(rows: Rows) -> None:
    assert more_pages(rows).keys() == MORE.keys()


def status_of(client: Client, url: str) -> int:
    """Some pages take a form alone."""
    status: int = client.get(url).status_code
    return client.post(url).status_code if status == 405 else status


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_those_further_pages_that_the_table_says(role: str, rows: Rows) -> None:
    client = console(operator(role))
    statuses = {page: status_of(client, url) for page, url in more_pages(rows).items()}
    assert set(statuses.values()) <= {200, 302, 400, 403}, statuses
    assert {page for page, status in statuses.items() if status != 403} == {
        page for page, roles in MORE.items() if role in roles
    }


@pytest.mark.parametrize("who", ["staff without a role", "a member", "nobody"])
def test_others_see_nothing_and_change_nothing(who: str, rows: Rows) -> None:
    client = Client()
    if who != "nobody":
        client.force_login(make_user(is_staff=who == "staff without a role"))
    client.get("/admin/")  # so that the session has its row
    before = every_row()
    urls = list(more_pages(rows).values())
    for row in rows.values():
        urls += [url_of(page, row, of_row=page != "add") for page in ("add", "change", "delete", "history")]
        urls.append(url_of("changelist", row, of_row=False))
    for url in urls:
        for answer in (client.get(url), client.post(url, {"post": "yes"})):
            assert refuses(answer, who), (url, answer)
    assert every_row() == before


def refuses(answer: Any, who: str) -> bool:
    """Whoever is not of the staff is sent to sign in, wherever they wanted to go."""
    if who == "staff without a role":
        return answer.status_code in {403, 405}
    return bool(answer.status_code == 302 and answer.url.startswith("/admin/login/?next="))
