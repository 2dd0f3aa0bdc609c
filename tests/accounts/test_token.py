"""Signing in over the REST API."""

from datetime import timedelta

import pytest
from rest_framework_simplejwt.tokens import AccessToken

from accounts.models import Membership, User
from accounts.sign_ins import begin
from tests.api import anonymous, post_bytes, refusal, signed_in
from tests.factories import PASSWORD, make_consumer, make_member, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

TOKEN = "/api/v1/token"
REFRESH = "/api/v1/token/refresh"


def test_a_member_gets_two_tokens_and_the_consumers_they_are_good_for() -> None:
    person = make_user("ada", password=PASSWORD)
    first, second = make_consumer("Analytical Engines"), make_consumer("Bernoulli")
    make_member(second, user=person, role=Membership.Role.VIEWER)
    make_member(first, user=person)
    make_member(make_consumer("Somebody else's"))

    response = anonymous().post(TOKEN, {"username": "ada", "password": PASSWORD}, format="json")

    assert response.status_code == 200
    assert response["Cache-Control"] == "max-age=0, no-cache, no-store, must-revalidate, private"
    answer = response.json()
    assert set(answer) == {"access", "refresh", "consumers"}
    assert AccessToken(answer["access"])["user_id"] == str(person.pk)
    assert answer["consumers"] == [
        {"id": str(first.id), "name": "Analytical Engines", "role": "owner"},
        {"id": str(second.id), "name": "Bernoulli", "role": "viewer"},
    ]
    person.refresh_from_db()
    assert person.last_login is not None


def test_the_access_token_is_good_for_a_day() -> None:
    make_user("ada", password=PASSWORD)
    answer = anonymous().post(TOKEN, {"username": "ada", "password": PASSWORD}, format="json").json()
    token = AccessToken(answer["access"])
    assert token["exp"] - token["iat"] == timedelta(hours=24).total_seconds()


@pytest.mark.parametrize(
    ("username", "password"), [("ada", "wrong"), ("nobody", PASSWORD), ("gone", PASSWORD), ("ADA", PASSWORD)]
)
def test_whatever_is_wrong_with_credentials_the_answer_is_the_same(username: str, password: str) -> None:
    make_user("ada", password=PASSWORD)
    make_user("gone", password=PASSWORD, is_active=False)

    response = anonymous().post(TOKEN, {"username": username, "password": password}, format="json")

    assert refusal(response) == (401, "credentials_missing")
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert not User.objects.exclude(last_login=None).exists()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "malformed_request")),
        (b"\xff", (400, "malformed_request")),
        (b'{"username": NaN}', (400, "malformed_request")),
        (b'{"username": 1e400}', (400, "malformed_request")),
        (b'{"username": "a", "username": "b"}', (400, "malformed_request")),
        (b"[" * 100_000, (400, "malformed_request")),
        (b'{"a":' * 100_000, (400, "malformed_request")),
        (b" " * (1024 * 1024 + 1), (413, "body_too_large")),
        (b"", (422, "invalid_field")),
        (b"[]", (422, "invalid_field")),
        (b'{"username": "a"}', (422, "invalid_field")),
        (b'{"username": {}, "password": []}', (422, "invalid_field")),
        (b'{"username": "a\\u0000", "password": "b"}', (400, "malformed_request")),
        (b'{"username": "\\ud800", "password": "b"}', (400, "malformed_request")),
    ],
)
def test_a_hostile_body_is_a_problem_and_never_a_500(body: bytes, expected: tuple[int, str]) -> None:
    response = post_bytes(anonymous(), TOKEN, body)
    assert refusal(response) == expected


def test_only_json_is_read() -> None:
    response = post_bytes(anonymous(), TOKEN, b"username=a", content_type="application/x-www-form-urlencoded")
    assert refusal(response) == (415, "unsupported_media_type")


def test_a_refresh_token_buys_an_access_token() -> None:
    person = make_user()
    response = anonymous().post(REFRESH, {"refresh": str(begin(user=person))}, format="json")
    assert response.status_code == 200
    assert AccessToken(response.json()["access"])["user_id"] == str(person.pk)


def test_a_refresh_token_ends_with_the_person() -> None:
    gone, suspended = make_user(), make_user()
    tokens = [str(begin(user=person)) for person in (gone, suspended)]
    gone.delete()
    User.objects.filter(pk=suspended.pk).update(is_active=False)
    for token in [*tokens, "no token", str(AccessToken.for_user(suspended))]:
        response = anonymous().post(REFRESH, {"refresh": token}, format="json")
        assert refusal(response) == (401, "credentials_missing")


def test_an_access_token_ends_with_the_person() -> None:
    member = make_member()
    client = signed_in(member.user)
    assert client.get("/api/v1/keys").status_code == 200
    User.objects.filter(pk=member.user.pk).update(is_active=False)
    assert refusal(client.get("/api/v1/keys")) == (401, "credentials_missing")
