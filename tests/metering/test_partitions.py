"""Month partitions: ahead of time, once, and with the bounds of UTC."""

import datetime as dt
import threading

import pytest
from django.core.management import call_command
from django.db import connection

from common import clock
from metering import partitions
from metering.tasks import make_partitions


def attached() -> dict[str, str]:
    """Partitions of the ledger and their bounds, as a session in UTC prints them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i
            JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'usage_records'::regclass
            """
        )
        return dict(cursor.fetchall())


def drop(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {name}")


def names_ahead() -> list[str]:
    months = [clock.month_of(clock.now())]
    for _ in range(3):
        months.append(clock.next_month(months[-1]))
    return [f"usage_records_{month:%Y_%m}" for month in months]


@pytest.mark.django_db
def test_this_month_and_the_next_three_are_there_and_made_once() -> None:
    for name in names_ahead():
        drop(name)

    assert partitions.make_ahead() == names_ahead()
    assert set(names_ahead()) <= set(attached())
    make_partitions()
    assert partitions.make_ahead() == []


@pytest.mark.django_db
def test_a_partition_has_the_ledgers_bounds_and_indexes() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TIME ZONE 'America/New_York'")
    assert partitions.make([dt.date(2031, 12, 1)]) == ["usage_records_2031_12"]

    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")
        assert attached()["usage_records_2031_12"] == (
            "FOR VALUES FROM ('2031-12-01 00:00:00+00') TO ('2032-01-01 00:00:00+00')"
        )
        cursor.execute(
            "SELECT count(*) FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid "
            "WHERE x.indrelid = 'usage_records_2031_12'::regclass"
        )
        assert cursor.fetchone() == (4,)


@pytest.mark.usefixtures("committed")
def test_two_at_once_make_each_partition_once() -> None:
    months = [dt.date(2032, month, 1) for month in range(1, 7)]
    made: list[list[str]] = []
    start = threading.Barrier(4)

    def make() -> None:
        start.wait()
        made.append(partitions.make(months))
        connection.close()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [f"usage_records_{month:%Y_%m}" for month in months]
    assert sorted(made) == [[], [], [], names]
    for name in names:
        drop(name)


@pytest.mark.django_db
def test_the_command_says_what_it_made(capsys: pytest.CaptureFixture[str]) -> None:
    last = names_ahead()[-1]
    drop(last)

    call_command("partitions")
    call_command("partitions")

    assert capsys.readouterr().out == f"made {last}\nnothing to make\n"
