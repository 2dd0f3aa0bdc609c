"""Attempts to sign in: passwords and codes of a second factor count alike, for a name and an address together.

django-axes counts failures after they were checked: many attempts at once would all be checked before the first of them
counts. So a second one that comes meanwhile is turned away. What axes keeps and says of an attempt is decided here too
(``AXES_USERNAME_CALLABLE``, ``AXES_LOCKOUT_CALLABLE``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from axes.handlers.proxy import AxesProxyHandler
from axes.helpers import get_lockout_message
from django.conf import settings
from django.contrib.auth.signals import user_login_failed
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac

from accounts.errors import SecondFactorWrong, SignInLocked
from accounts.models import User
from audit.trail import address_of


@contextmanager
def one_attempt(*, username: str, address: str | None) -> Iterator[None]:
    """Raises ``SignInLocked`` where another attempt for the same name from the same address is being checked."""
    who = f"sign-in {username} {address}"
    if not _asked("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", who):
        raise SignInLocked(retry_after=1)
    try:
        yield
    finally:
        _asked("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", who)


@contextmanager
def one_code(*, request: Any, username: str) -> Iterator[None]:
    """One attempt with a second factor, after the password was right. Raises ``SignInLocked`` too."""
    with one_attempt(username=username, address=address_of(request)):
        if not AxesProxyHandler.is_allowed(request, {"username": username}):
            raise locked_out()
        with wrong_codes_counted(request=request, username=username):
            yield
        forget_failures(request=request, username=username)


@contextmanager
def wrong_codes_counted(*, request: Any, username: str) -> Iterator[None]:
    """A wrong code is a failure as a wrong password is one. Raises ``SignInLocked`` for the one that locks."""
    try:
        yield
    except SecondFactorWrong as wrong:
        user_login_failed.send(sender=__name__, credentials={"username": username}, request=request)
        if getattr(request, "axes_locked_out", False):
            raise locked_out() from wrong
        raise


def forget_failures(*, request: Any, username: str) -> None:
    """Whoever has signed in with all that is asked of them begins anew."""
    AxesProxyHandler.update_request(request)
    AxesProxyHandler.get_implementation().reset_user_attempts(request, {"username": username})


def locked_out() -> SignInLocked:
    """The refusal of a name and an address with too many failures."""
    return SignInLocked(retry_after=int(settings.AXES_COOLOFF_TIME.total_seconds()))


def _asked(statement: str, who: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, [who])
        return bool(cursor.fetchone()[0])


def counted_name(request: HttpRequest, credentials: Mapping[str, Any] | None) -> str | None:
    """The name that failures are counted for: a person's own, and a keyed digest of what is nobody's.

    What is nobody's name may be a password, typed into the wrong field: no table and no log may have it.
    """
    typed = (credentials or {}).get("username")
    if typed is None or User.objects.filter(username=typed).exists():
        return typed
    return f"unknown:{salted_hmac('accounts.attempts', typed, algorithm='sha256').hexdigest()}"


def lockout_answer(
    request: HttpRequest, response: HttpResponse | None, credentials: Mapping[str, Any] | None
) -> HttpResponse:
    """The console's answer to who is locked out, whoever it is and however they asked.

    A script would be told by axes how the name is counted, and so whether somebody has it.
    """
    wait = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return HttpResponse(get_lockout_message(), status=SignInLocked.status, headers={"Retry-After": wait})
