"""From a journal entry to a line of the ledger: read once, checked, and written as the database copies it."""

import datetime as dt
import re
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal

import msgspec

from common import clock
from common.ids import is_uuid7, milliseconds_of, moment_of, uuid7
from metering import journal
from metering.models import UsageRecord

#: A call is older than this only where something is wrong: the ledger keeps no month open for so long.
OLDEST = dt.timedelta(days=400)
#: How far a gateway's clock may run ahead of the drain's.
NEWEST = dt.timedelta(days=1)

#: Columns of ``usage_records`` in the order of ``Line.copy_text``.
COLUMNS = (
    "id", "request_id", "service_id", "consumer_id", "api_key_id", "price_version_id", "tier", '"timestamp"',
    "duration_ms", "usage", "cost", "total_tokens", "cost_amount", "currency", "status", "error", "kind", "corrects",
    "settlement", "metadata",
)  # fmt: skip

#: What a gateway, the reaper or a replay writes; what a person enters comes by no journal.
_SETTLEMENTS = frozenset(UsageRecord.Settlement.values) - {
    UsageRecord.Settlement.MANUAL,
    UsageRecord.Settlement.REPRICED,
}
_NULL = "\\N"
_FIELD = re.compile(r"at `\$\.(\w+)`")


class Unreadable(Exception):
    """A journal entry is not what a gateway writes. The text says why, in words of ours."""


@dataclass(slots=True)
class Line:
    """One line of the ledger, and where in the journal it came from.

    ``id`` is the request's, but for a correction, which has its own. ``owners``: see ``owners_text``.
    """

    shard: int
    stream_id: bytes
    raw: bytes
    settlement: str
    entry: journal.Entry
    id: uuid.UUID
    moment: dt.datetime
    cost: Decimal
    metadata: str | None
    owners: str
    kind: str = UsageRecord.Kind.USAGE.value

    @property
    def is_settled(self) -> bool:
        return self.entry.status != "unsettled"

    @property
    def month(self) -> dt.date:
        return clock.month_of(self.moment)

    def correction(self) -> "Line":
        """The same amounts as a correction of the request's first row, in the month that is open now."""
        id_ = uuid7()
        return replace(self, id=id_, moment=moment_of(id_), kind=UsageRecord.Kind.CORRECTION.value)

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

    def copy_text(self) -> str:
        """The line as ``COPY … FROM STDIN`` reads it, ``COLUMNS`` in order."""
        entry = self.entry
        error, metadata = self.error_json(), self.metadata
        is_correction = self.kind == UsageRecord.Kind.CORRECTION
        return (
            f"{self.id.hex}\t{entry.request_id.hex}\t{self.owners}\t"
            f"{self.moment.isoformat()}\t{entry.duration_ms}\t{self.usage_json()}\t"
            f"{self.cost_json()}\t{entry.total_tokens}\t{entry.cost}\t{entry.currency}\t"
            f"{entry.status}\t{_NULL if error is None else _escaped(error)}\t{self.kind}\t"
            f"{entry.request_id.hex if is_correction else _NULL}\t{self.settlement}\t"
            f"{_NULL if metadata is None else _escaped(metadata)}\n"
        )


class Reader:
    """Reads entries; what may count as a plausible time is fixed when it is made."""

    def __init__(self) -> None:
        now = clock.now()
        self._from_ms = int((now - OLDEST).timestamp() * 1000)
        self._until_ms = int((now + NEWEST).timestamp() * 1000)

    def read(self, shard: int, stream_id: bytes, fields: list[bytes]) -> Line:
        """The line of one stream entry. Raises ``Unreadable``."""
        raw, settlement = entry_fields(fields)
        if settlement not in _SETTLEMENTS:
            raise Unreadable("how it was settled is not said")
        try:
            entry = journal.decode(raw)
            metadata = bytes(entry.metadata).decode() or None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Unreadable(_without_input(error)) from error
        id_ = entry.request_id
        if not is_uuid7(id_) or not self._from_ms <= milliseconds_of(id_) <= self._until_ms:
            raise Unreadable("the request id holds no plausible time")
        return Line(
            shard, stream_id, raw, settlement, entry, id_, moment_of(id_), Decimal(entry.cost), metadata,
            owners_text(entry, entry.tier),
        )  # fmt: skip


def owners_text(of: journal.Entry | UsageRecord, tier: str) -> str:
    """Service, consumer, key, price version and tier, as columns of ``copy_text`` and as a key to add up by."""
    return (
        f"{of.service_id.hex}\t{of.consumer_id.hex}\t{of.api_key_id.hex}\t{of.price_version_id.hex}\t"
        f"{_escaped(tier)}"
    )


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


def _escaped(text: str) -> str:
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text
