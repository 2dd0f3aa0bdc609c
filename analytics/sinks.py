"""Where events go."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec
from django.db import connection

from analytics.events import Event


class EventSink(ABC):
    """Takes events for good.

    ``write`` returns when all of them are kept, and raises when any may not be: the caller's positions then stay,
    and the same events come again. So a sink sees every event at least once, and tells repeated ones by
    ``(id, type)``; where the data differ, the later is right (a call of unknown outcome was settled after all).
    At most ``analytics.events.BATCH`` events a call. It is called inside the transaction that moves the positions:
    a sink in the same database joins it, and so has every event exactly once.
    """

    @abstractmethod
    def write(self, events: Sequence[Event]) -> None: ...


class TableSink(EventSink):
    """Rows of ``analytics_events``."""

    def write(self, events: Sequence[Event]) -> None:
        latest = {(event.id, event.type): event for event in events}.values()
        if not latest:
            return
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO analytics_events AS known (event_id, type, subject, time, data)
                SELECT event_id, type, subject, time, data::jsonb
                FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[])
                    AS event (event_id, type, subject, time, data)
                ON CONFLICT (event_id, type) DO UPDATE SET data = EXCLUDED.data
                    WHERE known.data IS DISTINCT FROM EXCLUDED.data
                """,
                [
                    [event.id for event in latest],
                    [event.type for event in latest],
                    [event.subject for event in latest],
                    [event.time for event in latest],
                    [msgspec.json.encode(event.data).decode() for event in latest],
                ],
            )
