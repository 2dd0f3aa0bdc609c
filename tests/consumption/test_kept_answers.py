"""Answers for duplicates: sealed, bounded, bound to their call, and nobody's trouble where they are lost."""

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.fernet import Fernet

from common.errors import Unavailable
from consumption.dialects.base import Answer
from consumption.kept_answers import KeptAnswers
from devstack.valkey import Valkey
from metering import shards
from quotas.line import Line
from tests.harness.admission import PATIENT

CONSUMER, REQUEST = uuid.uuid4(), uuid.uuid4()
ANSWER = Answer(
    200,
    [
        ("content-type", "application/json"),
        ("x-cost", "0.02"),
        ("ratelimit-remaining", "3"),
        ("x-request-id", "r"),
    ],
    b'{"text": "planted secret"}',
)
NAME = f"{shards.tag(shards.shard_of(CONSUMER))}:idem:{REQUEST}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumption.kept_answers.SECONDS", PATIENT)


@contextlib.asynccontextmanager
async def kept_answers(valkey: Valkey) -> AsyncIterator[tuple[KeptAnswers, Line]]:
    async def on_connect(line: Line) -> None:
        pass

    line = Line(valkey.url, on_connect=on_connect, timeout=PATIENT)
    await line.start()
    assert await line.wait_open(5)
    yield KeptAnswers(line, most_bytes=1000), line
    await line.stop()


async def test_an_answer_comes_back_as_it_was_but_for_what_the_first_alone_was_told(
    own_valkey: Valkey,
) -> None:
    async with kept_answers(own_valkey) as (kept, _):
        assert await kept.find(CONSUMER, REQUEST) is None
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        headers = [("content-type", "application/json"), ("x-cost", "0.02"), ("x-request-id", "r")]
        found = await kept.find(CONSUMER, REQUEST)
        assert found is not None
        assert (found.status, [tuple(each) for each in found.headers], found.body) == (
            200,
            headers,
            ANSWER.body,
        )


async def test_a_large_answer_is_kept_too(own_valkey: Valkey) -> None:
    async with kept_answers(own_valkey) as (kept, _):
        await kept.keep(CONSUMER, REQUEST, Answer(200, [], bytes(200_000)))
        found = await kept.find(CONSUMER, REQUEST)
        assert found is not None
        assert found.body == bytes(200_000)


async def test_it_is_encrypted_and_expires(own_valkey: Valkey) -> None:
    async with kept_answers(own_valkey) as (kept, line):
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        assert [name.decode() for name in await line.call(("KEYS", "*"))] == [NAME]
        stored = await line.call(("GET", NAME))
        assert b"secret" not in stored
        assert b"x-cost" not in stored
        assert 86_000 < await line.call(("TTL", NAME)) <= 86_400


async def test_what_was_kept_for_one_call_never_answers_another(own_valkey: Valkey) -> None:
    other = uuid.uuid4()
    async with kept_answers(own_valkey) as (kept, line):
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        await line.call(("COPY", NAME, NAME.replace(str(REQUEST), str(other))))
        assert await kept.find(CONSUMER, other) is None


@pytest.mark.parametrize("spoilt", [b"", b"nonsense"])
async def test_what_cannot_be_read_counts_as_lost(own_valkey: Valkey, spoilt: bytes) -> None:
    async with kept_answers(own_valkey) as (kept, line):
        await line.call(("SET", NAME, spoilt))
        assert await kept.find(CONSUMER, REQUEST) is None


async def test_a_retired_key_takes_its_answers_with_it(own_valkey: Valkey, settings: Any) -> None:
    async with kept_answers(own_valkey) as (kept, _):
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        settings.CREDENTIAL_KEYS = [Fernet.generate_key().decode()]
        assert await kept.find(CONSUMER, REQUEST) is None


async def test_answers_leave_room_for_limits_and_journal(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept_answers(own_valkey) as (kept, line):
        await line.call(("CONFIG", "SET", "maxmemory", "1mb"))
        with caplog.at_level(logging.WARNING):
            await kept.keep(CONSUMER, REQUEST, ANSWER)
        assert await line.call(("EXISTS", NAME)) == 0
        assert "memory" in caplog.text


async def test_without_valkey_keeping_is_given_up_and_asking_is_refused(own_valkey: Valkey) -> None:
    async with kept_answers(own_valkey) as (kept, _):
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        own_valkey.kill()
        await kept.keep(CONSUMER, REQUEST, ANSWER)
        with pytest.raises(Unavailable) as refused:
            await kept.find(CONSUMER, REQUEST)
        assert refused.value.retry_after == 1
