"""Entries that cannot become rows: told of, passed over, and never in the way of the others."""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.db import IntegrityError, connection

from catalog.models import Service
from common import clock
from common.ids import uuid7
from metering import dead_letters, journal, shards
from metering.models import DeadLetter, UsageRecord
from tests import factories
from tests.metering.market import Market, letters
from tests.superuser import superuser_cursor

DAY_MS = 24 * 60 * 60 * 1000


def changed(market: Market, **fields: Any) -> bytes:
    """A good entry in which fields were overwritten with what a gateway would never write."""
    entry = msgspec.json.decode(journal.encode(market.entry()))
    return msgspec.json.encode(entry | fields)


def forget_prices(service: Service) -> None:
    with superuser_cursor() as cursor:
        cursor.execute("ALTER TABLE price_versions DISABLE TRIGGER immutable")
        cursor.execute("DELETE FROM price_versions WHERE service_id = %s", [str(service.id)])
        cursor.execute("ALTER TABLE price_versions ENABLE TRIGGER immutable")


def with_metadata(market: Market, text: bytes) -> bytes:
    return journal.encode(market.entry(metadata=msgspec.Raw(text)))


UNREADABLE: dict[str, Callable[[Market], bytes]] = {
    "not JSON": lambda market: b"\xff\x00 nothing",
    "empty": lambda market: b"",
    "a field is missing": lambda market: b'{"request_id": "01a20409-b587-725b-a43f-6375f971dfcc"}',
    "no time in the id": lambda market: changed(market, request_id=str(uuid.uuid4())),
    "from the future": lambda market: changed(market, request_id=str(uuid7(clock.now_ms() + 2 * DAY_MS))),
    "from long ago": lambda market: changed(market, request_id=str(uuid7(clock.now_ms() - 500 * DAY_MS))),
    "negative tokens": lambda market: changed(market, prompt_tokens=-1),
    "tokens past 2^53": lambda market: changed(market, prompt_tokens=2**53 + 1),
    "tokens past 64 bits": lambda market: changed(market, completion_tokens=2**64),
    "fractional tokens": lambda market: changed(market, prompt_tokens=1.5),
    "duration past 32 bits": lambda market: changed(market, duration_ms=2**31),
    "cost with an exponent": lambda market: changed(market, cost="1e3"),
    "negative cost": lambda market: changed(market, cost="-1"),
    "cost too exact": lambda market: changed(market, cost="0.0000000000000000001"),
    "cost not a number": lambda market: changed(market, cost="NaN"),
    "no currency": lambda market: changed(market, currency="U\tD"),
    "unknown status": lambda market: changed(market, status="fine"),
    "metadata not UTF-8": lambda market: with_metadata(market, b'{"a": "\xff"}'),
    "half a surrogate pair in metadata": lambda market: with_metadata(market, rb'{"a": "\ud800"}'),
    "metadata too deep": lambda market: with_metadata(market, b"[" * 100_000 + b"]" * 100_000),
}
REFUSED: dict[str, Callable[[Market], bytes]] = {
    "NUL in metadata": lambda market: with_metadata(market, rb'{"a": "\u0000"}'),
    "number past numeric": lambda market: with_metadata(market, b'{"a": 1e999999}'),
    "NUL in the tier": lambda market: changed(market, tier="a\0b"),
    "tier too long": lambda market: changed(market, tier="x" * 51),
    "unknown service": lambda market: changed(market, service_id=str(uuid.uuid4())),
}


@pytest.mark.parametrize(
    ("make", "reason"),
    [pytest.param(make, "unreadable", id=name) for name, make in UNREADABLE.items()]
    + [pytest.param(make, "refused", id=name) for name, make in REFUSED.items()],
)
def test_a_poisoned_entry_becomes_a_letter_and_the_others_rows(
    market: Market, make: Any, reason: str
) -> None:
    good = [market.entry() for _ in range(7)]
    poison: bytes = make(market)
    market.write(*good[:4], poison, *good[4:])

    market.drain()

    assert set(UsageRecord.objects.values_list("id", flat=True)) == {entry.request_id for entry in good}
    letter = DeadLetter.objects.get()
    assert (letter.reason, bytes(letter.entry), letter.settlement) == (reason, poison, "lease")
    assert (letter.shard, letter.epoch, letter.resolved_at) == (market.shard, 1, None)
    assert market.waiting() == 0
    market.assert_reconciled()


