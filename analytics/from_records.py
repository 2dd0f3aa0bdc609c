"""Rows of other tables → events: violations of objectives, keys made and revoked.

These rows have no order of commits: a number or a time taken earlier may be seen later. So the position stays
``OVERLAP`` behind the clock, and what lies beyond it is read every time, its ids remembered. Only a transaction that
stays open for longer than that could hide a row, and the ones that write these take milliseconds.
"""

import datetime as dt
from typing import Any

from django.db.models import Max

from analytics import events
from analytics.models import SourcePosition
from analytics.sinks import EventSink
from audit.models import AuditEntry
from common import clock
from sla.models import SlaViolation

OVERLAP = dt.timedelta(minutes=10)
_KEY_ACTIONS: dict[str, events.Type] = {
    "api_key_created": "api_key_created",
    "api_key_revoked": "api_key_revoked",
}
#: Of an audit entry, only what the event is about: no person's name, no address.
_KEY_FACTS = ("consumer_id", "service_id", "tier", "expires_at", "revoked_at")


def move(sink: EventSink) -> int:
    """Write events of rows that have none yet, in the caller's transaction. Returns how many."""
    now = clock.now()
    return _move_violations(sink, now) + _move_keys(sink, now)


def _move_violations(sink: EventSink, now: dt.datetime) -> int:
    known = _position(SourcePosition.Source.SLA)
    rows = SlaViolation.objects.select_related("service").order_by("timestamp")
    if known.position:
        rows = rows.filter(timestamp__gt=dt.datetime.fromisoformat(known.position))
    beyond = list(rows)
    fresh = [row for row in beyond if str(row.id) not in known.recent]
    _write(sink, [_sla_violation(row) for row in fresh])
    settled = now - OVERLAP
    recent = [str(row.id) for row in beyond if row.timestamp > settled]
    if fresh or len(recent) < len(beyond):
        _advance(known, settled.isoformat(), recent)
    return len(fresh)


def _move_keys(sink: EventSink, now: dt.datetime) -> int:
    known = _position(SourcePosition.Source.KEYS)
    beyond = AuditEntry.objects.filter(id__gt=int(known.position or 0))
    # What raw SQL did is for those who read the trail.
    issued = beyond.filter(action__in=_KEY_ACTIONS).exclude(actor__startswith="database: ")
    entries = list(issued.order_by("id"))
    fresh = [entry for entry in entries if entry.id not in known.recent]
    _write(sink, [_key_event(entry) for entry in fresh])
    # Of all entries, not only of keys, or the others would be walked through again and again.
    settled = beyond.filter(at__lt=now - OVERLAP).aggregate(last=Max("id"))["last"]
    if fresh or settled:
        last = settled or int(known.position or 0)
        _advance(known, str(last), [entry.id for entry in entries if entry.id > last])
    return len(fresh)


def _position(source: SourcePosition.Source) -> SourcePosition:
    return SourcePosition.objects.select_for_update().get_or_create(source=source)[0]


def _advance(known: SourcePosition, position: str, recent: list[Any]) -> None:
    known.position, known.recent = position, recent
    known.save(update_fields=("position", "recent"))


def _write(sink: EventSink, found: list[events.Event]) -> None:
    for start in range(0, len(found), events.BATCH):
        sink.write(found[start : start + events.BATCH])


def _sla_violation(row: SlaViolation) -> events.Event:
    return events.Event(
        id=str(row.id),
        type="sla_violation",
        subject=str(row.service_id),
        time=row.timestamp,
        data={
            "incident_id": str(row.incident_id),
            "service_id": str(row.service_id),
            "service": str(row.service),
            "metric": row.metric,
            "threshold": row.threshold,
            "actual": row.actual,
            "severity": row.severity,
        },
    )


def _key_event(entry: AuditEntry) -> events.Event:
    facts = {**entry.before, **entry.after}
    return events.Event(
        id=entry.target_id,
        type=_KEY_ACTIONS[entry.action],
        subject=entry.target_id,
        time=entry.at,
        data={"api_key_id": entry.target_id, **{name: facts[name] for name in _KEY_FACTS if name in facts}},
    )
