"""All sources of events into the sink, step by step, one worker at a time."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from django.db import connection, transaction

from analytics import from_gateways, from_ledger, from_records
from analytics.sinks import EventSink, TableSink
from metering import valkey

logger = logging.getLogger(__name__)

#: Seconds that one run goes on for at most, about: less than the time between two.
LONGEST_RUN = 4.0


def flush(sink: EventSink | None = None, longest: float = LONGEST_RUN) -> None:
    """Turn everything that waits into events. What is not done in time is done by the next run.

    Safe to kill anywhere and to run twice at once: every step is one transaction that writes events and moves
    the position they were read from, and who meets another worker in a step has nothing to do.
    """
    sink = sink or TableSink()
    stop = time.monotonic() + longest
    _records_step(sink)
    client = valkey.connect()
    try:
        # In turn, so that a ledger that grows fast does not keep refusals back.
        while sum((_ledger_step(sink), _gateways_step(sink, client))) and time.monotonic() < stop:
            pass
    finally:
        client.close()
    from_ledger.forget_passed()


def _records_step(sink: EventSink) -> None:
    with _turn() as mine:
        if mine:
            from_records.move(sink)


def _ledger_step(sink: EventSink) -> int:
    with _turn() as mine:
        return from_ledger.move(sink) if mine else 0


def _gateways_step(sink: EventSink, client: redis.Redis) -> int:
    try:
        found = from_gateways.read(client)  # outside the transaction: no lock waits for another server
    except redis.RedisError as error:
        logger.warning("refusals stay in Valkey for now: %s", error)
        return 0
    with _turn() as mine:
        return from_gateways.keep(found, sink) if mine and found else 0


@contextmanager
def _turn() -> Iterator[bool]:
    """A transaction that excludes every other worker's; False where one is in the middle of its own."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('analytics.stream', 0))")
        yield bool(cursor.fetchone()[0])
