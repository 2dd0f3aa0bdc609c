"""The journal: what a gateway writes when it settles a call, and what the drain reads.

A stream entry has two fields: ``e``, an ``Entry`` as JSON, and ``s``, how it was settled
(one of ``UsageRecord.Settlement``).
"""

import uuid
from typing import Literal

import msgspec

Status = Literal["success", "error", "cancelled", "unsettled"]
UsageSource = Literal["reported", "estimated", "clamped", "none"]


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One settled call, complete: the ledger row, its rollup and its quota period follow from it alone.

    ``cost`` is a plain decimal number as text. ``limit`` is the month's token limit that the call was let in
    under; None is unlimited. ``metadata`` is the caller's own JSON object.
    """

    request_id: uuid.UUID
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    api_key_id: uuid.UUID
    price_version_id: uuid.UUID
    tier: str
    currency: str
    status: Status
    duration_ms: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: UsageSource = "none"
    cost: str = "0"
    limit: int | None = None
    error: str | None = None
    metadata: msgspec.Raw = msgspec.Raw()

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The entry as it goes into the stream's field ``e``."""
    return _encoder.encode(entry)


def decode(data: bytes) -> Entry:
    """The entry in a stream's field ``e``. Raises ``msgspec.MsgspecError`` where it is none."""
    return _decoder.decode(data)
