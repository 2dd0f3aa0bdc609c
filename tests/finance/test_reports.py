"""Reports of every month: sent once each, whatever is killed or runs twice; to whom they may go; their secrets."""

import datetime as dt
import hashlib
import hmac
import smtplib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography.fernet import Fernet
from django.core import mail
from django.db import connection
from pytest_django import Settings

from audit.models import AuditEntry
from catalog.credentials import open_for
from catalog.rotation import rotate_credentials
from common import clock
from finance import exports, reports
from finance.models import ExportJob, ReportDelivery, ReportSchedule
from finance.tasks import run_export, send_reports
from tests.console import console, operator

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
State = ReportDelivery.State
PAGE = "/admin/finance/reportschedule/add/"


class Bucket(BaseHTTPRequestHandler):
    """Keeps objects whose request was signed with the secret (AWS Signature Version 4, as its documentation has it)."""

    objects: dict[str, bytes]
    puts: list[str]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.puts.append(self.path)
        if hashlib.sha256(body).hexdigest() != self.headers["x-amz-content-sha256"] or not self._is_signed():
            self.send_error(403)
            return
        self.objects[self.path] = body
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _is_signed(self) -> bool:
        kind, _, rest = self.headers["Authorization"].partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        _, *scope = parts["Credential"].split("/")
        signed = parts["SignedHeaders"].split(";")
        assert {"host", "x-amz-content-sha256", "x-amz-date"} <= {*signed}
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in signed)
        asked = f"PUT\n{self.path}\n\n{headers}\n{';'.join(signed)}\n{self.headers['x-amz-content-sha256']}"
        text = "\n".join(
            [kind, self.headers["x-amz-date"], "/".join(scope), hashlib.sha256(asked.encode()).hexdigest()]
        )
        key = f"AWS4{SECRET}".encode()
        for part in [*scope, text]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.compare_digest(key.hex(), parts["Signature"])

    def log_message(self, *_: Any) -> None:
        """Nothing is told."""


