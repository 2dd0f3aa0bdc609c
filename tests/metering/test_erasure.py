"""Metadata goes where it is asked for, in closed months too, and nothing else of a row does."""

import uuid
from io import StringIO

import msgspec
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, connection, transaction

from audit.models import AuditEntry
from common.ids import uuid7
from metering import journal
from metering.corrections import Amounts, correct
from metering.models import DeadLetter, UsageRecord
from tests import factories
from tests.metering.market import Market, metadata
from tests.metering.test_closed_months import assert_books_agree, close, id_of_last_month, last_month

ANNA, BERT = b'{"user_id": "anna", "plan": "b"}', b'{"user_id": "bert"}'


def erase(market: Market, *options: str) -> str:
    out = StringIO()
    whose = f"--consumer={market.consumer.id}"
    call_command("erase_metadata", whose, f"--from={last_month()}", *options, stdout=out)
    return out.getvalue()


def others() -> list[dict[str, object]]:
    """All that rows hold beside their metadata."""
    names = [field.attname for field in UsageRecord._meta.fields if field.attname != "metadata"]
    return list(UsageRecord.objects.order_by("id").values(*names))


def test_it_goes_from_open_and_closed_months_and_nothing_else_does(market: Market) -> None:
    entries = [
        market.entry(request_id=new_id(), metadata=metadata(text))
        for new_id in (id_of_last_month, uuid7)
        for text in (ANNA, BERT)
    ]
    stranger = factories.make_consumer()
    foreign = market.entry(consumer_id=stranger.id, metadata=metadata(ANNA))
    market.write(*entries, market.entry(), foreign)
    market.drain()
    close()
    before = others()

    assert erase(market, "--where=user_id=anna", "--dry-run") == "2 with metadata.\n"
    assert erase(market, "--where=user_id=anna", "--where=plan=a") == "Metadata of 0 erased.\n"
    assert UsageRecord.objects.filter(metadata__isnull=False).count() == 5
    assert erase(market, "--where=user_id=anna") == "Metadata of 2 erased.\n"
    left = {row.id: row.metadata for row in UsageRecord.objects.filter(metadata__isnull=False)}
    bert = {"user_id": "bert"}
    assert left == {
        entries[1].request_id: bert, entries[3].request_id: bert, foreign.request_id: {"user_id": "anna", "plan": "b"},
    }  # fmt: skip
    assert erase(market) == "Metadata of 2 erased.\n"
    assert list(UsageRecord.objects.filter(metadata__isnull=False)) == [market.record(foreign)]
    assert others() == before
    assert_books_agree()

    told = AuditEntry.objects.filter(action="metadata.erased", target_id=str(market.consumer.id))
    assert {entry.after["erased"] for entry in told} == {1}
    assert [entry.after["members"] for entry in told.order_by("id")] == [["user_id"]] * 2 + [[]] * 2
    assert not any("anna" in str(entry.after) for entry in told)


def test_what_a_person_wrote_beside_a_correction_stays(market: Market) -> None:
    entry = market.entry(metadata=metadata(ANNA))
    market.write(entry)
    market.drain()
    corrected = correct(market.record(entry), Amounts(prompt_tokens=-1), note="counted twice", actor="anna")

    assert erase(market) == "Metadata of 1 erased.\n"

    assert market.record(entry).metadata is None
    assert UsageRecord.objects.get(id=corrected.id).metadata == {"note": "counted twice"}


def test_a_duplicate_that_comes_later_brings_nothing_back(market: Market) -> None:
    entry = market.entry(metadata=metadata(ANNA))
    market.write(entry)
    market.drain()
    erase(market)
    market.write(entry)
    market.drain()
    assert market.record(entry).metadata is None
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        "metadata = NULL, cost_amount = cost_amount + 1", "metadata = NULL, tier = 'basic'", "metadata = '{}'",
        "metadata = NULL, cost = jsonb_set(cost, '{amount}', '0.0030')",
    ],
)  # fmt: skip
def test_a_closed_row_changes_in_no_other_way(market: Market, change: str) -> None:
    market.write(market.entry(request_id=id_of_last_month(), metadata=metadata(ANNA)))
    market.drain()
    close()
    refused = pytest.raises(DatabaseError, match="the month is closed")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE usage_records SET {change}")  # noqa: S608 - constants


def test_dead_letters_lose_it_as_well_and_nothing_else(market: Market) -> None:
    entry = market.entry(metadata=metadata(ANNA))
    market.write(entry)
    market.drain()
    market.write(market.entry(request_id=entry.request_id, cost="7", metadata=metadata(ANNA)))
    market.drain()
    (letter,) = DeadLetter.objects.all()
    before = journal.decode(bytes(letter.entry))
    assert b"anna" in bytes(letter.entry)

    assert erase(market, "--where=user_id=anna") == "Metadata of 2 erased.\n"
    letter.refresh_from_db()
    assert b"anna" not in bytes(letter.entry)
    after = journal.decode(bytes(letter.entry))
    assert after == msgspec.structs.replace(before, metadata=journal.NO_METADATA)


def test_nobodys_and_a_wrong_range_are_refused(market: Market) -> None:
    with pytest.raises(CommandError, match="no such consumer"):
        call_command("erase_metadata", f"--consumer={uuid.uuid4()}")
    with pytest.raises(CommandError, match="before it begins"):
        erase(market, "--to=2020-01-01")
    with pytest.raises(CommandError, match="--where"):
        erase(market, "--where=anna")
