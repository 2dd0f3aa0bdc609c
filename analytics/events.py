"""Events as CloudEvents 1.0 (JSON format), and the one that follows from a ledger row.

The id is the thing's own, so a repeated event is known as one. The subject is the service that the event is
about; for a key's events it is the key. No event carries a prompt, a completion or a caller's metadata.
"""

import datetime as dt
from typing import Annotated, Any, Final, Literal

import msgspec
from django.conf import settings

from common import clock
from common.money import plain
from metering.models import UsageRecord

Type = Literal[
    "consumption_request",
    "rate_limit_exceeded",
    "quota_exceeded",
    "sla_violation",
    "policy_violation",
    "api_key_created",
    "api_key_revoked",
]

#: Valkey stream that gateways put events on, and the field of an entry that holds the event as JSON.
STREAM: Final = "marketplace:events"
STREAM_FIELD: Final = "e"
#: About so many entries the stream keeps (``XADD … MAXLEN ~``). What is pushed out unread is counted as lost.
STREAM_MAXLEN: Final = 10_000
#: Events that leave together.
BATCH: Final = 100


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One CloudEvent. ``data`` is a JSON object; amounts of money in it are decimal numbers as text."""

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, msgspec.Meta(max_length=100)]
    source: str = msgspec.field(default_factory=lambda: settings.EVENT_SOURCE)
    type: Type
    subject: Annotated[str, msgspec.Meta(max_length=100)] = ""
    time: dt.datetime = msgspec.field(default_factory=clock.now)
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event in CloudEvents' JSON format."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """The event in the bytes. Raises ``msgspec.MsgspecError`` where there is none that can be stored."""
    event = _decoder.decode(data)
    if event.time.tzinfo is None:
        raise msgspec.ValidationError("time has no zone")
    if b"\\u0000" in data:
        raise msgspec.ValidationError("PostgreSQL stores no NUL")
    return event


def consumption_request(record: UsageRecord, service_name: str) -> Event:
    """The event of one ledger row. A correction has an id of its own and says what it corrects."""
    usage = record.usage
    data = {
        "request_id": str(record.request_id),
        "kind": record.kind,
        "consumer_id": str(record.consumer_id),
        "service_id": str(record.service_id),
        "service": service_name,
        "api_key_id": str(record.api_key_id),
        "price_version_id": str(record.price_version_id),
        "tier": record.tier_id,
        "status": record.status,
        "settlement": record.settlement,
        "duration_ms": record.duration_ms,
        "tokens": {
            "prompt": usage.get("prompt_tokens", 0),
            "completion": usage.get("completion_tokens", 0),
            "cached": usage.get("cached_tokens", 0),
            "reasoning": usage.get("reasoning_tokens", 0),
            "total": record.total_tokens,
        },
        "usage_source": usage.get("usage_source", "none"),
        "cost": plain(record.cost_amount),
        "currency": record.currency,
    }
    if record.corrects is not None:
        data["corrects"] = str(record.corrects)
    return Event(
        id=str(record.id),
        type="consumption_request",
        subject=str(record.service_id),
        time=record.timestamp,
        data=data,
    )
