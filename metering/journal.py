"""The journal: what a gateway writes when it settles a call, and what the drain reads.

A stream entry has two fields: ``e``, an ``Entry`` as JSON, and ``s``, how it was settled
(one of ``UsageRecord.Settlement``).
"""

import uuid
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from common import money

Status = Literal["success", "error", "cancelled", "unsettled"]
UsageSource = Literal["reported", "estimated", "clamped", "none"]
# Bounds hold where an entry is read. Counters in Valkey are exact up to 2^53.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
Amount = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?\Z")]

#: Counts that nearly every call has, and those that only some have.
COMMON_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
RARE_COUNTS = ("cache_write_tokens", "audio_prompt_tokens", "audio_completion_tokens")
TOKEN_COUNTS = COMMON_COUNTS + RARE_COUNTS

#: Left out of the JSON; any other empty ``Raw`` would be written, as nothing, and spoil it.
NO_METADATA = msgspec.Raw()


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """One settled call, complete: the ledger row, its rollup and its quota period follow from it alone.

    ``cost`` is a plain decimal number as text, and so is ``upstream_cost``, what the call cost at its upstream, in the
    same currency; None where that is not known. ``limit`` is the month's token limit that the call was let in
    under; None is unlimited. ``metadata`` is the caller's own JSON object. ``key_lineage``: what the key's limits are
    counted by, where that is not the key's own id.
    """

    request_id: uuid.UUID
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    api_key_id: uuid.UUID
    price_version_id: uuid.UUID
    tier: str
    currency: Currency
    status: Status
    duration_ms: Milliseconds = 0
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0
    cache_write_tokens: Count = 0
    audio_prompt_tokens: Count = 0
    audio_completion_tokens: Count = 0
    usage_source: UsageSource = "none"
    cost: Amount = "0"
    upstream_cost: Amount | None = None
    limit: Limit | None = None
    error: str | None = None
    key_lineage: uuid.UUID | None = None
    metadata: msgspec.Raw = NO_METADATA

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def is_charged(self) -> bool:
        """Whether it brought something: what brought nothing was metered by nobody, and costs nothing."""
        return self.usage_source != "none"

    @property
    def cost_nano(self) -> int:
        """The cost in nano-units, rounded up, and no more of it than a counter adds exactly."""
        return 0 if self.cost == "0" else min(money.MOST_NANO, money.nano(Decimal(self.cost)))

    @property
    def counted_key(self) -> uuid.UUID:
        """What the key's limits are counted by."""
        return self.key_lineage or self.api_key_id


class Blank:
    """The entry that all calls with one key at one service begin with: all but the request's own id."""

    __slots__ = ("_after_id", "_before_id", "_entry")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._before_id, _, self._after_id = encode(entry).partition(str(entry.request_id).encode())

    def entry(self, request_id: uuid.UUID, metadata: msgspec.Raw = NO_METADATA) -> Entry:
        """The entry of one call."""
        return msgspec.structs.replace(self._entry, request_id=request_id, metadata=metadata)

    def encoded(self, entry: Entry, id_: str) -> bytes:
        """``encode`` of an entry made here; ``id_``: its request's, as text."""
        if entry.metadata is not NO_METADATA:
            return encode(entry)
        return b"%b%b%b" % (self._before_id, id_.encode(), self._after_id)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The entry as it goes into the stream's field ``e``."""
    return _encoder.encode(entry)


def decode(data: bytes) -> Entry:
    """The entry in a stream's field ``e``. Raises ``msgspec.MsgspecError`` where it is none."""
    return _decoder.decode(data)
