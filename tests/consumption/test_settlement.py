"""What is owed is kept when whoever waited for it has gone."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from consumption.settlement import Settlement
from consumption.spool import Spool
from devstack.valkey import Valkey
from metering import journal
from quotas.admission import Ask, _unless_cancelled
from quotas.limits import limit_set
from tests.consumption.test_spool import encoded, journalled, opened
from tests.harness.admission import local_mode, opened_admission


async def test_a_settle_whose_caller_goes_away_is_kept_and_handed_in(
    tmp_path: Path, own_valkey: Valkey
) -> None:
    async with opened_admission(own_valkey.url) as admission:
        spool: Spool = opened(tmp_path)
        settlement, record = Settlement(admission, spool, local_mode(admission, spool)), encoded()
        own_valkey.pause()
        settling = asyncio.ensure_future(settlement.settle(journal.decode(record), shard=0))
        await asyncio.sleep(0.02)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        assert len(spool) == 1
        own_valkey.resume()
        for _ in range(100):
            await spool.settle_all(admission)
            if not len(spool):
                break
            await asyncio.sleep(0.05)
        assert await journalled(admission, record) == ["late"]
        spool.close()


async def test_calls_that_are_cut_settle_what_they_gave(tmp_path: Path, own_valkey: Valkey) -> None:
    async with opened_admission(own_valkey.url) as admission:
        spool = opened(tmp_path)
        settlement = Settlement(admission, spool, local_mode(admission, spool))
        records = [encoded(), encoded()]
        ended: list[bytes] = []

        async def call(record: bytes, seconds: float) -> None:
            entry = journal.decode(record)
            ask = Ask(
                str(entry.request_id), entry.request_id, entry.consumer_id, entry.service_id,
                limit_set(None, 10_000), 10, 90, 1, True, record,
            )  # fmt: skip
            lease = await admission.admit(ask)
            settlement.opened(lease, ask)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(seconds)
                ended.append(record)
            await settlement.settle(entry, shard=lease.shard)

        calls = [asyncio.create_task(call(*each)) for each in zip(records, (0.05, 60), strict=True)]
        while settlement.open_calls < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        while settlement.open_calls > 1:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        settlement.cut()
        await asyncio.wait_for(settlement.idle.wait(), 20)
        assert settlement.open_calls == 0
        await asyncio.gather(*calls)
        assert ended == records[:1]
        assert [await journalled(admission, record) for record in records] == [["lease"], ["lease"]]
        spool.close()


async def test_an_answer_that_comes_with_the_cancellation_is_not_lost() -> None:
    late: list[list[int]] = []
    waiting: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    caller = asyncio.ensure_future(_unless_cancelled(waiting, late.append))
    await asyncio.sleep(0)
    waiting.set_result([1])
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert late == [[1]]