@pytest.fixture
def bucket() -> Iterator[tuple[str, type[Bucket]]]:
    """Where it is, and what it keeps."""
    kept = type("Kept", (Bucket,), {"objects": {}, "puts": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kept) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kept
        server.shutdown()


def schedule(**fields: Any) -> ReportSchedule:
    """One that is due for the month before this one."""
    this = clock.month_start(clock.month_of(clock.now()))
    last = (this - dt.timedelta(days=1)).date().replace(day=1)
    defaults = {
        "name": "Usage", "format": "csv", "channel": "email", "day": 1, "first_month": last,
        "recipients": "a@x.example",
    }  # fmt: skip
    return ReportSchedule(**{**defaults, **fields})


def to_bucket(endpoint: str, secret: str = SECRET) -> ReportSchedule:
    found = schedule(
        channel="bucket", endpoint=endpoint, bucket="reports", folder="of/usage", access_key="AKIDEXAMPLE"
    )
    found.set_credential(secret)
    return found


def run() -> ReportDelivery:
    """What beat does, once: plan, make, send; and again."""
    for _ in range(2):
        send_reports()
        for job_id in ExportJob.objects.unfinished().values_list("id", flat=True):
            run_export(str(job_id))
    send_reports()
    return ReportDelivery.objects.get()


def make_due(delivery: ReportDelivery) -> None:
    ReportDelivery.objects.filter(id=delivery.pk).update(attempted_at=clock.now() - reports.ATTEMPT * 2)


@pytest.fixture(autouse=True)
def loopback_is_allowed(settings: Settings) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = ["127.0.0.0/8"]


@pytest.mark.django_db
def test_a_letter_goes_out_once_a_month_with_the_file() -> None:
    one = schedule(recipients="a@x.example\nb@x.example")
    one.save()
    delivery = run()
    run()
    assert (delivery.state, delivery.month) == (State.SENT, one.first_month)
    [letter] = mail.outbox
    assert letter.to == ["a@x.example", "b@x.example"]
    assert delivery.job is not None
    file = exports.file_of(delivery.job)
    assert file is not None
    [(name, content, _)] = letter.attachments
    assert name == f"csv_{one.first_month:%Y-%m}_{one.pk}.csv"
    assert (content if isinstance(content, bytes) else str(content).encode()) == file.read_bytes()
    assert (delivery.job.manifest or {})["sha256"] in letter.body


@pytest.mark.django_db
def test_nothing_is_sent_before_its_day_nor_by_one_that_is_off() -> None:
    this = clock.month_of(clock.now())
    schedule(first_month=this).save()
    schedule(is_active=False).save()
    send_reports()
    assert not ReportDelivery.objects.exists()
    assert not ExportJob.objects.exists()


@pytest.mark.django_db
def test_what_waits_when_it_is_switched_off_goes_out_when_it_is_on_again(
    bucket: tuple[str, type[Bucket]],
) -> None:
    endpoint, kept = bucket
    one = to_bucket(endpoint, "another-secret-key")
    one.save()
    delivery = run()
    assert delivery.state == State.WAITING
    one.is_active = False
    one.set_credential(SECRET)
    one.save()
    make_due(delivery)
    assert run().state == State.WAITING
    assert not kept.objects
    one.is_active = True
    one.save()
    assert run().state == State.SENT


class Killed(BaseException):
    pass


@pytest.mark.django_db
@pytest.mark.parametrize("when", ["report-marked", "report-sent"])
def test_a_letter_whose_sender_was_killed_waits_for_a_person(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule().save()
    kill(when, monkeypatch)
    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    sent = len(mail.outbox)
    delivery = run()
    assert delivery.state == State.SENDING
    make_due(delivery)
    delivery = run()
    assert delivery.state == State.UNCLEAR
    assert len(mail.outbox) == sent <= 1

    client = console(operator("finance"))
    client.post(
        "/admin/finance/reportdelivery/", {"action": "again", "_selected_action": [delivery.pk]}, follow=True
    )  # fmt: skip
    assert run().state == State.SENT
    assert len(mail.outbox) == sent + 1
    assert AuditEntry.objects.filter(action="report.sent_again").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("when", ["report-marked", "report-sent"])
def test_an_object_is_put_under_one_name_though_its_sender_was_killed(
    when: str, bucket: tuple[str, type[Bucket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, kept = bucket
    one = to_bucket(endpoint)
    one.save()
    kill(when, monkeypatch)
    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    make_due(ReportDelivery.objects.get())
    delivery = run()
    assert delivery.state == State.SENT
    start = f"/reports/of/usage/csv_{one.first_month:%Y-%m}_{one.pk}.csv"
    assert {*kept.objects} == {start, f"{start}.manifest.json"}
    assert delivery.job is not None
    file = exports.file_of(delivery.job)
    assert file is not None
    assert kept.objects[start] == file.read_bytes()
    before = len(kept.puts)
    run()
    assert len(kept.puts) == before


@pytest.mark.django_db
def test_a_bucket_that_refuses_is_tried_again_later(bucket: tuple[str, type[Bucket]]) -> None:
    endpoint, kept = bucket
    one = to_bucket(endpoint, "another secret key".replace(" ", "-"))
    one.save()
    delivery = run()
    assert (delivery.state, delivery.attempts, delivery.error) == (State.WAITING, 1, "the server answers 403")
    assert not kept.objects
    assert run().attempts == 1
    one.set_credential(SECRET)
    one.save()
    make_due(delivery)
    assert run().state == State.SENT
    assert len(kept.objects) == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ConnectionRefusedError(), State.WAITING),
        (smtplib.SMTPDataError(554, b"no"), State.WAITING),
        (TimeoutError(), State.UNCLEAR),
        (smtplib.SMTPServerDisconnected(), State.UNCLEAR),
    ],
)
def test_only_a_letter_that_was_certainly_not_taken_is_tried_again(
    error: Exception, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any) -> None:
        raise error

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", lambda *_: fails(_))
    schedule().save()
    assert run().state == state


@pytest.mark.django_db
def test_a_private_address_is_refused_when_saved_and_when_sent(
    bucket: tuple[str, type[Bucket]], settings: Settings
) -> None:
    endpoint, kept = bucket
    to_bucket(endpoint).save()
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    delivery = run()
    assert delivery.error == "the server has no address that may be connected to"
    assert not kept.puts
    assert "UPSTREAM_ALLOWED_NETWORKS" in posted(endpoint).content.decode()
    assert ReportSchedule.objects.count() == 1


@pytest.mark.django_db
def test_the_secret_key_is_sealed_and_shown_to_nobody(bucket: tuple[str, type[Bucket]]) -> None:
    endpoint, _ = bucket
    answer = posted(endpoint)
    assert answer.status_code == 302, answer.context["errors"]
    one = ReportSchedule.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("SELECT report_schedules::text FROM report_schedules")
        [(row,)] = cursor.fetchall()
    hidden = SECRET.encode().hex()
    assert SECRET not in row
    assert hidden not in row
    assert open_for(endpoint, bytes(one.credential or b"")) == SECRET
    page = console(operator("finance")).get(f"/admin/finance/reportschedule/{one.pk}/change/")
    assert SECRET not in page.content.decode()
    [entry] = AuditEntry.objects.filter(target_type="report_schedule")
    assert SECRET not in str(entry.after)
    moved = posted("http://127.0.0.1:1", one, secret_key="")
    assert "enter it again" in moved.content.decode()


@pytest.mark.django_db
def test_the_secret_key_moves_to_a_newer_key_with_all_others(settings: Settings) -> None:
    to_bucket("http://127.0.0.1:1").save()
    newer = Fernet.generate_key().decode()
    settings.CREDENTIAL_KEYS = [newer, *settings.CREDENTIAL_KEYS]
    assert rotate_credentials().rotated == 1
    settings.CREDENTIAL_KEYS = [newer]
    one = ReportSchedule.objects.get()
    assert open_for(one.endpoint, bytes(one.credential or b"")) == SECRET


def test_several_at_once_send_one_letter(committed: None) -> None:
    schedule().save()
    send_reports()
    for job in ExportJob.objects.all():
        run_export(str(job.id))

    def sent() -> int:
        try:
            return reports.send()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as workers:
        counts = [found.result() for found in [workers.submit(sent) for _ in range(4)]]
    assert sorted(counts) == [0, 0, 0, 1]
    assert len(mail.outbox) == 1


def kill(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def point(name: str) -> None:
        if name == when:
            raise Killed

    monkeypatch.setattr("finance.reports.crash.point", point)


def posted(endpoint: str, one: ReportSchedule | None = None, **fields: str) -> Any:
    page = PAGE if one is None else f"/admin/finance/reportschedule/{one.pk}/change/"
    form = {
        "name": "Usage", "format": "csv", "day": "3", "is_active": "on", "channel": "bucket", "endpoint": endpoint,
        "region": "us-east-1", "bucket": "reports", "folder": "", "access_key": "AKIDEXAMPLE", "secret_key": SECRET,
    }  # fmt: skip
    return console(operator("finance")).post(page, {**form, **fields})


@pytest.mark.django_db
def test_finance_is_written_to_once_of_what_failed_or_is_unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    finance = operator("finance")
    finance.email = "finance@x.example"
    finance.save()
    schedule().save()
    delivery = run()
    mail.outbox.clear()
    for state in (State.UNCLEAR, State.FAILED):
        ReportDelivery.objects.update(state=state, error="the mail server went silent", told_at=None)
        with monkeypatch.context() as without_mail:
            without_mail.setattr("finance.letters.send_mail", Mock(side_effect=ConnectionRefusedError))
            send_reports()
        assert ReportDelivery.objects.get().told_at is None
        send_reports()
        send_reports()
        letter = mail.outbox.pop()
        assert (letter.to, mail.outbox) == ([finance.email], [])
        assert f"{delivery}: {state}, the mail server went silent" in letter.body
    assert reports.send_again(delivery)
    assert ReportDelivery.objects.get().told_at is None
