"""What was settled is held until PostgreSQL has it, whatever becomes of Valkey, of memory and of the gateway."""

import tracemalloc
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.ids import uuid7
from consumption import retained as retained_module
from consumption.retained import Retained, size_of
from consumption.spool import Spool
from devstack.valkey import Valkey
from metering import journal, shards
from quotas.admission import Admission
from tests.harness.admission import PATIENT, open_epoch, opened_admission

EPOCH = "3:" + "a" * 40


@pytest.fixture
async def admission(own_valkey: Valkey) -> AsyncIterator[Admission]:
    """In epoch 1."""
    async with opened_admission(own_valkey.url) as admission:
        yield admission


def encoded(request_id: uuid.UUID | None = None) -> bytes:
    return journal.encode(
        journal.Entry(
            request_id=request_id or uuid7(),
            consumer_id=uuid.uuid4(),
            service_id=uuid.uuid4(),
            api_key_id=uuid.uuid4(),
            price_version_id=uuid.uuid4(),
            tier="basic",
            currency="USD",
            status="success",
            prompt_tokens=12,
            completion_tokens=345,
            usage_source="reported",
            cost="0.00123",
            key_lineage=uuid.uuid4(),
        )
    )


def made_at(number: int) -> uuid.UUID:
    """An id of a later millisecond than that of a smaller number."""
    return uuid.UUID(int=uuid7().int + (number << 80))


async def journalled(admission: Admission, shard: int = 5) -> list[tuple[str, bytes]]:
    """Stream id and entry of all that a journal holds."""
    found = await admission._line.call(("XRANGE", shards.journal_key(shard), "-", "+"), timeout=PATIENT)
    assert {fields[3] for _, fields in found} <= {b"replay"}
    return [(stream_id.decode(), fields[1]) for stream_id, fields in found]


def filled(count: int = 4, *, shard: int = 5, most_bytes: int = 10**9) -> tuple[Retained, list[bytes]]:
    retained, entries = Retained(most_bytes), [encoded(made_at(number)) for number in range(count)]
    for number, entry in enumerate(entries):
        retained.add(shard, EPOCH, f"100-{number}", entry)
    return retained, entries


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("retained-*"))


def in_slot(folder: Path, retained: Retained) -> Retained:
    folder.mkdir(exist_ok=True)
    retained.files.open(folder)
    return retained


def test_it_is_let_go_of_when_the_watermark_of_its_own_epoch_passes_it() -> None:
    retained, entries = filled()
    for watermark in ("", "3:", "4:999-0", "2:999-0", "33:999-0", "3:99-9"):
        retained.passed(5, watermark)
    retained.passed(6, "3:999-0")
    assert len(retained) == 4
    assert retained.bytes == sum(map(size_of, entries))

    retained.passed(5, "3:100-1")
    assert (len(retained), retained.shards) == (2, {5})
    assert retained.oldest == journal.decode(entries[2]).request_id
    retained.passed(5, "3:100-3")
    assert (len(retained), retained.shards, retained.bytes) == (0, set(), 0)
    assert retained.oldest is None


async def test_it_is_journalled_again_in_another_epoch_and_held_until_that_ones_watermark(
    admission: Admission,
) -> None:
    retained, entries = filled(3)
    now = admission.epoch(5)
    retained.add(5, now, "100-0", encoded())
    retained.add(6, EPOCH, "100-9", encoded())
    assert retained.elsewhere({5: now, 6: EPOCH, 7: now}) == {5: now}
    assert await retained.hand_in({5: now}, admission.append) == set()

    found = await journalled(admission)
    assert [entry for _, entry in found] == entries
    assert (len(retained), retained.elsewhere({5: now})) == (5, {})
    retained.passed(5, "3:9999999999999-0")
    assert len(retained) == 5
    retained.passed(5, f"1:{found[1][0]}")
    assert len(retained) == 2
    retained.passed(5, f"1:{found[2][0]}")
    retained.passed(6, "3:100-9")
    assert (len(retained), retained.bytes) == (0, 0)
    assert await retained.hand_in({5: now}, admission.append) == set()
    assert await journalled(admission) == found


