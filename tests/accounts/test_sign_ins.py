"""Refresh tokens rotate, and one that comes again ends the sign-in it belongs to."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection
from rest_framework_simplejwt.tokens import RefreshToken

from accounts.models import SignIn
from accounts.tasks import forget_expired_sign_ins
from common import clock
from tests.api import anonymous, refusal
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import PASSWORD, make_member, make_user

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]


def sign_in() -> dict[str, str]:
    member = make_member(user=make_user("ada", password=PASSWORD))
    asked = {"username": member.user.username, "password": PASSWORD}
    answer: dict[str, str] = anonymous().post("/api/v1/token", asked, format="json").json()
    return answer


def refresh(token: str) -> Any:
    return anonymous().post("/api/v1/token/refresh", {"refresh": token}, format="json")


def keys_status(access: str) -> int:
    client = anonymous()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {access}")
    return int(client.get("/api/v1/keys").status_code)


def test_each_refresh_gives_the_next_pair() -> None:
    tokens = sign_in()
    for _ in range(3):
        answer = refresh(tokens["refresh"])
        assert answer.status_code == 200
        assert answer.json()["refresh"] != tokens["refresh"]
        tokens = answer.json()
        assert keys_status(tokens["access"]) == 200
    assert SignIn.objects.count() == 1


def test_a_used_token_ends_the_whole_sign_in_and_no_other() -> None:
    first = sign_in()
    other = anonymous().post("/api/v1/token", {"username": "ada", "password": PASSWORD}, format="json").json()
    second = refresh(first["refresh"]).json()

    assert refusal(refresh(first["refresh"])) == (401, "credentials_missing")

    assert refusal(refresh(second["refresh"])) == (401, "credentials_missing")
    assert [keys_status(tokens["access"]) for tokens in (first, second)] == [401, 401]
    assert keys_status(other["access"]) == 200
    assert refresh(other["refresh"]).status_code == 200


def test_a_token_of_no_sign_in_is_refused() -> None:
    token = RefreshToken.for_user(make_member().user)
    assert refusal(refresh(str(token))) == (401, "credentials_missing")
    assert keys_status(str(token.access_token)) == 401


def test_of_many_at_once_one_gets_the_next_token_and_the_sign_in_ends(committed: None) -> None:
    token = sign_in()["refresh"]
    together = threading.Barrier(6)
    answers: list[Any] = []

    def renew() -> None:
        together.wait(10)
        try:
            answers.append(refresh(token))
        finally:
            connection.close()

    threads = [threading.Thread(target=renew) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401, 401]
    (given,) = [answer.json()["refresh"] for answer in answers if answer.status_code == 200]
    assert refresh(given).status_code == 401


def test_sign_ins_are_forgotten_when_their_last_token_has_expired() -> None:
    sign_in()
    SignIn.objects.update(renewed_at=clock.now() - timedelta(days=30) + timedelta(minutes=1))
    forget_expired_sign_ins()
    assert SignIn.objects.count() == 1
    SignIn.objects.update(renewed_at=clock.now() - timedelta(days=30, minutes=1))
    forget_expired_sign_ins()
    assert SignIn.objects.count() == 0


def test_sessions_of_the_console_are_forgotten_when_they_have_expired() -> None:
    for days in (-1, 1):
        session = SessionStore()
        session.set_expiry(timedelta(days=days))
        session.save()
    forget_expired_sign_ins()
    assert list(Session.objects.values_list("session_key", flat=True)) == [session.session_key]
