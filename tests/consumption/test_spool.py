"""Settled calls that wait on the local disk."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.ids import uuid7
from consumption import spool as spool_module
from consumption.spool import Spool
from devstack.valkey import Valkey
from metering import journal, shards
from quotas.admission import Admission
from tests.harness.admission import PATIENT, open_epoch, opened_admission


@pytest.fixture
async def admission(own_valkey: Valkey) -> AsyncIterator[Admission]:
    async with opened_admission(own_valkey.url) as admission:
        yield admission


@pytest.fixture
async def hasty(own_valkey: Valkey) -> AsyncIterator[Admission]:
    """One that waits for a silent server as long as callers do."""
    async with opened_admission(own_valkey.url, seconds=0.1) as admission:
        yield admission


async def journalled(admission: Admission, record: bytes) -> list[str]:
    """How a record was settled: one word for every entry of it in the journal."""
    entry = journal.decode(record)
    key = shards.journal_key(shards.shard_of(entry.consumer_id))
    found = await admission._line.call(("XRANGE", key, "-", "+"), timeout=PATIENT)
    return [
        fields[3].decode() for _, fields in found if journal.decode(fields[1]).request_id == entry.request_id
    ]


def shard_of(record: bytes) -> int:
    return shards.shard_of(journal.decode(record).consumer_id)


def epoch_of(admission: Admission, record: bytes) -> str:
    return admission.epoch(shard_of(record))


def encoded() -> bytes:
    return journal.encode(
        journal.Entry(
            request_id=uuid7(),
            consumer_id=uuid.uuid4(),
            service_id=uuid.uuid4(),
            api_key_id=uuid.uuid4(),
            price_version_id=uuid.uuid4(),
            tier="basic",
            currency="USD",
            status="success",
        )
    )


def opened(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.open()
    return spool


async def test_a_settle_of_unknown_fate_is_repeated_until_it_is_known_and_counts_once(
    tmp_path: Path, hasty: Admission, own_valkey: Valkey
) -> None:
    spool, records = opened(tmp_path), [encoded() for _ in range(3)]
    own_valkey.pause()
    for record in records:
        await spool.keep(record, epoch=epoch_of(hasty, record), append=False)
    await spool.settle_all(hasty)
    await spool.settle_all(hasty)
    assert len(spool) == 3
    own_valkey.resume()
    for _ in range(400):
        await spool.settle_all(hasty)
        if not len(spool):
            break
        await asyncio.sleep(0.05)
    assert [await journalled(hasty, record) for record in records] == [["late"]] * 3
    assert (tmp_path / "slot-0" / "records.jsonl").read_bytes() == b""
    spool.close()


async def test_what_a_dead_gateway_left_is_taken_over_whole_lines_only(
    tmp_path: Path, admission: Admission
) -> None:
    first, record = opened(tmp_path), encoded()
    await first.keep(record, epoch="", append=False)
    first.close()
    with (tmp_path / "slot-0" / "records.jsonl").open("ab") as file:
        file.write(b'{"since": 1, "entr')
    second = opened(tmp_path)
    assert second.name == first.name
    assert second.predecessors == {first.name}
    await second.settle_all(admission)
    assert await journalled(admission, record) == ["late"]
    second.close()


async def test_two_gateways_have_two_slots_and_a_third_adopts_the_dead_ones(
    tmp_path: Path, admission: Admission
) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.name != second.name
    records = [encoded(), encoded()]
    await first.keep(records[0], epoch="", append=False)
    await second.keep(records[1], epoch="", append=False)
    second.close()
    third = opened(tmp_path)
    assert third.name == second.name
    assert len(third) == 1
    first.close()
    third.close()

    fourth = opened(tmp_path)
    assert fourth.predecessors == {first.name, second.name}
    await fourth.settle_all(admission)
    assert [await journalled(admission, record) for record in records] == [["late"], ["late"]]
    fourth.close()
    assert (tmp_path / "slot-0" / "records.jsonl").read_bytes() == b""
    assert not (tmp_path / "slot-1" / "records.jsonl").exists()


async def test_a_record_of_another_epoch_is_appended(tmp_path: Path, admission: Admission) -> None:
    spool, record = opened(tmp_path), encoded()
    await spool.keep(record, epoch="7:" + "0" * 40, append=False)
    await spool.settle_all(admission)
    await spool.settle_all(admission)
    assert await journalled(admission, record) == ["replay"]
    spool.close()


async def test_a_settle_of_unknown_fate_is_not_repeated_in_another_epoch(
    tmp_path: Path, hasty: Admission, own_valkey: Valkey
) -> None:
    """While the shard was being opened there was no epoch to settle in; the try that followed was in one."""
    spool, record = opened(tmp_path), encoded()
    await spool.keep(record, epoch="", append=False)
    own_valkey.pause()
    await spool.settle_all(hasty)
    own_valkey.resume()
    assert await journalled(hasty, record) == ["late"]  # it ran after all

    await hasty._line.call(("FLUSHALL",), timeout=PATIENT)
    await open_epoch(hasty._lines[0], 2)
    await hasty.refresh_epochs()
    for _ in range(2):
        await spool.settle_all(hasty)

    assert await journalled(hasty, record) == ["replay"]
    spool.close()


async def test_what_a_dead_gateway_tried_is_not_tried_in_another_epoch_by_its_successor(
    tmp_path: Path, admission: Admission
) -> None:
    """It had no epoch while the shard was being opened, settled in the next, and died before it forgot it."""
    first, record = opened(tmp_path), encoded()
    await first.keep(record, epoch="", append=False)
    await first._begin(admission)
    left = (tmp_path / "slot-0" / "records.jsonl").read_bytes()
    await first.settle_all(admission)
    first.close()
    (tmp_path / "slot-0" / "records.jsonl").write_bytes(left)
    await admission._line.call(("SET", shards.epoch_key(shard_of(record)), "2:" + admission._lines[0].life))
    await admission.refresh_epochs()

    second = opened(tmp_path)
    for _ in range(2):
        await second.settle_all(admission)
    assert await journalled(admission, record) == ["late", "replay"]
    second.close()


async def test_a_shard_that_is_not_served_keeps_no_other_waiting(
    tmp_path: Path, admission: Admission
) -> None:
    spool, records = opened(tmp_path), [encoded() for _ in range(5)]
    for record in records:
        await spool.keep(record, epoch=epoch_of(admission, record), append=False)
    closed = shard_of(records[0])
    others = [record for record in records if shard_of(record) != closed]
    # As a slot that is nobody's: every script of it is refused.
    await admission._line.call(("DEL", shards.journal_key(closed)))
    await admission._line.call(("SET", shards.journal_key(closed), "no journal"))
    await spool.settle_all(admission)
    assert [await journalled(admission, record) for record in others] == [["late"]] * len(others)
    assert len(spool) == 5 - len(others)
    await admission._line.call(("DEL", shards.journal_key(closed)))
    await spool.settle_all(admission)
    assert (len(spool), await journalled(admission, records[0])) == (0, ["late"])
    spool.close()


async def test_what_is_handed_in_is_retained_under_the_epoch_that_it_came_into(
    tmp_path: Path, admission: Admission
) -> None:
    spool, (settled, appended) = opened(tmp_path), (encoded(), encoded())
    await spool.keep(settled, epoch=epoch_of(admission, settled), append=False)
    await spool.keep(appended, epoch=epoch_of(admission, appended), append=True)
    await spool.settle_all(admission)
    assert len(spool.retained) == 2
    for record in (settled, appended):
        spool.retained.passed(shard_of(record), "2:9999999999999-0")
    assert len(spool.retained) == 2
    for record in (settled, appended):
        spool.retained.passed(shard_of(record), "1:9999999999999-0")
    assert len(spool.retained) == 0
    spool.close()


async def test_a_record_older_than_its_tombstone_is_appended(
    tmp_path: Path, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, record = opened(tmp_path), encoded()
    await spool.keep(record, epoch=epoch_of(admission, record), append=False)
    monkeypatch.setattr(spool_module, "REPEAT_SECONDS", 0.0)
    await spool.settle_all(admission)
    assert await journalled(admission, record) == ["replay"]
    spool.close()


async def test_a_disk_that_takes_nothing_is_an_error_and_the_record_is_still_held(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(OSError, match="not open"):
        await spool.keep(encoded(), epoch="", append=False)
    assert len(spool) == 1
    spool.close()
