"""Events as CloudEvents 1.0, in the JSON format.

The id is the thing's own, so a repeated event is known as one. The subject is the service that the event is
about; for a key's events it is the key. No event carries a prompt, a completion or a caller's metadata.
"""

import datetime as dt
from typing import Annotated, Any, Final, Literal

import msgspec
from django.conf import settings

from common import clock

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