def test_an_entry_that_comes_again_in_another_epoch_is_one_letter(market: Market) -> None:
    """As it does where a drain dies before it trims, and Valkey comes back."""
    journal_key, fields = shards.journal_key(market.shard), {"e": b"nothing", "s": "lease"}
    for entry in (fields, fields, fields | {"e": b"another"}):
        market.valkey.delete(journal_key, shards.epoch_key(market.shard))
        market.valkey.xadd(journal_key, entry, id="5-1")  # type: ignore[arg-type]
        market.drain()

    assert sorted(bytes(letter.entry) for letter in DeadLetter.objects.all()) == [b"another", b"nothing"]


@pytest.mark.parametrize("fields", [{"x": "y"}, {"e": b"{}"}, {"s": "lease"}, {"e": b"{}", "s": "\0odd" * 9}])
def test_an_entry_without_its_fields_becomes_a_letter(market: Market, fields: Any) -> None:
    market.valkey.xadd(shards.journal_key(market.shard), fields)

    market.drain()

    assert [reason for reason, _ in letters()] == ["unreadable"]
    assert not UsageRecord.objects.exists()


def test_many_kinds_of_poison_in_one_batch(market: Market) -> None:
    good = [market.entry() for _ in range(40)]
    poison = [make(market) for make in (UNREADABLE | REFUSED).values()]
    market.write(*good[:13], *poison, *good[13:], market.entry(request_id=good[0].request_id, cost="7"))

    market.drain()

    assert set(UsageRecord.objects.values_list("id", flat=True)) == {entry.request_id for entry in good}
    reasons = [reason for reason, _ in letters()]
    assert (reasons.count("unreadable"), reasons.count("refused")) == (len(UNREADABLE), len(REFUSED))
    assert reasons.count("conflict") == 1
    market.assert_reconciled()


def test_what_a_letter_tells_quotes_nothing_of_the_entry(market: Market) -> None:
    market.write(
        with_metadata(market, rb'{"secret": "\u0000"}'),
        changed(market, status="secret"),
        changed(market, service_id="5ec2e7aa-0000-4000-8000-000000000000"),
    )

    market.drain()

    assert len(letters()) == 3
    assert sorted(detail.split()[0] for _, detail in letters()) == [
        "ForeignKeyViolation",
        "UntranslatableCharacter",
        "ValidationError",
    ]
    assert not [detail for _, detail in letters() if "secret" in detail or "5ec2e7aa" in detail]


def test_what_no_sum_can_hold_any_more_is_refused_and_the_rest_goes_in(market: Market) -> None:
    """Of one key in one hour, more than 2^63 tokens."""
    market.write(*[market.entry(prompt_tokens=2**53, completion_tokens=2**53) for _ in range(513)])

    market.drain()

    assert [reason for reason, _ in letters()] == ["refused"] * 2
    assert UsageRecord.objects.count() == 511
    market.assert_reconciled()


def test_no_service_goes_that_was_used(market: Market) -> None:
    used = factories.make_service()
    market.write(market.entry(service_id=used.id))
    market.drain()
    forget_prices(used)

    with pytest.raises(IntegrityError, match="usage_daily_rollups"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM services WHERE id = %s", [used.id])


def test_a_missing_partition_is_made_and_the_line_goes_in(market: Market) -> None:
    market.drain()
    name = f"usage_records_{market.month:%Y_%m}"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {name}")
    entry = market.entry()
    market.write(entry)

    market.drain()

    assert market.record(entry).total_tokens == 30
    assert not DeadLetter.objects.exists()


def test_a_partition_that_goes_while_the_drain_knows_it_is_made_again(market: Market) -> None:
    drain = market.start_drain()
    market.write(market.entry())
    market.wait_until_drained()
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE usage_records_{market.month:%Y_%m}")
    entry = market.entry()
    market.write(entry)

    market.wait_until_drained()

    assert market.record(entry).total_tokens == 30
    assert not DeadLetter.objects.exists()
    assert drain.poll() is None


def test_a_letter_sent_again_goes_in_once_its_cause_is_gone(market: Market) -> None:
    later = factories.make_service()
    entry = market.entry(service_id=later.id)
    fields = {field.attname: getattr(later, field.attname) for field in later._meta.concrete_fields}
    forget_prices(later)
    later.delete()
    market.write(entry)
    market.drain()
    assert [reason for reason, _ in letters()] == ["refused"]
    type(later).objects.create(**fields)

    assert dead_letters.retry(DeadLetter.objects.all(), actor="somebody") == 1
    assert dead_letters.retry(DeadLetter.objects.all(), actor="somebody") == 0
    market.drain()

    assert market.record(entry).settlement == "lease"
    assert DeadLetter.objects.get().resolved_at is not None
    market.assert_reconciled()
