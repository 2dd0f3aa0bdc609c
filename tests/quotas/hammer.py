"""One of several processes that ask admission for more than there is, over many connections.

``python -m tests.quotas.hammer URL SEED CALLS``: its calls end as calls do: settled, released or
left to the reaper, some renewed on the way. It prints, by pair, the tokens it was granted for good.
"""

import asyncio
import json
import random
import sys
import uuid
from collections import Counter
from typing import Any

import django
import uvloop

#: Pairs of a consumer and a service, and what each may use in the month: a few calls' worth.
PAIRS = 1_000
LIMIT = 2_000
NEED, USED = 100, 50
CONNECTIONS = 50


def pair(number: int) -> tuple[uuid.UUID, uuid.UUID]:
    """Consumer and service of a pair; five services share a consumer."""
    return uuid.UUID(int=number // 5 + 1), uuid.UUID(int=number % 5 + 1)


class Hammer:
    """The calls of one process."""

    def __init__(self, url: str, seed: int, calls: int) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._left = calls
        self.granted: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        from quotas.admission import Admission
        from quotas.line import Line

        lines = []
        for number in range(CONNECTIONS):
            admissions: list[Admission] = []

            async def on_connect(line: Line, of: list[Admission] = admissions) -> None:
                await of[0].on_connect(line)

            line = Line(self._url, on_connect=on_connect, timeout=30.0)
            admissions.append(Admission(line, gateway=f"hammer-{number}:1", journal_bound=10**7))
            await line.start()
            lines.append((line, admissions[0]))
        for line, admission in lines:
            if not await line.wait_open(30) or not admission.is_live:
                raise RuntimeError("no shard is live")
        await asyncio.gather(*(self._calls(admission) for _, admission in lines))
        for line, _ in lines:
            await line.stop()

    async def _calls(self, admission: Any) -> None:
        from common.errors import Problem

        while self._left > 0:
            self._left -= 1
            number = self._random.randrange(PAIRS)
            try:
                lease = await admission.admit(self._ask(*pair(number)))
            except Problem as refusal:
                self.outcomes[refusal.code] += 1
                continue
            await self._end(admission, lease, number)

    def _ask(self, consumer: uuid.UUID, service: uuid.UUID) -> Any:
        from common.ids import uuid7
        from metering import journal
        from quotas.admission import Ask
        from quotas.limits import limit_set

        id_ = uuid7()
        return Ask(
            str(id_), id_, consumer, service, limit_set(None, LIMIT), NEED // 2, NEED // 2, 1, True,
            journal.encode(_entry(id_, consumer, service, 0)),
        )  # fmt: skip

    async def _end(self, admission: Any, lease: Any, number: int) -> None:
        if self._random.random() < 0.1:
            await admission.renew(lease.shard, [lease.request_id])
        end = self._random.random()
        if end < 0.05:
            self.outcomes["abandoned"] += 1
        elif end < 0.15:
            self.outcomes["released"] += 1
            await admission.release(lease)
        else:
            done = _entry(lease.request_id, lease.consumer_id, lease.service_id, USED)
            await _settled(admission, done)
            self.granted[number] += USED
            self.outcomes["settled"] += 1


async def _settled(admission: Any, done: Any) -> None:
    """As the spool does: a settle whose fate is not known is the same call again."""
    from metering import journal, shards
    from quotas.line import LineError

    shard = shards.shard_of(done.consumer_id)
    while True:
        try:
            await admission.settle(done, journal.encode(done), epoch=admission.epoch(shard))
        except LineError:
            continue
        return


def _entry(id_: uuid.UUID, consumer: uuid.UUID, service: uuid.UUID, tokens: int) -> Any:
    from metering import journal

    return journal.Entry(
        request_id=id_,
        consumer_id=consumer,
        service_id=service,
        api_key_id=consumer,
        price_version_id=service,
        tier="basic",
        currency="USD",
        status="success" if tokens else "unsettled",
        completion_tokens=tokens,
        cost=f"0.0000000{tokens}" if tokens else "0",
    )


def main() -> None:
    url, seed, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    django.setup()
    hammer = Hammer(url, seed, calls)
    uvloop.run(hammer.run())
    json.dump({"granted": hammer.granted, "outcomes": hammer.outcomes}, sys.stdout)


if __name__ == "__main__":
    main()
