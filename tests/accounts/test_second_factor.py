"""The second factor: set up, asked for, good once, and in nobody's way who has none to give."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib import admin
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError
from django.db import connection
from django.test import Client
from django.urls import reverse
from rest_framework.exceptions import AuthenticationFailed

from accounts import checks, second_factor, sign_ins
from accounts.authenticators import Authenticator, BackupCode
from accounts.errors import SecondFactorLocked, SecondFactorWrong
from accounts.models import SignIn, User
from audit.models import AuditEntry
from tests.accounts.authenticator import enrolled, shown
from tests.api import anonymous, refusal
from tests.committed import audit_trail_may_be_emptied, committed
from tests.console import console, operator
from tests.factories import PASSWORD, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

PAGE = "/second-factor/"
__all__ = ["audit_trail_may_be_emptied", "committed"]


@pytest.fixture(autouse=True)
def required(settings: Any) -> None:
    settings.SECOND_FACTOR_REQUIRED = True


def actions(user: User) -> list[str]:
    return list(
        AuditEntry.objects.filter(target_id=str(user.pk), target_type="user")
        .order_by("id")
        .values_list("action", flat=True)
    )


def test_who_has_power_is_led_to_set_one_up_and_then_gets_where_they_wanted() -> None:
    person = operator("finance")
    client = console(person)
    answer = client.get("/admin/metering/usagerecord/?status=error")
    assert answer.status_code == 302
    assert answer["Location"] == f"{PAGE}?next=%2Fadmin%2Fmetering%2Fusagerecord%2F%3Fstatus%3Derror"

    page = client.get(answer["Location"]).content.decode()
    device = Authenticator.objects.get(user=person)
    assert "<svg" in page
    assert device.secret_text in page
    assert not device.confirmed

    done = client.post(PAGE, {"code": shown(device), "next": "/admin/metering/usagerecord/"})
    codes = re.findall(r"(?:[0-9a-f]{4}-){3}[0-9a-f]{4}", done.content.decode())
    assert len(set(codes)) == 10
    assert 'href="/admin/metering/usagerecord/"' in done.content.decode()
    assert client.get("/admin/metering/usagerecord/").status_code == 200
    assert codes[0] not in client.get(PAGE).content.decode(), "they are shown once"
    assert actions(person) == ["second_factor_enrolled"]


def test_a_session_without_it_reaches_no_page_of_the_console() -> None:
    person = operator("super_admin")
    enrolled(person)
    client = console(person)
    names = ["index", "password_change", "app_list", "jsi18n", "autocomplete"]
    urls = [reverse(f"admin:{name}") for name in names if name != "app_list"]
    for model in admin.site._registry:
        base = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        urls += [reverse(f"{base}_changelist"), reverse(f"{base}_add"), reverse(f"{base}_change", args=(1,))]
    for url in urls:
        for answer in (client.get(url), client.post(url)):
            assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, PAGE), url


@pytest.mark.parametrize("role", ["approver", "viewer"])
def test_who_has_none_and_needs_none_is_not_asked(role: str) -> None:
    assert console(operator(role)).get("/admin/").status_code == 200


def test_where_it_is_not_required_who_has_one_is_asked_all_the_same(settings: Any) -> None:
    settings.SECOND_FACTOR_REQUIRED = False
    with_one, without = operator("viewer"), operator("super_admin")
    enrolled(with_one)
    assert console(with_one).get("/admin/").status_code == 302
    assert console(without).get("/admin/").status_code == 200


def test_a_code_opens_the_console_for_this_session_alone() -> None:
    person = operator("admin")
    device, _ = enrolled(person)
    client = console(person)
    answer = client.post(PAGE, {"code": shown(device), "next": "https://elsewhere.example/"})
    assert (answer.status_code, answer["Location"]) == (302, "/admin/"), "nobody is led elsewhere"
    assert client.get("/admin/").status_code == 200
    assert console(person).get("/admin/").status_code == 302


def test_a_mark_of_another_persons_device_is_worth_nothing() -> None:
    one, other = operator("admin"), operator("admin")
    device, _ = enrolled(one)
    enrolled(other)
    client = console(other)
    session = client.session
    session["otp_device_id"] = device.persistent_id
    session.save()
    assert client.get("/admin/").status_code == 302


@pytest.mark.parametrize("code", ["", "000", "abcdef", "１２３４５６", "0" * 64, "1234567"])  # noqa: RUF001
def test_what_is_no_code_is_wrong(code: str) -> None:
    person = make_user()
    enrolled(person)
    with pytest.raises(SecondFactorWrong):
        second_factor.verify(person, code)
    assert actions(person) == ["second_factor_enrolled", "second_factor_failed"]


def test_a_code_is_good_once_and_none_before_it_is_good_after_it() -> None:
    person = make_user()
    device, _ = enrolled(person)
    now, before = shown(device), shown(device, steps=-1)
    second_factor.verify(person, now)
    for used in (now, before):
        Authenticator.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
        with pytest.raises(SecondFactorWrong):
            second_factor.verify(person, used)


def test_wrong_codes_make_the_right_one_wait_and_the_wait_has_an_end() -> None:
    person = make_user()
    device, _ = enrolled(person)
    for _ in range(12):
        Authenticator.objects.update(throttling_failure_timestamp=None)
        with pytest.raises(SecondFactorWrong):
            second_factor.verify(person, "wrong")
    with pytest.raises(SecondFactorLocked) as locked:
        second_factor.verify(person, shown(device))
    assert 500 < (locked.value.retry_after or 0) <= 512


def test_a_code_on_paper_is_good_once() -> None:
    person = make_user()
    _, backup = enrolled(person)
    second_factor.verify(person, backup[3].upper().replace("-", " - ").replace(" ", ""))
    with pytest.raises(SecondFactorWrong):
        second_factor.verify(person, backup[3])
    assert BackupCode.objects.filter(used_at=None).count() == 9
    assert "backup_code_used" in actions(person)


def test_nothing_at_rest_gives_a_code_away() -> None:
    person = make_user()
    device, backup = enrolled(person)
    rows = [bytes(device.sealed), *(bytes(code.digest) for code in BackupCode.objects.all())]
    for row in rows:
        assert device.secret not in row
        assert device.secret_text.encode() not in row
        assert not any(code.encode() in row or bytes.fromhex(code.replace("-", "")) in row for code in backup)


class TestKeys:
    """What a person's app shows is sealed under ``CREDENTIAL_KEYS``."""

    @pytest.fixture
    def shut(self, settings: Any) -> Authenticator:
        """Sealed under a key that is no longer on the ring."""
        ring = settings.CREDENTIAL_KEYS
        settings.CREDENTIAL_KEYS = [Fernet.generate_key().decode()]
        device, self.backup = enrolled(operator("admin"))
        settings.CREDENTIAL_KEYS = ring
        return device

    def test_one_that_cannot_be_opened_is_not_called_a_wrong_code(self, shut: Authenticator) -> None:
        client = console(shut.user)
        answer = client.post(PAGE, {"code": "123456"})
        assert answer.status_code == 503
        assert "cannot be checked now" in answer.content.decode()
        assert client.post(PAGE, {"code": self.backup[0]}).status_code == 302

    def test_one_that_was_not_set_up_yet_is_begun_anew(self, shut: Authenticator) -> None:
        Authenticator.objects.update(confirmed=False)
        assert "<svg" in console(shut.user).get(PAGE).content.decode()
        assert Authenticator.objects.get().opens

    def test_the_check_of_a_deployment_names_whose_cannot_be_opened(self, shut: Authenticator) -> None:
        enrolled(make_user())
        found = checks.authenticators_open(app_configs=None, databases=["default"])
        assert [each.id for each in found] == ["accounts.E001"]
        assert found[0].msg == (
            f"1 authenticators cannot be opened with CREDENTIAL_KEYS: those of users {shut.user_id}"
        )

    def test_the_check_of_a_deployment_tells_where_there_are_no_keys(self, settings: Any) -> None:
        enrolled(make_user())
        settings.CREDENTIAL_KEYS = [settings.KNOWN_CREDENTIAL_KEY]
        with pytest.raises(SystemCheckError, match=r"accounts.E001.*CREDENTIAL_KEYS is not set"):
            call_command("check", deploy=True, databases=["default"])

    def test_the_check_is_content_where_all_open_and_where_no_database_is_asked(
        self, shut: Authenticator
    ) -> None:
        assert checks.authenticators_open(app_configs=None, databases=None) == []
        shut.delete()
        enrolled(make_user())
        assert checks.authenticators_open(app_configs=None, databases=["default"]) == []


