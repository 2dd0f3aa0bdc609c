"""Five failures for one name from one address lock that pair for a quarter of an hour."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.db import connection
from django.http import HttpRequest
from django.test import Client

from accounts.attempts import counted_name, one_attempt
from accounts.authenticators import Authenticator
from accounts.errors import SignInLocked
from accounts.models import User
from tests.accounts.authenticator import enrolled
from tests.api import anonymous
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import PASSWORD, make_user

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = pytest.mark.django_db

LOGIN = "/admin/login/"


def over_api(password: str, username: str = "ada", **more: str) -> Any:
    asked = {"username": username, "password": password}
    return anonymous().post("/api/v1/token", asked, format="json", **more)  # type: ignore[arg-type]


def with_code(code: str, **more: str) -> Any:
    asked = {"username": "ada", "password": PASSWORD, "otp": code}
    return anonymous().post("/api/v1/token", asked, format="json", **more)  # type: ignore[arg-type]


def in_console(password: str, username: str = "ada", **more: str) -> int:
    return Client().post(LOGIN, {"username": username, "password": password}, **more).status_code  # type: ignore[arg-type]


def an_operator() -> None:
    make_user("ada", password=PASSWORD, is_staff=True, is_superuser=True)


@pytest.mark.urls("config.urls")
def test_the_token_endpoint_locks_after_five_failures() -> None:
    an_operator()
    assert [over_api("wrong").status_code for _ in range(4)] == [401] * 4
    locked = over_api("wrong")
    assert (locked.status_code, locked.json()["code"], locked["Retry-After"]) == (
        429,
        "sign_in_locked",
        "900",
    )
    assert over_api(PASSWORD).status_code == 429


@pytest.mark.urls("config.urls")
def test_another_address_and_another_name_are_not_locked() -> None:
    an_operator()
    make_user("bob", password=PASSWORD)
    for number in range(6):
        over_api("wrong", HTTP_USER_AGENT=f"agent {number}")
    assert over_api(PASSWORD).status_code == 429
    assert over_api(PASSWORD, HTTP_X_FORWARDED_FOR="192.0.2.1").status_code == 429
    assert over_api(PASSWORD, REMOTE_ADDR="192.0.2.1").status_code == 200
    assert over_api(PASSWORD, "bob").status_code == 200


@pytest.mark.urls("config.urls")
def test_a_success_ends_the_count_and_a_quarter_of_an_hour_the_lock() -> None:
    an_operator()
    for _ in range(4):
        over_api("wrong")
    assert over_api(PASSWORD).status_code == 200
    for _ in range(4):
        over_api("wrong")
    assert over_api("wrong").status_code == 429
    AccessAttempt.objects.update(
        attempt_time=AccessAttempt.objects.get().attempt_time - timedelta(minutes=14)
    )
    assert over_api(PASSWORD).status_code == 429
    AccessAttempt.objects.update(attempt_time=AccessAttempt.objects.get().attempt_time - timedelta(minutes=2))
    assert over_api(PASSWORD).status_code == 200


def test_the_console_locks_too_and_keeps_no_password() -> None:
    an_operator()
    assert [in_console("Wrong Guess 1") for _ in range(4)] == [200] * 4
    assert in_console("Wrong Guess 1") == 429
    assert in_console(PASSWORD) == 429
    assert in_console(PASSWORD, REMOTE_ADDR="192.0.2.1") == 302
    kept = AccessAttempt.objects.values_list("post_data", "get_data", "username")
    assert "Wrong Guess 1" not in str(list(kept))


class TestCodes:
    """Wrong codes of a second factor count as wrong passwords do, together with them."""

    CODES = "/second-factor/"

    @pytest.fixture(autouse=True)
    def on_paper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the pauses of the device itself, which come between two tries."""
        monkeypatch.setattr(Authenticator, "verify_is_allowed", lambda _: (True, None))
        an_operator()
        _, self.backup = enrolled(User.objects.get())

    @pytest.mark.urls("config.urls")
    def test_five_over_the_api_lock_and_then_a_right_one_is_refused_unused(self) -> None:
        assert [with_code("123").status_code for _ in range(3)] == [401] * 3
        assert over_api("wrong").status_code == 401
        locked = with_code("123")
        assert (locked.status_code, locked.json()["code"], locked["Retry-After"]) == (
            429,
            "sign_in_locked",
            "900",
        )
        assert with_code(self.backup[0]).status_code == 429
        assert with_code(self.backup[0], REMOTE_ADDR="192.0.2.1").status_code == 200

    @pytest.mark.urls("config.urls")
    def test_over_the_api_a_password_alone_ends_no_count_and_a_right_code_does(self) -> None:
        for _ in range(4):
            with_code("123")
        assert over_api(PASSWORD).json()["code"] == "second_factor_required"
        assert AccessAttempt.objects.get().failures_since_start == 4
        assert with_code(self.backup[0]).status_code == 200
        assert not AccessAttempt.objects.exists()

    def test_five_in_the_console_lock_and_then_a_right_one_is_refused_unused(self) -> None:
        client = self.signed_in()
        assert [client.post(self.CODES, {"code": "123-456-78"}).status_code for _ in range(4)] == [400] * 4
        # Signing in again with the password is no way to begin anew.
        client = self.signed_in()
        assert client.post(self.CODES, {"code": "123"}).status_code == 429
        assert client.post(self.CODES, {"code": self.backup[0]}).status_code == 429
        assert in_console(PASSWORD) == 429
        elsewhere = self.signed_in(REMOTE_ADDR="192.0.2.1")
        done = elsewhere.post(self.CODES, {"code": self.backup[0]}, REMOTE_ADDR="192.0.2.1")
        assert done.status_code == 302
        kept = AccessAttempt.objects.get(ip_address="127.0.0.1")
        assert kept.failures_since_start == 5
        assert "123-456-78" not in kept.post_data

    def test_in_the_console_a_right_code_ends_the_count(self) -> None:
        client = self.signed_in()
        for _ in range(4):
            client.post(self.CODES, {"code": "123"})
        assert client.post(self.CODES, {"code": self.backup[0]}).status_code == 302
        assert not AccessAttempt.objects.exists()

    def signed_in(self, **more: str) -> Client:
        client = Client()
        signed = client.post(LOGIN, {"username": "ada", "password": PASSWORD}, **more)  # type: ignore[arg-type]
        assert signed.status_code == 302
        return client


