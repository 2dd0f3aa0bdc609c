"""Letters to the owners of keys: 14 and 3 days before one expires, and when one was found in public.

A letter is a row first. Whoever sends it marks the attempt, sends, and marks it sent; one that was attempted and not
marked sent is tried again after a while. So none is lost, and one is sent twice only where its sender died between
the two.
"""

import datetime as dt
import logging
import smtplib

from django.core.mail import EmailMessage
from django.db.models import F, Q

from accounts.models import Membership
from common import clock
from keys.models import ApiKey, KeyNotice

log = logging.getLogger(__name__)

#: The later a warning, the further down: where both are due, only the last one says what is true.
_WARNINGS = {
    KeyNotice.Kind.EXPIRES_IN_14_DAYS: (dt.timedelta(days=14), dt.timedelta(days=3)),
    KeyNotice.Kind.EXPIRES_IN_3_DAYS: (dt.timedelta(days=3), dt.timedelta(0)),
}
#: After so long, an attempt that left no mark is taken for dead.
ATTEMPT = dt.timedelta(minutes=10)
#: Letters of one run.
MOST_LETTERS = 500


def write_warnings() -> None:
    """A letter for every key that will expire soon, has no successor, and was made to live longer than that."""
    now = clock.now()
    for kind, (before, until) in _WARNINGS.items():
        due = (
            ApiKey.objects.usable(now)
            .latest_of_lineage()
            .filter(expires_at__gt=now + until, expires_at__lte=now + before)
            .filter(created_at__lt=F("expires_at") - before)
            .exclude(notices__kind=kind)
        )
        KeyNotice.objects.bulk_create(
            (KeyNotice(api_key=key, kind=kind) for key in due[:MOST_LETTERS]), ignore_conflicts=True
        )


def send() -> int:
    """Send what is written down; returns how many letters. Safe to run twice at once."""
    waiting = Q(attempted_at=None) | Q(attempted_at__lt=clock.now() - ATTEMPT)
    unsent = KeyNotice.objects.filter(waiting, sent_at=None).order_by("created_at", "id")
    return sum(_send_once(notice) for notice in unsent[:MOST_LETTERS])


def _send_once(notice: KeyNotice) -> bool:
    row = KeyNotice.objects.filter(id=notice.id, sent_at=None)
    if not row.filter(attempted_at=notice.attempted_at).update(attempted_at=clock.now()):
        return False  # another worker got there first
    key = ApiKey.objects.select_related("consumer").get(id=notice.api_key_id)
    owners = Membership.objects.filter(
        consumer=key.consumer, role=Membership.Role.OWNER, user__is_active=True
    )
    addresses = sorted(owners.exclude(user__email="").values_list("user__email", flat=True))
    try:
        # One letter each: owners need not see each other's addresses.
        for address in addresses:
            EmailMessage(_subject(notice, key), _body(notice, key), to=[address]).send()
    except (OSError, smtplib.SMTPException) as error:
        log.warning("a letter about a key was not sent: %s", type(error).__name__)
        return False
    if not addresses:
        log.warning("consumer %s has no owner to write to", key.consumer_id)
    row.update(sent_at=clock.now())
    return bool(addresses)


def _subject(notice: KeyNotice, key: ApiKey) -> str:
    # A name is the consumer's own text; a subject is one line.
    name = " ".join(str(key).split())
    if notice.kind == KeyNotice.Kind.LEAKED:
        return f"API key {name} was found in public and is revoked"
    return f"API key {name} expires on {key.expires_at:%Y-%m-%d}"


def _body(notice: KeyNotice, key: ApiKey) -> str:
    about = f"The API key {key} (…{key.last4}, id {key.id}) of {key.consumer}"
    if notice.kind == KeyNotice.Kind.LEAKED:
        where = f"Where: {notice.found_at}\n" if notice.found_at else ""
        return (
            f"{about} was found in public. It was revoked at once and works no more.\n{where}"
            "Issue another one, and look at the usage since it leaked.\n"
        )
    return (
        f"{about} expires at {key.expires_at:%Y-%m-%d %H:%M} UTC.\n"
        "Rotate it before then: the old key and the new one both work for as long as you choose.\n"
    )
