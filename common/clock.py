"""The one place where the time is read, so that tests can move it."""

import datetime as dt
import time

UTC = dt.UTC


def now() -> dt.datetime:
    """The current moment, aware, in UTC."""
    return dt.datetime.now(UTC)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def month_of(moment: dt.datetime) -> dt.date:
    """The first day of the UTC month that ``moment`` falls into."""
    return moment.astimezone(UTC).date().replace(day=1)


def next_month(month: dt.date) -> dt.date:
    """The first day of the month after ``month`` (itself a first day)."""
    return (month + dt.timedelta(days=32)).replace(day=1)


def day_start(day: dt.date) -> dt.datetime:
    """Midnight UTC at which ``day`` begins."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=UTC)


def month_start(month: dt.date) -> dt.datetime:
    """Midnight UTC at which ``month`` begins."""
    return dt.datetime(month.year, month.month, 1, tzinfo=UTC)
