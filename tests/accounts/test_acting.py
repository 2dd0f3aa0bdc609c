"""Which consumer a person acts for."""

import uuid

import pytest

from accounts.models import Consumer
from tests.api import anonymous, refusal, signed_in
from tests.factories import make_consumer, make_key, make_member, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

KEYS = "/api/v1/keys"


def test_the_only_membership_is_implied() -> None:
    member = make_member()
    key, _ = make_key(member.consumer)
    make_key()
    assert [row["id"] for row in signed_in(member.user).get(KEYS).json()["results"]] == [str(key.id)]


def test_who_belongs_to_several_names_one() -> None:
    person = make_user()
    first, second = make_member(user=person), make_member(user=person)
    key, _ = make_key(second.consumer)

    assert refusal(signed_in(person).get(KEYS)) == (400, "consumer_required")
    empty = signed_in(person, consumer_id=first.consumer_id).get(KEYS)
    assert empty.json()["results"] == []
    other = signed_in(person, consumer_id=second.consumer_id).get(KEYS)
    assert [row["id"] for row in other.json()["results"]] == [str(key.id)]


def test_a_consumer_of_others_looks_like_an_absent_one() -> None:
    member = make_member()
    others = make_consumer()
    answers = [
        signed_in(member.user, consumer_id=named).get(KEYS)
        for named in (others.id, uuid.uuid4(), "no uuid", "")
    ]
    assert {refusal(answer) for answer in answers} == {(404, "consumer_not_found")}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_who_belongs_to_none_may_not_act() -> None:
    assert refusal(signed_in(make_user(is_staff=True)).get(KEYS)) == (403, "no_membership")


def test_nobody_acts_for_a_suspended_consumer() -> None:
    member = make_member(make_consumer(status=Consumer.Status.SUSPENDED))
    assert refusal(signed_in(member.user).get(KEYS)) == (403, "consumer_suspended")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Bearer a b", "Basic YTpi", "Bearer mk_live_x"])
def test_without_a_valid_token_nobody_comes_in(header: str) -> None:
    client = anonymous()
    client.credentials(HTTP_AUTHORIZATION=header)
    response = client.get(KEYS)
    assert refusal(response) == (401, "credentials_missing")
    assert response["WWW-Authenticate"].startswith("Bearer")
