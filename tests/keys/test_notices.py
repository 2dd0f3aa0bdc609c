"""Letters to the owners of keys: each is sent, and once."""

import datetime as dt
import threading
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection

from accounts.models import Membership
from common import clock
from keys import notices
from keys.issuing import rotate_key
from keys.models import ApiKey, KeyNotice
from keys.tasks import send_notices
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import make_key, make_member, make_user

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = pytest.mark.django_db

DAY = dt.timedelta(days=1)


def expiring(days: float, *, lived_days: float = 100, **fields: Any) -> ApiKey:
    """A key with an owner who has an address."""
    key, _ = make_key(expires_at=clock.now() + days * DAY, **fields)
    ApiKey.objects.filter(id=key.id).update(created_at=clock.now() - lived_days * DAY)
    make_member(key.consumer, user=make_user(email="owner@example.org"))
    return key


def subjects() -> list[str]:
    return [str(letter.subject) for letter in mail.outbox]


def test_owners_are_warned_fourteen_and_three_days_before_and_once_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = expiring(20, name="ci\r\nBcc: x")
    start = clock.now()
    for days, letters in ((0, 0), (5.9, 0), (6.1, 1), (10, 1), (16.9, 1), (17.1, 2), (19.9, 2), (21, 2)):
        monkeypatch.setattr(clock, "now", lambda days=days: start + days * DAY)
        for _ in range(2):
            send_notices()
        assert len(mail.outbox) == letters, days
    assert key.expires_at is not None
    assert subjects() == [f"API key ci Bcc: x expires on {key.expires_at:%Y-%m-%d}"] * 2
    assert [letter.to for letter in mail.outbox] == [["owner@example.org"]] * 2
    assert f"…{key.last4}, id {key.id}" in mail.outbox[0].body
    kinds = KeyNotice.objects.order_by("id").values_list("kind", flat=True)
    assert list(kinds) == ["expires_in_14_days", "expires_in_3_days"]


def test_where_both_are_due_only_the_last_is_sent() -> None:
    expiring(2)
    send_notices()
    assert KeyNotice.objects.get().kind == "expires_in_3_days"


def test_nobody_is_warned_of_what_they_know_or_what_does_not_matter() -> None:
    expiring(1, lived_days=0.5)
    expiring(10, lived_days=1)
    expiring(2, revoked_at=clock.now())
    expiring(-1)
    rotate_key(key=expiring(5, lived_days=300), overlap=DAY, actor="test")
    make_key()
    send_notices()
    assert mail.outbox == []


def test_owners_alone_are_written_to_and_do_not_see_each_other() -> None:
    key = expiring(2)
    for role in (Membership.Role.DEVELOPER, Membership.Role.BILLING, Membership.Role.VIEWER):
        make_member(key.consumer, role=role, user=make_user(email=f"{role}@example.org"))
    make_member(key.consumer, user=make_user(email="second@example.org"))
    make_member(key.consumer, user=make_user(email="gone@example.org", is_active=False))
    make_member(key.consumer, user=make_user())
    send_notices()
    assert [letter.to for letter in mail.outbox] == [["owner@example.org"], ["second@example.org"]]


class Down(EmailBackend):
    def send_messages(self, messages: Any) -> int:
        raise ConnectionRefusedError


def test_a_letter_that_could_not_be_sent_is_tried_again_later(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiring(2)
    working = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = f"{__name__}.Down"
    send_notices()
    settings.EMAIL_BACKEND = working
    send_notices()
    assert mail.outbox == []
    assert KeyNotice.objects.get().sent_at is None
    later = clock.now() + notices.ATTEMPT + dt.timedelta(seconds=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    send_notices()
    assert len(mail.outbox) == 1
    assert KeyNotice.objects.get().sent_at == later


@pytest.mark.usefixtures("committed")
def test_workers_at_once_send_one_letter() -> None:
    expiring(2)
    together = threading.Barrier(4)

    def run() -> None:
        together.wait(10)
        send_notices()
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(mail.outbox) == 1
    assert KeyNotice.objects.count() == 1