async def test_what_is_not_journalled_again_is_still_held(
    admission: Admission, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second two, whose answers nobody gets, it is not known."""
    monkeypatch.setattr(retained_module, "AT_ONCE", 2)
    retained, entries = filled(5)
    now = admission.epoch(5)

    async def append(shard: int, entry: bytes) -> tuple[str, str]:
        if entry == entries[2]:
            own_valkey.kill()
        return await admission.append(shard, entry)

    assert await retained.hand_in({5: now}, append) == {5}
    assert (len(retained), retained.elsewhere({5: now})) == (5, {5: now})
    own_valkey.start()
    assert await admission._lines[0].wait_open(PATIENT)
    await open_epoch(admission._lines[0], 2)
    await admission.refresh_epochs()
    assert await retained.hand_in({5: admission.epoch(5)}, admission.append) == set()
    assert {entry for _, entry in await journalled(admission)} == set(entries)
    assert retained.elsewhere({5: admission.epoch(5)}) == {}


async def test_what_comes_into_no_epoch_is_journalled_again_once_there_is_one(admission: Admission) -> None:
    """As where a server was emptied, and the drain has not seen it yet."""
    retained, entries = filled(2)
    now = admission.epoch(5)
    await admission._line.call(("FLUSHALL",), timeout=PATIENT)
    assert await retained.hand_in({5: now}, admission.append) == set()
    retained.passed(5, "1:9999999999999-0")
    assert len(retained) == 2
    await admission._line.call(("SET", shards.opening_key(5), "2"))
    coming = now.replace("1:", "2:", 1)
    assert await retained.hand_in({5: coming}, admission.append) == set()
    found = await journalled(admission)
    assert [entry for _, entry in found] == entries * 2
    retained.passed(5, f"2:{found[2][0]}")
    assert len(retained) == 1


def test_bytes_are_what_memory_is_taken() -> None:
    """A thousand calls' own objects, as they come from JSON and from Valkey."""
    tracemalloc.start()
    try:
        retained = Retained()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000):
            retained.add(number % 64, EPOCH, f"1764353000000-{number}", encoded())
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= retained.bytes <= taken * 1.25


async def test_beyond_its_bytes_the_oldest_are_on_disk_and_go_with_the_watermark(tmp_path: Path) -> None:
    most = 40 * size_of(encoded())
    retained, entries = filled(100, most_bytes=most)
    in_slot(tmp_path, retained)
    await retained.bound()
    assert retained.bytes <= most
    assert (len(retained), retained.in_memory) == (100, 30)
    assert retained.oldest == journal.decode(entries[0]).request_id
    assert files(tmp_path)

    retained.passed(5, "3:100-68")
    assert len(retained) == 100  # a file goes as a whole
    retained.passed(5, "3:100-69")
    assert (len(retained), files(tmp_path)) == (30, [])
    retained.passed(5, "3:100-99")
    assert (len(retained), retained.bytes) == (0, 0)


async def test_what_is_on_disk_is_handed_in_too_and_held_once_more(
    admission: Admission, tmp_path: Path
) -> None:
    most = 40 * size_of(encoded())
    retained, entries = filled(100, most_bytes=most)
    retained.add(6, EPOCH, "100-0", encoded())
    in_slot(tmp_path / "slot", retained)
    await retained.bound()
    assert await retained.hand_in({5: admission.epoch(5)}, admission.append) == set()
    found = await journalled(admission)
    assert sorted(entry for _, entry in found) == sorted(entries)
    assert len(retained) == 101
    assert retained.bytes <= most
    retained.passed(5, f"1:{found[-1][0]}")
    assert (retained.shards, len(retained)) == ({6}, 1)
    retained.passed(6, "3:100-0")
    assert files(tmp_path) == []


async def test_a_disk_that_takes_nothing_leaves_it_in_memory(tmp_path: Path) -> None:
    retained, _ = filled(10, most_bytes=1000)
    await retained.bound()  # no slot is open
    in_slot(tmp_path / "gone", retained)
    (tmp_path / "gone").rmdir()
    await retained.bound()
    await retained.write_all()
    assert (len(retained), retained.in_memory) == (10, 10)


async def test_what_a_gateway_leaves_its_slots_next_owner_goes_on_with(
    admission: Admission, tmp_path: Path
) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    first.open()
    second.open()
    entries = [encoded(made_at(number)) for number in range(3)]
    first.retained.add(5, EPOCH, "100-0", entries[0])
    second.retained.add(5, EPOCH, "100-1", entries[1])
    second.retained.add(6, "", "100-2", entries[2])
    for spool in (first, second):
        await spool.retained.write_all()
        assert spool.retained.in_memory == 0
        spool.close()
    (torn,) = files(tmp_path / "slot-0")
    with torn.open("ab") as file:
        file.write(b'5 3:aa 100-7 {"request_id":"0199')

    heir = Spool(tmp_path)
    heir.open()
    assert (len(heir.retained), heir.retained.shards) == (3, {5, 6})
    assert heir.retained.oldest == journal.decode(entries[0]).request_id
    epochs = {5: admission.epoch(5), 6: admission.epoch(6)}
    assert await heir.retained.hand_in(epochs, admission.append) == set()
    assert {entry for _, entry in await journalled(admission)} == set(entries[:2])
    assert [entry for _, entry in await journalled(admission, 6)] == entries[2:]
    assert not files(tmp_path)
    heir.close()


async def test_in_the_same_epoch_the_next_owner_only_waits_for_the_watermark(tmp_path: Path) -> None:
    retained, _ = filled(3)
    in_slot(tmp_path, retained)
    await retained.write_all()
    heir = in_slot(tmp_path, Retained())
    assert (len(heir), heir.elsewhere({5: EPOCH})) == (3, {})
    heir.passed(5, "3:100-2")
    assert (len(heir), files(tmp_path)) == (0, [])
