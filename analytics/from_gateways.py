"""What gateways refused: read from their stream in Valkey, kept for good, and what policies refused in a table too."""

import logging
import uuid
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import redis
from django.db.models import F

from analytics import events
from analytics.models import SourcePosition
from analytics.sinks import EventSink
from metering import valkey
from policy.models import PolicyViolation
from policy.violations import keep_violations

logger = logging.getLogger(__name__)

#: Entries that are read at once, and kept in one transaction.
ENTRIES = 500
START = "0-0"


@dataclass(frozen=True, slots=True)
class Read:
    """Entries beyond a position. ``behind``: how many the stream had let go of or was read before these."""

    after: str
    entries: list[tuple[str, bytes]]
    behind: int
    newly_lost: int


class _Refusal(msgspec.Struct, frozen=True):
    """The data of a ``policy_violation`` event."""

    request_id: uuid.UUID
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    policy_id: Annotated[str, msgspec.Meta(max_length=100)]
    severity: Literal["warning", "critical"]
    reason: Annotated[str, msgspec.Meta(max_length=255)]


def read(client: redis.Redis) -> Read | None:
    """The next entries, or None where there are none. Raises ``redis.RedisError``."""
    known = SourcePosition.objects.get_or_create(
        source=SourcePosition.Source.GATEWAYS, defaults={"position": START}
    )[0]
    pipeline = valkey.owner(client, events.STREAM).pipeline(transaction=True)
    pipeline.xinfo_stream(events.STREAM)
    pipeline.xrange(events.STREAM, min=f"({known.position}", count=ENTRIES)
    info, entries = pipeline.execute(raise_on_error=False)
    if isinstance(info, redis.ResponseError):
        return None  # no gateway has written yet
    passed = known.passed
    if _place(info["last-generated-id"].decode()) < _place(known.position) or info["entries-added"] < passed:
        # Valkey lost its data: this is another stream.
        passed, entries = 0, client.xrange(events.STREAM, count=ENTRIES)
    pushed_out = info["entries-added"] - info["length"]
    if not entries:
        return None
    return Read(
        after=known.position,
        entries=[(id_.decode(), fields.get(events.STREAM_FIELD.encode(), b"")) for id_, fields in entries],
        behind=max(passed, pushed_out),
        newly_lost=max(0, pushed_out - passed),
    )


def keep(found: Read, sink: EventSink) -> int:
    """Write the events and move past them, in the caller's transaction.

    Returns how many entries; 0 where somebody else has done it.
    """
    moved = SourcePosition.objects.filter(source=SourcePosition.Source.GATEWAYS, position=found.after).update(
        position=found.entries[-1][0],
        passed=found.behind + len(found.entries),
        lost=F("lost") + found.newly_lost,
    )
    if not moved:
        return 0
    if found.newly_lost:
        logger.warning("%s events were pushed out of the stream before they were read", found.newly_lost)
    readable = [event for id_, data in found.entries if (event := _event(id_, data))]
    for start in range(0, len(readable), events.BATCH):
        sink.write(readable[start : start + events.BATCH])
    keep_violations([row for event in readable if (row := _violation(event))])
    return len(found.entries)


def _event(stream_id: str, data: bytes) -> events.Event | None:
    """None for what nobody can read: it must not hold up what comes after it."""
    try:
        return events.decode(data)
    except msgspec.MsgspecError as error:
        logger.error("entry %s of the event stream is left out: %s", stream_id, error)
        return None


def _violation(event: events.Event) -> PolicyViolation | None:
    if event.type != "policy_violation":
        return None
    try:
        refusal = msgspec.convert(event.data, _Refusal)
        id_ = uuid.UUID(event.id)
    except (msgspec.ValidationError, ValueError) as error:
        logger.error("policy_violation event %s makes no row: %s", event.id, error)
        return None
    return PolicyViolation(id=id_, timestamp=event.time, **msgspec.structs.asdict(refusal))


def _place(stream_id: str) -> tuple[int, int]:
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number)
