"""Coming in with an API key over the REST API's ordinary views."""

import datetime as dt
from typing import Any

import pytest

from accounts.models import Consumer
from common import clock
from common.networks import parse_network
from keys import failures, proofs
from keys.authentication import grant_of
from keys.errors import InvalidKey
from keys.format import mint, parse
from keys.models import ApiKey
from tests.api import refusal, with_key
from tests.factories import make_key
from tests.key_texts import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

SERVICES = "/api/v1/services"


@pytest.fixture(autouse=True)
def _own_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests proved, and failed to, is not known here."""
    monkeypatch.setattr(proofs, "_of_process", None)
    monkeypatch.setattr(failures, "monotonic", lambda: 1000.0)


def test_a_good_key_comes_in_and_is_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = make_key()
    client = with_key(text)
    assert client.get(SERVICES).status_code == 200

    def dear(key_hash: str, secret: str) -> bool:
        raise AssertionError("Argon2 ran again")

    monkeypatch.setattr(proofs, "verify_secret", dear)
    assert client.get(SERVICES).status_code == 200


def test_a_key_that_ends_is_refused_at_once_although_it_was_proven() -> None:
    for change in (
        lambda key: ApiKey.objects.filter(id=key.id).update(revoked_at=clock.now()),
        lambda key: ApiKey.objects.filter(id=key.id).update(expires_at=clock.now() - dt.timedelta(seconds=1)),
        lambda key: Consumer.objects.filter(id=key.consumer_id).update(status="suspended"),
        lambda key: ApiKey.objects.filter(id=key.id).delete(),
        lambda key: ApiKey.objects.filter(id=key.id).update(key_hash="another"),
    ):
        key, text = make_key()
        client = with_key(text)
        assert client.get(SERVICES).status_code == 200
        change(key)
        assert refusal(client.get(SERVICES)) == (403, "invalid_api_key")


def test_all_bad_keys_look_alike() -> None:
    _, text = make_key()
    unknown = mint().text
    forged = text[:-1] + ("0" if text[-1] != "0" else "1")
    answers = [
        with_key(bad).get(SERVICES)
        for bad in (unknown, forged, text.upper().replace("MK_LIVE", "mk_live"), "mk_")
    ]
    assert {refusal(answer) for answer in answers} == {(403, "invalid_api_key")}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_the_secret_of_another_key_proves_nothing() -> None:
    key, _ = make_key()
    _, other_text = make_key()
    parsed = parse(other_text)
    assert parsed is not None
    ApiKey.objects.filter(public_id=parsed.public_id).delete()
    ApiKey.objects.filter(id=key.id).update(public_id=parsed.public_id)
    with pytest.raises(InvalidKey):
        grant_of(other_text, None)


ROUTES = {
    "consume": "/api/v1/services",
    "usage:read": "/api/v1/usage/{}",
    "quota:read": "/api/v1/quota/{}",
}


@pytest.mark.parametrize("scope", ROUTES)
def test_a_key_does_what_it_has_a_scope_for_and_nothing_else(scope: str) -> None:
    key, text = make_key(scopes=[scope])
    for needed, route in ROUTES.items():
        answer = with_key(text).get(route.format(key.service_id))
        if needed == scope:
            assert answer.status_code == 200
        else:
            assert refusal(answer) == (403, "scope_missing")


def test_a_key_without_scopes_does_nothing_and_a_view_that_names_none_lets_no_key_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, text = make_key(scopes=[])
    assert refusal(with_key(text).get(SERVICES)) == (403, "scope_missing")
    _, full = make_key()
    monkeypatch.delattr("catalog.views.ServicesView.required_scope")
    assert refusal(with_key(full).get(SERVICES)) == (403, "scope_missing")


def test_outside_its_networks_a_key_looks_like_a_bad_one(settings: Any) -> None:
    _, text = make_key(allowed_networks=["192.0.2.0/24", "2001:db8::/32"])
    client = with_key(text)

    def status(**meta: Any) -> int:
        answer = client.get(SERVICES, **meta)
        if answer.status_code != 200:
            assert refusal(answer) == (403, "invalid_api_key")
        return int(answer.status_code)

    assert status(REMOTE_ADDR="127.0.0.1") == 403
    assert status(REMOTE_ADDR="192.0.2.7") == 200
    assert status(REMOTE_ADDR="::ffff:192.0.2.7") == 200
    assert status(REMOTE_ADDR="2001:db8::1") == 200
    # Anybody can write a header; the trusted hop alone is believed.
    assert status(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="192.0.2.7") == 403
    settings.TRUSTED_PROXIES = [parse_network("127.0.0.0/8")]
    assert status(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="192.0.2.7") == 200
    assert status(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="192.0.2.7, 198.51.100.1") == 403
    assert status(REMOTE_ADDR="198.51.100.1", HTTP_X_FORWARDED_FOR="192.0.2.7") == 403


def test_guessing_at_one_id_is_stopped_before_argon2_and_locks_no_known_key_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, text = make_key()
    assert with_key(text).get(SERVICES).status_code == 200
    asked: list[str] = []

    def wrong(key_hash: str, secret: str) -> bool:
        asked.append(secret)
        return False

    monkeypatch.setattr(proofs, "verify_secret", wrong)
    codes = [
        refusal(with_key(text_of(key.public_id)).get(SERVICES, REMOTE_ADDR=f"198.51.100.{number}"))
        for number in range(25)
    ]
    assert codes == [(403, "invalid_api_key")] * 20 + [(429, "too_many_failures")] * 5
    assert len(asked) == 20
    assert with_key(text).get(SERVICES).status_code == 200


def test_failures_tell_nothing_of_whether_an_id_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = make_key()
    monkeypatch.setattr(proofs, "verify_secret", lambda *_: False)
    for public_id in (key.public_id, mint().public_id):
        monkeypatch.setattr(proofs, "_of_process", None)
        answers = [
            with_key(text_of(public_id)).get(SERVICES, REMOTE_ADDR=f"203.0.113.{number}")
            for number in range(21)
        ]
        assert [answer.status_code for answer in answers] == [403] * 20 + [429]
        assert answers[-1]["Retry-After"] == "5"
        assert answers[-1].json()["detail"] == "Too many API keys were not valid"


def test_one_address_that_guesses_at_many_ids_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "verify_secret", lambda *_: False)
    house = "2001:db8:1:2:{:x}::1"
    answers = [
        with_key(mint().text).get(SERVICES, REMOTE_ADDR=house.format(number)).status_code
        for number in range(51)
    ]
    assert answers == [403] * 50 + [429]
    assert with_key(mint().text).get(SERVICES, REMOTE_ADDR="2001:db8:1:3::1").status_code == 403
