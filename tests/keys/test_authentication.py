"""Coming in with an API key over the REST API's ordinary views."""

import datetime as dt

import pytest

from accounts.models import Consumer
from common import clock
from keys import authentication
from keys.authentication import Proofs
from keys.format import mint, parse
from keys.keyring import InvalidKey
from keys.models import ApiKey
from tests.api import refusal, with_key
from tests.factories import make_key

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

SERVICES = "/api/v1/services"


def test_a_good_key_comes_in_and_is_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = make_key()
    client = with_key(text)
    assert client.get(SERVICES).status_code == 200

    def dear(key_hash: str, secret: str) -> bool:
        raise AssertionError("Argon2 ran again")

    monkeypatch.setattr(authentication, "verify_secret", dear)
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
        Proofs().grant(other_text)


def test_the_memory_of_proofs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "MOST_PROOFS", 1)
    remembered = Proofs()
    for _ in range(3):
        remembered.grant(make_key()[1])
    assert len(remembered._proven) == 1