def test_it_is_reset_by_who_manages_roles_and_by_nobody_else() -> None:
    person, boss, other = operator("finance"), operator("super_admin"), operator("admin")
    enrolled(person)
    for client, left in ((_verified(other), True), (_verified(boss), False)):
        reset_by(client, person)
        assert Authenticator.objects.filter(user=person).exists() is left
    assert actions(person) == ["second_factor_enrolled", "second_factor_reset"]
    assert AuditEntry.objects.get(action="second_factor_reset").actor == boss.username


def reset_by(client: Client, person: User) -> None:
    chosen = {"action": "reset_second_factor", "_selected_action": [person.pk]}
    client.post(reverse("admin:accounts_user_changelist"), chosen)


def test_a_reset_ends_what_was_signed_in_with_it_and_nothing_of_others() -> None:
    person, boss = operator("finance"), operator("super_admin")
    theirs, of_boss = _verified(person), _verified(boss)
    tokens, tokens_of_boss = sign_ins.begin(user=person), sign_ins.begin(user=boss)
    before = User.objects.get(pk=person.pk)
    reset_by(of_boss, person)

    answer = theirs.get(PAGE)
    assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/admin/login/")
    assert sign_ins.has_ended(tokens.access_token)
    with pytest.raises(AuthenticationFailed):
        sign_ins.renew(user=person, presented=tokens)
    assert AuditEntry.objects.get(action="second_factor_reset").after == {"sign_ins_ended": 1}

    assert of_boss.get("/admin/").status_code == 200
    assert not sign_ins.has_ended(tokens_of_boss.access_token)
    # Neither a sign-in whose code was checked before it, nor a form that was filled in before it, undoes that.
    with pytest.raises(AuthenticationFailed):
        sign_ins.begin(user=before)
    before.first_name = "Ada"
    before.save()
    assert theirs.get(PAGE)["Location"].startswith("/admin/login/")