TYPED = "My Own Password 4711 " + "x" * 300


@pytest.fixture
def two_failures_lock(settings: Any) -> None:
    """Each costs a third of a second, of a name that is nobody's too."""
    settings.AXES_FAILURE_LIMIT = 2


def assert_counted_and_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    attempt = AccessAttempt.objects.get()
    assert attempt.failures_since_start == 2
    assert attempt.username == counted_name(HttpRequest(), {"username": TYPED})
    assert "My Own Password" not in f"{AccessAttempt.objects.values()} {caplog.text}"
    assert "Repeated login failure" in caplog.text


@pytest.mark.usefixtures("two_failures_lock")
@pytest.mark.urls("config.urls")
def test_what_is_nobodys_name_is_locked_too_and_kept_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """It may be a password in the wrong field."""
    caplog.set_level("DEBUG")
    assert [over_api("wrong", TYPED).status_code for _ in range(3)] == [401, 429, 429]
    assert_counted_and_not_kept(caplog)
    assert over_api("wrong", "Another Password 42").status_code == 401


@pytest.mark.usefixtures("two_failures_lock")
def test_the_console_locks_and_keeps_no_unknown_name_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert [in_console("wrong", TYPED) for _ in range(3)] == [200, 429, 429]
    assert_counted_and_not_kept(caplog)


@pytest.mark.usefixtures("two_failures_lock")
def test_a_lock_does_not_tell_whether_a_name_is_somebodys() -> None:
    an_operator()
    answers = {}
    for name in ("ada", "nobody"):
        for _ in range(2):
            fields = {"username": name, "password": "wrong"}
            answers[name] = Client().post(LOGIN, fields, HTTP_X_REQUESTED_WITH="XMLHttpRequest")
    known, unknown = answers.values()
    assert known.status_code == unknown.status_code == 429
    assert known["Retry-After"] == "900"
    for answer in (known, unknown):
        del answer["X-Request-Id"]
    assert (known.content, known.headers) == (unknown.content, unknown.headers)


def test_somebody_is_counted_by_name_and_a_digest_is_nobody_elses_to_make(settings: Any) -> None:
    make_user("ada")
    assert counted_name(HttpRequest(), {"username": "ada"}) == "ada"
    counted = counted_name(HttpRequest(), {"username": "Ada"})
    assert counted is not None
    assert counted_name(HttpRequest(), {"username": counted}) != counted
    settings.SECRET_KEY = "another"
    assert counted_name(HttpRequest(), {"username": "Ada"}) != counted


@pytest.mark.urls("config.urls")
def test_guesses_made_at_once_are_no_more_than_five(committed: None) -> None:
    """What is turned away unchecked is no guess."""
    an_operator()
    together = threading.Barrier(12)
    answers: list[Any] = []

    def guess() -> None:
        together.wait(10)
        try:
            answers.extend(over_api("wrong") for _ in range(2))
        finally:
            connection.close()

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 24
    assert AccessAttempt.objects.get().failures_since_start <= 5
    assert sum(answer.status_code == 401 for answer in answers) <= 4


def test_a_second_attempt_meanwhile_is_turned_away(committed: None) -> None:
    refused: list[Exception] = []

    def attempt() -> None:
        try:
            with one_attempt(username="ada", address="192.0.2.1"):
                pass
        except SignInLocked as error:
            refused.append(error)
        finally:
            connection.close()

    with one_attempt(username="ada", address="192.0.2.1"):
        other = threading.Thread(target=attempt)
        other.start()
        other.join(10)
    assert len(refused) == 1
    attempt()
    assert len(refused) == 1


@pytest.mark.parametrize(
    "password",
    [
        "Short Pass1",
        "all small letters 1",
        "ALL CAPITALS 1234",
        "No Digits At All",
        "Password1234",
        "123456789012",
    ],
)
def test_weak_passwords_are_refused(password: str) -> None:
    with pytest.raises(ValidationError):
        password_validation.validate_password(password)


def test_a_strong_password_is_taken() -> None:
    password_validation.validate_password("Quite a Mouthful 42")
