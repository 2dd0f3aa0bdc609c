"""From a journal entry to a line of the ledger: read once, checked, and written as the database copies it."""

import datetime as dt
import functools
import re
import uuid
from decimal import Decimal

import msgspec

from common import clock
from common.ids import first_of, is_uuid7, milliseconds_of, moment_of, uuid7
from metering import binary_copy, journal
from metering.models import UsageRecord

#: A call is older than this only where something is wrong: the ledger keeps no month open for so long.
OLDEST = dt.timedelta(days=400)
#: How far a gateway's clock may run ahead of the drain's.
NEWEST = dt.timedelta(days=1)

#: Columns of ``usage_records`` in the order of ``Line.copied``.
COLUMNS = (
    "id", "request_id", "consumer_id", "service_id", "api_key_id", "price_version_id", "tier", '"timestamp"',
    "duration_ms", "usage", "cost", "total_tokens", "cost_amount", "currency", "status", "error", "kind", "corrects",
    "settlement", "metadata",
)  # fmt: skip

#: What a gateway, the reaper or a replay writes; what a person enters comes by no journal.
_SETTLEMENTS = frozenset(UsageRecord.Settlement.values) - {
    UsageRecord.Settlement.MANUAL,
    UsageRecord.Settlement.REPRICED,
}
_COLUMN_COUNT = binary_copy.count(len(COLUMNS))
_CORRECTION = UsageRecord.Kind.CORRECTION.value
_DAY_MS = 86_400_000
_FIELD = re.compile(r"at `\$\.(\w+)`")


class Unreadable(Exception):
    """A journal entry is not what a gateway writes. The text says why, in words of ours."""


class Line(msgspec.Struct, gc=False):
    """One line of the ledger, and where in the journal it came from.

    ``id`` is the request's, but for a correction, which has its own. ``owners``: see ``owners_of``.
    """

    shard: int
    stream_id: bytes
    raw: bytes
    settlement: str
    entry: journal.Entry
    id: uuid.UUID
    cost: Decimal
    metadata: str | None
    owners: bytes
    kind: str = UsageRecord.Kind.USAGE.value

    @property
    def is_settled(self) -> bool:
        return self.entry.status != "unsettled"

    @property
    def moment(self) -> dt.datetime:
        return moment_of(self.id)

    @property
    def month(self) -> dt.date:
        return _month_of_day(milliseconds_of(self.id) // _DAY_MS)

    def correction(self) -> "Line":
        """The same amounts as a correction of the request's first row, in the month that is open now."""
        return msgspec.structs.replace(self, id=uuid7(), kind=_CORRECTION)

    def usage_json(self) -> str:
        entry = self.entry
        rare = ""
        if entry.cache_write_tokens or entry.audio_prompt_tokens or entry.audio_completion_tokens:
            rare = "".join([f'"{name}":{n},' for name in journal.RARE_COUNTS if (n := getattr(entry, name))])
        return (
            f'{{"prompt_tokens":{entry.prompt_tokens},"completion_tokens":{entry.completion_tokens},'
            f'"total_tokens":{entry.total_tokens},"cached_tokens":{entry.cached_tokens},'
            f'"reasoning_tokens":{entry.reasoning_tokens},{rare}"usage_source":"{entry.usage_source}"}}'
        )

    def cost_json(self) -> str:
        entry = self.entry
        upstream = "" if entry.upstream_cost is None else f',"upstream":{entry.upstream_cost}'
        return f'{{"amount":{entry.cost},"currency":"{entry.currency}"{upstream}}}'

    def error_json(self) -> str | None:
        return msgspec.json.encode({"code": self.entry.error}).decode() if self.entry.error else None

    def copied(self) -> bytes:
        """The line as a row for ``binary_copy``, ``COLUMNS`` in order."""
        entry, fields = self.entry, binary_copy
        error, metadata = self.error_json(), self.metadata
        request_id = fields.uuid(entry.request_id.int)
        return b"".join(
            [
                _COLUMN_COUNT,
                request_id if self.id is entry.request_id else fields.uuid(self.id.int),
                request_id,
                self.owners,
                fields.moment(milliseconds_of(self.id)),
                fields.INTEGER.pack(4, entry.duration_ms),
                fields.json(self.usage_json()),
                fields.json(self.cost_json()),
                fields.BIGINT.pack(8, entry.total_tokens),
                fields.numeric(entry.cost),
                fields.word(entry.currency),
                fields.word(entry.status),
                fields.NULL if error is None else fields.json(error),
                fields.word(self.kind),
                request_id if self.kind == _CORRECTION else fields.NULL,
                fields.word(self.settlement),
                fields.NULL if metadata is None else fields.json(metadata),
            ]
        )


class Reader:
    """Reads entries; what may count as a plausible time is fixed when it is made."""

    def __init__(self) -> None:
        now = clock.now()
        self._first, self._end = first_of(now - OLDEST).int, first_of(now + NEWEST).int

    def read(self, shard: int, stream_id: bytes, fields: list[bytes]) -> Line:
        """The line of one stream entry. Raises ``Unreadable``."""
        raw, settlement = entry_fields(fields)
        if settlement not in _SETTLEMENTS:
            raise Unreadable("how it was settled is not said")
        try:
            entry = journal.decode(raw)
            metadata = bytes(entry.metadata).decode() if entry.metadata is not journal.NO_METADATA else None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Unreadable(_without_input(error)) from error
        id_ = entry.request_id
        if not is_uuid7(id_) or not self._first <= id_.int < self._end:
            raise Unreadable("the request id holds no plausible time")
        return Line(
            shard, stream_id, raw, settlement, entry, id_, Decimal(entry.cost), metadata,
            owners_of(entry, entry.tier),
        )  # fmt: skip


def owners_of(of: journal.Entry | UsageRecord, tier: str) -> bytes:
    """Consumer, service, key, price version and tier, as fields of ``binary_copy`` and as a key to add up by."""
    return _owners(of.consumer_id.int, of.service_id.int, of.api_key_id.int, of.price_version_id.int, tier)


@functools.lru_cache(maxsize=20_000)
def _owners(consumer: int, service: int, key: int, price_version: int, tier: str) -> bytes:
    ids = (consumer, service, key, price_version)
    return b"".join([*map(binary_copy.uuid, ids), binary_copy.text(tier)])


@functools.lru_cache
def _month_of_day(day: int) -> dt.date:
    """Of a number of days since 1970."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).replace(day=1)


def entry_fields(fields: list[bytes]) -> tuple[bytes, str]:
    """Fields ``e`` and ``s`` of a stream entry, empty where they are missing."""
    if len(fields) == 4 and fields[0] == b"e" and fields[2] == b"s":
        return fields[1], fields[3].decode("ascii", "replace")
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return found.get(b"e", b""), found.get(b"s", b"").decode("ascii", "replace")


def _without_input(error: Exception) -> str:
    """What kind of fault, and in which field: the decoder's own sentence may quote what it found there."""
    at = _FIELD.search(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return f"{type(error).__name__} at {at[1]}" if at else type(error).__name__