def test_a_password_that_somebody_else_sets_ends_sign_ins_too() -> None:
    person, boss = make_user(), operator("super_admin")
    tokens = sign_ins.begin(user=person)
    fields = {"password1": "Quite a Mouthful 42", "password2": "Quite a Mouthful 42"}
    page = reverse("admin:auth_user_password_change", args=(person.pk,))
    assert _verified(boss).post(page, fields).status_code == 302
    assert sign_ins.has_ended(tokens.access_token)


def test_a_code_changes_the_key_of_the_session() -> None:
    person = operator("admin")
    device, _ = enrolled(person)
    client = console(person)
    before = client.session.session_key
    assert client.post(PAGE, {"code": shown(device)}).status_code == 302
    assert before
    assert client.session.session_key not in {None, before}
    client.cookies["console_session"] = before
    assert client.get(PAGE)["Location"].startswith("/admin/login/")


class TestCommand:
    """``reset_second_factor``: nobody is left who could do it in the console."""

    def test_the_one_super_admin_is_helped(self, capsys: pytest.CaptureFixture[str]) -> None:
        person = operator("super_admin")
        User.objects.filter(pk=person.pk).update(email="Boss@example.com")
        client = _verified(person)
        call_command("reset_second_factor", "boss@example.com")
        assert json.loads(capsys.readouterr().out) == {"reset": person.username}
        assert actions(person)[-1] == "second_factor_reset"
        assert AuditEntry.objects.get(action="second_factor_reset").actor == "reset_second_factor"
        assert client.get("/admin/")["Location"].startswith("/admin/login/")
        assert "<svg" in console(User.objects.get(pk=person.pk)).get(PAGE).content.decode()

    @pytest.mark.parametrize(
        ("email", "said"),
        [
            ("nobody@example.com", "Nobody has this address"),
            ("two@example.com", "Several people have this address"),
            ("without@example.com", "This person has no second factor"),
        ],
    )
    def test_nobody_else_is_taken_for_them(self, email: str, said: str) -> None:
        for _ in range(2):
            enrolled(make_user(email="two@example.com"))
        make_user(email="without@example.com")
        with pytest.raises(CommandError, match=said):
            call_command("reset_second_factor", email)
        assert Authenticator.objects.count() == 2


def _verified(person: User) -> Client:
    device, _ = enrolled(person)
    client = console(person)
    client.post(PAGE, {"code": shown(device)})
    return client


@pytest.mark.urls("config.urls")
class TestToken:
    TOKEN = "/api/v1/token"

    def ask(self, **more: str) -> Any:
        body = {"username": "ada", "password": PASSWORD, **more}
        return anonymous().post(self.TOKEN, body, format="json")

    def test_a_password_alone_is_not_enough(self) -> None:
        enrolled(make_user("ada", password=PASSWORD))
        assert refusal(self.ask()) == (401, "second_factor_required")
        assert refusal(self.ask(otp="000000x")) == (401, "second_factor_wrong")
        assert not SignIn.objects.exists()

    def test_with_a_code_it_is(self) -> None:
        device, backup = enrolled(make_user("ada", password=PASSWORD))
        assert self.ask(otp=shown(device)).status_code == 200
        assert self.ask(otp=backup[0]).status_code == 200

    def test_who_needs_one_and_has_none_gets_no_token(self) -> None:
        make_user("ada", password=PASSWORD, is_superuser=True)
        assert refusal(self.ask(otp="123456")) == (401, "second_factor_missing")

    def test_who_has_the_password_wrong_learns_nothing_of_it(self) -> None:
        enrolled(make_user("ada", password=PASSWORD))
        answer = self.ask(password="wrong", otp="123456")
        assert refusal(answer) == (401, "credentials_missing")


@pytest.mark.usefixtures("committed")
def test_of_the_same_code_many_times_at_once_one_is_accepted() -> None:
    person = make_user()
    device, _ = enrolled(person)
    code = shown(device)

    def attempt(_: int) -> bool:
        try:
            second_factor.verify(person, code)
        except (SecondFactorWrong, SecondFactorLocked):
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
