"""Asking for the second factor, setting it up, and taking it away."""

import logging
import math
import secrets
from enum import Enum

from django.conf import settings
from django.db import transaction

from accounts import sign_ins
from accounts.authenticators import SECRET_BYTES, Authenticator, BackupCode
from accounts.errors import (
    PersonUnknown,
    SecondFactorLocked,
    SecondFactorMissing,
    SecondFactorUnreadable,
    SecondFactorWrong,
)
from accounts.models import User
from audit import trail
from common import clock, sealing
from common.sealing import Unsealable

log = logging.getLogger(__name__)

#: Roles that have power over money and people.
ENFORCED = ("super_admin", "admin", "finance")
BACKUP_CODES = 10


class _Outcome(Enum):
    """How a try ended. What it changed stands either way, so nothing is raised before it is committed."""

    RIGHT = "right"
    WRONG = "wrong"
    LOCKED = "locked"
    UNREADABLE = "unreadable"


def is_required_of(user: User) -> bool:
    """Whether the person may do nothing in the console before there is one."""
    if not settings.SECOND_FACTOR_REQUIRED:
        return False
    return user.is_superuser or user.groups.filter(name__in=ENFORCED).exists()


def authenticator_of(user: User) -> Authenticator | None:
    """The person's app, where it is set up."""
    found: Authenticator | None = Authenticator.objects.filter(user=user, confirmed=True).first()
    return found


def is_asked_of(user: User) -> bool:
    """Whether a password is not enough for this person."""
    return authenticator_of(user) is not None or is_required_of(user)


def begin(user: User) -> Authenticator:
    """What the person's app has to be told; the same until ``confirm``, however often the page is opened."""
    sealed = sealing.seal(secrets.token_bytes(SECRET_BYTES))
    fresh = {"name": "app", "confirmed": False, "sealed": sealed}
    found: Authenticator = Authenticator.objects.get_or_create(user=user, defaults=fresh)[0]
    if not found.confirmed and not found.opens:
        Authenticator.objects.filter(pk=found.pk, confirmed=False).update(sealed=sealed)
        found.refresh_from_db()
    return found


def confirm(user: User, code: str, *, address: str | None = None) -> list[str]:
    """Set the app up, which shows ``code``; returns the codes for paper, which nobody can show again.

    Raises ``SecondFactorWrong`` or ``SecondFactorLocked``.
    """
    backup = [BackupCode.new() for _ in range(BACKUP_CODES)]
    with transaction.atomic():
        device = Authenticator.objects.select_for_update().filter(user=user, confirmed=False).first()
        outcome = _Outcome.WRONG if device is None else _try(device, code)
        if device is not None and outcome is _Outcome.RIGHT:
            device.confirmed = True
            device.save()
            rows = [BackupCode(authenticator=device, digest=BackupCode.digest_of(text)) for text in backup]
            BackupCode.objects.bulk_create(rows)
            _tell(user, "second_factor_enrolled", user.get_username(), address)
    _raise(outcome, device)
    return backup


def verify(user: User, code: str, *, address: str | None = None) -> Authenticator:
    """The app, where ``code`` is what it shows or one on paper. Each is good once, however many come at once.

    Raises ``SecondFactorMissing`` where none is set up, ``SecondFactorWrong`` or ``SecondFactorLocked``.
    """
    with transaction.atomic():
        device: Authenticator | None = (
            Authenticator.objects.select_for_update().filter(user=user, confirmed=True).first()
        )
        if device is None:
            raise SecondFactorMissing
        outcome = _try(device, code, on_paper=True)
        if outcome is _Outcome.WRONG:
            _tell(user, "second_factor_failed", user.get_username(), address)
    _raise(outcome, device)
    return device


def _try(device: Authenticator, code: str, *, on_paper: bool = False) -> _Outcome:
    """Under a lock of the device's row."""
    if not device.verify_is_allowed()[0]:
        return _Outcome.LOCKED
    try:
        right = (on_paper and _take(device, code)) or device.verify_token(code.strip())
    except Unsealable:
        log.error("the authenticator of user %s cannot be opened", device.user_id)
        return _Outcome.UNREADABLE
    if right:
        device.throttle_reset(commit=False)
        outcome = _Outcome.RIGHT
    else:
        device.failed()
        outcome = _Outcome.WRONG
    device.save()
    return outcome


def _take(device: Authenticator, code: str) -> bool:
    unused = device.backup_codes.filter(digest=BackupCode.digest_of(code), used_at=None)
    if not unused.update(used_at=clock.now()):
        return False
    _tell(device.user, "backup_code_used", device.user.get_username(), None)
    return True


def _raise(outcome: _Outcome, device: Authenticator | None) -> None:
    if outcome is _Outcome.WRONG:
        raise SecondFactorWrong
    if outcome is _Outcome.UNREADABLE:
        raise SecondFactorUnreadable
    if outcome is _Outcome.LOCKED and device is not None:
        until = device.verify_is_allowed()[1]
        left = (until["locked_until"] - clock.now()).total_seconds() if until else 0
        raise SecondFactorLocked(retry_after=max(1, math.ceil(left)))


@transaction.atomic
def reset(user: User, *, actor: str, address: str | None = None) -> bool:
    """Take the second factor away, where there is one, and end all that was signed in with it.

    Its owner signs in with the password and sets up another.
    """
    if not Authenticator.objects.filter(user=user).delete()[0]:
        return False
    ended = sign_ins.end_all(user=user)
    _tell(user, "second_factor_reset", actor, address, sign_ins_ended=ended)
    return True


def reset_by_email(email: str, *, actor: str) -> User:
    """``reset`` for the one person with this address. Raises ``PersonUnknown`` or ``SecondFactorMissing``."""
    found = list(User.objects.filter(email__iexact=email)[:2])
    if len(found) != 1:
        raise PersonUnknown("Several people have this address" if found else "")
    if not reset(found[0], actor=actor):
        raise SecondFactorMissing("This person has no second factor")
    return found[0]


def _tell(user: User, action: str, actor: str, address: str | None, **after: int) -> None:
    trail.record(
        actor=actor, action=action, target_type="user", target_id=user.pk, after=after, address=address
    )
