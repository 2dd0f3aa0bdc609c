"""What is copied in binary comes out of the database as it was."""

import datetime as dt
from decimal import Decimal

import pytest
from django.db import connection

from common.ids import milliseconds_of, moment_of, uuid7
from metering import binary_copy

AMOUNTS = (
    "0", "0.003", "1", "-1", "9999", "10000", "10001", "-12.5", "0.0001", "0.00001", "123456.7", "100000000",
    "-0.000000000000000001", "12345678901234567890.123456789012345678",
)  # fmt: skip


@pytest.mark.django_db
def test_amounts_are_the_same_to_the_last_digit() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE amounts (place bigint, amount numeric(38, 18)) ON COMMIT DROP")
        rows = [
            binary_copy.count(2) + binary_copy.BIGINT.pack(8, place) + binary_copy.numeric(amount)
            for place, amount in enumerate(AMOUNTS)
        ]
        binary_copy.copy("amounts", ("place", "amount"), rows)
        cursor.execute("SELECT amount FROM amounts ORDER BY place")
        assert [row[0] for row in cursor.fetchall()] == [Decimal(amount) for amount in AMOUNTS]


@pytest.mark.django_db
@pytest.mark.parametrize("day", [dt.date(1999, 12, 31), dt.date(2028, 2, 29)])
def test_ids_moments_days_and_texts(day: dt.date) -> None:
    id_, name = uuid7(), 'tab\tline\nback\\slash "é" 名'
    row = b"".join(
        [
            binary_copy.count(6),
            binary_copy.uuid(id_.int),
            binary_copy.moment(milliseconds_of(id_)),
            binary_copy.date(day),
            binary_copy.text(name),
            binary_copy.json('{"a": [1, "é"]}'),
            binary_copy.NULL,
        ]
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE things (id uuid, at timestamptz, day date, name varchar(50), j jsonb, none bigint)"
            " ON COMMIT DROP"
        )
        binary_copy.copy("things", ("id", "at", "day", "name", "j", "none"), [row])
        cursor.execute("SELECT id, at, day, name, j->'a'->>1, none FROM things")
        assert cursor.fetchone() == (id_, moment_of(id_), day, name, "é", None)
