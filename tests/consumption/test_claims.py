"""A key stands for one call of its consumer for 24 hours, whoever asks at the same moment."""

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from common import clock
from common.ids import moment_of, uuid7
from consumption import claims
from consumption.claims import Found, Key
from consumption.models import IdempotencyClaim
from metering import partitions
from metering.models import UsageRecord
from tests import factories
from tests.committed import audit_trail_may_be_emptied, committed

__all__ = ["audit_trail_may_be_emptied", "committed"]

CONSUMER = uuid.uuid4()
KEY = Key.of(CONSUMER, "order-1", b"consume", b"service", b"{}")


def age(key: Key, **by: float) -> None:
    IdempotencyClaim.objects.filter(key_hash=key.key_hash).update(created_at=clock.now() - dt.timedelta(**by))


def ledger_row(request_id: uuid.UUID, status: str, *, duration_ms: int = 0) -> None:
    key, _ = factories.make_key()
    assert key.service is not None
    UsageRecord.objects.create(
        id=request_id,
        request_id=request_id,
        service=key.service,
        consumer=key.consumer,
        api_key=key,
        price_version=key.service.price_versions.get(),
        tier=key.tier,
        timestamp=moment_of(request_id),
        duration_ms=duration_ms,
        usage={},
        cost={},
        total_tokens=0,
        cost_amount=0,
        currency="USD",
        status=status,
    )


@pytest.mark.django_db
def test_the_first_call_has_the_key_and_the_second_learns_whose_it_is() -> None:
    first, second = uuid7(), uuid7()
    assert claims.find(KEY) is None
    assert claims.take(KEY, first) is None
    assert claims.take(KEY, second) == Found(first, KEY.digest, None)
    assert claims.take(KEY, first) is None, "asked again after an answer that was lost"
    assert claims.find(KEY) == Found(first, KEY.digest, None)
    assert IdempotencyClaim.objects.count() == 1


@pytest.mark.django_db
def test_another_request_under_the_key_is_told_apart_and_takes_nothing() -> None:
    first = uuid7()
    claims.take(KEY, first)
    for other in [
        Key.of(CONSUMER, "order-1", b"consume", b"service", b"{ }"),
        Key.of(CONSUMER, "order-1", b"consume", b"servic", b"e{}"),
        Key.of(CONSUMER, "order-1", b"openai /chat/completions", b"service", b"{}"),
    ]:
        found = claims.take(other, uuid7())
        assert found is not None
        assert (found.request_id, found.digest == other.digest) == (first, False)


@pytest.mark.django_db
def test_keys_of_two_consumers_never_meet() -> None:
    claims.take(KEY, uuid7())
    other = Key.of(uuid.uuid4(), "order-1", b"consume", b"service", b"{}")
    assert claims.find(other) is None
    assert claims.take(other, uuid7()) is None


def test_neither_key_nor_request_can_be_guessed_from_what_is_stored() -> None:
    stored = KEY.key_hash + KEY.digest
    assert b"order-1" not in stored
    assert Key.of(CONSUMER, "order-2", b"consume", b"service", b"{}").digest != KEY.digest


@pytest.mark.django_db
def test_after_24_hours_a_key_is_new_and_the_former_call_has_no_say() -> None:
    first, second, third = uuid7(), uuid7(), uuid7()
    claims.take(KEY, first)
    age(KEY, hours=23, minutes=59)
    assert claims.take(KEY, second) == Found(first, KEY.digest, None)
    age(KEY, hours=24, seconds=1)
    assert claims.find(KEY) is None
    assert claims.take(KEY, second) is None
    claims.free(KEY, first)
    assert claims.take(KEY, third) == Found(second, KEY.digest, None)


@pytest.mark.django_db
def test_a_key_that_is_given_back_is_free() -> None:
    first = uuid7()
    claims.take(KEY, first)
    claims.free(KEY, uuid7())
    assert claims.find(KEY) is not None, "only its own call gives a key back"
    claims.free(KEY, first)
    assert claims.find(KEY) is None


@pytest.mark.django_db
@pytest.mark.parametrize("status", ["success", "error", "cancelled", "unsettled"])
def test_the_ledger_has_the_outcome(status: str) -> None:
    partitions.make_ahead()
    request_id = uuid7(clock.now_ms() - 6_000)
    claims.take(KEY, request_id)
    assert claims.find(KEY) == Found(request_id, KEY.digest, None)
    ledger_row(request_id, status)
    assert claims.find(KEY) == Found(request_id, KEY.digest, status)


@pytest.mark.django_db
def test_an_outcome_whose_answer_may_still_be_on_its_way_is_none() -> None:
    partitions.make_ahead()
    request_id = uuid7(clock.now_ms() - 6_000)
    claims.take(KEY, request_id)
    ledger_row(request_id, "success", duration_ms=60_000)
    assert claims.find(KEY) == Found(request_id, KEY.digest, None)


@pytest.mark.django_db
def test_only_what_is_long_over_is_removed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MOST_REMOVED_AT_ONCE", 2)
    old = [Key.of(CONSUMER, f"old-{number}", b"") for number in range(5)]
    for key in old:
        claims.take(key, uuid7())
        age(key, hours=25, seconds=1)
    kept = Key.of(CONSUMER, "kept", b"")
    claims.take(kept, uuid7())
    age(kept, hours=24, minutes=59)
    assert claims.remove_expired() == 5
    assert claims.remove_expired() == 0
    assert [bytes(claim.key_hash) for claim in IdempotencyClaim.objects.all()] == [kept.key_hash]


def test_of_many_at_once_one_has_the_key(committed: None) -> None:
    def take(request_id: uuid.UUID) -> Found | None:
        try:
            return claims.take(KEY, request_id)
        finally:
            connection.close()

    ids = [uuid7() for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(ids, pool.map(take, ids), strict=True))
    winners = [id_ for id_, found in answers.items() if found is None]
    assert len(winners) == 1
    assert {found for found in answers.values() if found} == {Found(winners[0], KEY.digest, None)}
