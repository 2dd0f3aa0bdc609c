import datetime as dt
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import clock
from common.ids import is_uuid7, milliseconds_of, moment_of, text, uuid7
from common.money import plain, presented


def test_an_id_carries_its_moment() -> None:
    moment = dt.datetime(2025, 12, 31, 23, 59, 59, 999_000, tzinfo=dt.UTC)
    id_ = uuid7(int(moment.timestamp() * 1000))
    assert moment_of(id_) == moment
    assert is_uuid7(id_)
    assert id_.variant == uuid.RFC_4122
    assert not is_uuid7(uuid.uuid4())


@given(st.integers(0, 2**48 - 1))
def test_every_millisecond_comes_back(at: int) -> None:
    assert milliseconds_of(uuid7(at)) == at


@given(st.uuids())
def test_an_id_as_text_is_what_everybody_writes(id_: uuid.UUID) -> None:
    assert text(id_) == str(id_)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({uuid7(1_700_000_000_000) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0.0250", "0.025"),
        ("1E-7", "0.0000001"),
        ("1E+3", "1000"),
        ("0", "0"),
        ("-0.0", "0"),
        ("382.145", "382.145"),
    ],
)
def test_amounts_are_plain_numbers(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**12, places=18))
def test_a_plain_amount_is_the_same_amount(amount: Decimal) -> None:
    text = plain(amount)
    assert Decimal(text) == amount
    assert "E" not in text


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("382.145", "USD", "382.15"),
        ("0.005", "USD", "0.01"),
        ("0.00499999", "USD", "0.00"),
        ("1.5", "JPY", "2"),
        ("0.0005", "KWD", "0.001"),
    ],
)
def test_presented_amounts_round_half_up_to_the_minor_unit(amount: str, currency: str, shown: str) -> None:
    assert str(presented(Decimal(amount), currency)) == shown


def test_months_are_utc() -> None:
    fourteen_ahead = dt.timezone(dt.timedelta(hours=14))
    assert clock.month_of(dt.datetime(2026, 1, 1, 13, 59, tzinfo=fourteen_ahead)) == dt.date(2025, 12, 1)
    assert clock.next_month(dt.date(2024, 1, 1)) == dt.date(2024, 2, 1)
    assert clock.next_month(dt.date(2025, 12, 1)) == dt.date(2026, 1, 1)
