"""A month's lines: every amount here was worked out by hand, and whatever the month, they add up to its total."""

import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.pricing import KINDS, PARTS, Tokens
from catalog.pricing_shapes import parse_pricing
from common.money import presented
from finance.charges import Category, ChargeLine, Charges, Use, charges, sum_of, total_of

SERVICE, VERSION = uuid.UUID(int=1), uuid.UUID(int=2)
STEPS = [{"up_to": 1_000_000, "rate": "3"}, {"up_to": 3_000_000, "rate": "2"}, {"rate": "1"}]
GRADUATED = {
    "model": "per_token", "rate_per_token": STEPS, "unit": 1_000_000, "tiers": "graduated", "currency": "USD",
}  # fmt: skip
PLAN = {
    "model": "subscription", "fee_per_month": "20", "included": 1_000_000, "rate_per_token": "2", "unit": 1_000_000,
    "currency": "USD",
}  # fmt: skip


def use(
    pricing: dict[str, Any],
    tokens: Tokens,
    requests: int = 1,
    *,
    service: uuid.UUID = SERVICE,
    version: uuid.UUID = VERSION,
    cost: str | None = None,
    correction: bool = False,
) -> Use:
    """What calls come to in the ledger, or ``cost``."""
    price = parse_pricing(pricing)
    exact = sum_of(price.unit_rates[name] * count for name, count in price.counts(tokens, requests).items())
    amount = exact if cost is None else Decimal(cost)
    return Use(service, version, price, price.currency, tokens, requests, amount, correction)


def told(found: Charges) -> list[tuple[str, str, str, str]]:
    return [
        (
            line.category.value,
            line.counted,
            f"{line.quantity} * {line.rate:f}",
            f"{line.amount.normalize():f}",
        )
        for line in found.lines
    ]


def month(*uses: Use) -> Charges:
    [found] = charges(uses)
    assert total_of(found.lines) == found.total
    return found


def test_a_line_for_each_kind_and_one_for_what_is_rounded() -> None:
    pricing = {
        "model": "per_token", "rates": {"prompt": "3", "completion": "15", "cached": "0.3"}, "unit": 1_000_000,
        "currency": "USD",
    }  # fmt: skip
    found = month(use(pricing, Tokens(1_500, 301, cached=500)))
    assert told(found) == [
        ("usage", "cached", "500 * 0.0000003", "0.00015"),
        ("usage", "prompt", "1000 * 0.000003", "0.003"),
        ("usage", "completion", "301 * 0.000015", "0.004515"),
        ("rounding", "", "1 * 0.0023350", "0.002335"),
    ]
    assert found.total == Decimal("0.01")


def test_the_contracts_example_comes_out_digit_for_digit() -> None:
    found = month(
        use({"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}, Tokens(3_821_450))
    )
    assert told(found) == [
        ("usage", "token", "3821450 * 0.0001", "382.145"),
        ("rounding", "", "1 * 0.0050", "0.005"),
    ]
    assert str(found.total) == "382.15"


def test_graduated_steps_give_back_what_each_lies_below_the_highest() -> None:
    found = month(use(GRADUATED, Tokens(4_000_000, 500_000)))
    assert told(found) == [
        ("usage", "token", "4500000 * 0.000003", "13.5"),
        ("step", "token", "2000000 * -0.000001", "-2"),
        ("step", "token", "1500000 * -0.000002", "-3"),
    ]
    assert found.total == Decimal("8.50")  # 1 * 3 + 2 * 2 + 1.5 * 1


@pytest.mark.parametrize(("tokens", "total"), [(1_000_000, "3"), (1_000_001, "2"), (3_000_001, "3")])
def test_the_step_that_the_month_reaches_holds_for_all_of_a_volume(tokens: int, total: str) -> None:
    assert month(use({**GRADUATED, "tiers": "volume"}, Tokens(tokens))).total == Decimal(total)


def test_what_is_included_costs_nothing_and_the_fee_comes_on_top() -> None:
    assert told(month(use(PLAN, Tokens(1_500_000)))) == [
        ("usage", "token", "1500000 * 0.000002", "3"),
        ("step", "token", "1000000 * -0.000002", "-2"),
        ("fee", "month", "1 * 20", "20"),
    ]
    assert month(use(PLAN, Tokens(10))).total == 20


def test_a_least_amount_is_made_up_for_and_only_then() -> None:
    pricing = {**GRADUATED, "minimum_per_month": "5"}
    assert told(month(use(pricing, Tokens(1_000_000)))) == [
        ("usage", "token", "1000000 * 0.000003", "3"),
        ("minimum", "month", "1 * 2.000000", "2"),
    ]
    assert month(use(pricing, Tokens(2_000_000))).total == 5
    assert month(use(pricing, Tokens(3_000_000))).total == 7


def test_a_fee_counts_towards_the_least_amount_once() -> None:
    found = month(use({**PLAN, "minimum_per_month": "25"}, Tokens(prompt=1_500_000)))
    assert told(found)[2:] == [("fee", "month", "1 * 20", "20"), ("minimum", "month", "1 * 4.000000", "4")]
    assert found.total == Decimal("25.00")


def test_where_no_call_was_charged_nothing_is_owed() -> None:
    assert charges([use(PLAN, Tokens(), requests=0)]) == []
    assert charges([]) == []


def test_the_count_goes_on_through_a_change_of_price_and_the_last_one_says_the_fee() -> None:
    other = {**PLAN, "fee_per_month": "50", "rate_per_token": "4"}
    found = month(
        use(PLAN, Tokens(800_000)), use(other, Tokens(700_000), version=uuid.UUID(int=3))
    )  # 200,000 are left of what is included when the price changes
    assert told(found) == [
        ("usage", "token", "800000 * 0.000002", "1.6"),
        ("usage", "token", "700000 * 0.000004", "2.8"),
        ("step", "token", "800000 * -0.000002", "-1.6"),
        ("step", "token", "200000 * -0.000004", "-0.8"),
        ("fee", "month", "1 * 50", "50"),
    ]
    assert found.lines[-1].price_version_id == uuid.UUID(int=3)


def test_a_volume_is_that_of_the_whole_month_whatever_the_price_was_then() -> None:
    volume = {**GRADUATED, "tiers": "volume"}
    found = month(use(volume, Tokens(600_000)), use(volume, Tokens(600_000), version=uuid.UUID(int=3)))
    assert found.total == Decimal("2.40")


def test_rows_that_differ_from_their_price_are_told_apart_and_the_sum_is_the_ledgers() -> None:
    found = month(use(GRADUATED, Tokens(1_000_000), cost="2.5"))
    assert told(found)[1] == ("recorded", "", "1 * -0.500000", "-0.5")
    assert found.total == Decimal("2.50")


def test_corrections_are_lines_of_their_own_and_move_no_step_and_no_least_amount() -> None:
    pricing = {**GRADUATED, "minimum_per_month": "5"}
    found = month(
        use(pricing, Tokens(1_000_000)),
        use(pricing, Tokens(2_000_000), correction=True),
        use(pricing, Tokens(), 0, cost="-0.75", correction=True),
    )
    assert told(found) == [
        ("usage", "token", "1000000 * 0.000003", "3"),
        ("correction", "token", "2000000 * 0.000003", "6"),
        ("correction", "", "1 * -0.75", "-0.75"),
        ("minimum", "month", "1 * 2.000000", "2"),
    ]
    assert found.total == Decimal("10.25")


BY_KIND = {
    "model": "per_token", "rates": {"prompt": "3", "completion": "15", "cached": "1"}, "unit": 1_000, "currency": "USD",
}  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "cost", "lines"),
    [
        (Tokens(-10, -20, cached=-4), "-0.322", [("cached", -4), ("prompt", -6), ("completion", -20)]),
        (Tokens(0, 0, cached=4), "-0.008", [("cached", 4), ("prompt", -4)]),
    ],
)
def test_corrections_tell_by_how_many_tokens_of_each_kind(
    tokens: Tokens, cost: str, lines: list[tuple[str, int]]
) -> None:
    """A whole call is taken back; tokens were read from a cache after all."""
    found = month(use(BY_KIND, Tokens(10, 20)), use(BY_KIND, tokens, cost=cost, correction=True))
    corrected = [line for line in found.lines if line.category is Category.CORRECTION]
    assert [(line.counted, int(line.quantity)) for line in corrected] == lines


def test_currencies_and_services_are_kept_apart() -> None:
    euro = {"model": "per_request", "rate_per_request": "0.5", "minimum_per_month": 3, "currency": "EUR"}
    other, third = uuid.UUID(int=9), uuid.UUID(int=10)
    uses = [use(PLAN, Tokens(5), service=other), use(euro, Tokens(), 4), use(PLAN, Tokens(5), service=third)]
    found = charges(uses)
    assert [(one.currency, one.total) for one in found] == [("EUR", Decimal(3)), ("USD", Decimal(40))]
    assert {line.service_id for line in found[1].lines} == {other, third}


RATE = st.decimals(0, 100, places=9).map(str)
QUANTITY = st.integers(1, 10**7)


@st.composite
def ladders(draw: st.DrawFn) -> list[dict[str, Any]]:
    ends = sorted(draw(st.sets(QUANTITY, min_size=1, max_size=4)))
    return [{"up_to": end, "rate": draw(RATE)} for end in ends] + [{"rate": draw(RATE)}]


@st.composite
def pricings(draw: st.DrawFn) -> dict[str, Any]:
    stepped = draw(st.booleans())
    rate = ladders() if stepped else RATE
    tiers: dict[str, Any] = {"tiers": draw(st.sampled_from(["graduated", "volume"]))} if stepped else {}
    parts = draw(st.sets(st.sampled_from(PARTS))) if draw(st.booleans()) else None
    pricing: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"model": "per_request", "rate_per_request": draw(rate), **tiers},
                {"model": "per_token", "rate_per_token": draw(rate), "unit": 1000, **tiers},
                {"model": "per_token", "rates": {k: draw(rate) for k in ("prompt", "completion", *(parts or ()))},
                 **tiers},
                {"model": "subscription", "fee_per_month": draw(RATE), "rate_per_token": draw(RATE),
                 "included": draw(QUANTITY)},
            ]
        )
    )  # fmt: skip
    return {
        **pricing,
        "minimum_per_month": draw(RATE),
        "currency": draw(st.sampled_from(["USD", "JPY", "KWD"])),
    }


@st.composite
def months(draw: st.DrawFn) -> list[Use]:
    uses = []
    for version in range(draw(st.integers(1, 4))):
        tokens = Tokens(**{kind: draw(st.integers(0, 10**7)) for kind in KINDS})
        cost = draw(st.none() | st.decimals(-1000, 1000, places=18).map(str))
        uses.append(
            use(
                draw(pricings()),
                tokens,
                draw(st.integers(0, 1000)),
                service=uuid.UUID(int=draw(st.integers(1, 2))),
                version=uuid.UUID(int=version),
                cost=cost,
                correction=draw(st.booleans()),
            )
        )
    return uses


@settings(max_examples=60)
@given(months())
def test_lines_add_up_to_the_total_which_is_what_is_presented(uses: list[Use]) -> None:
    for found in charges(uses):
        assert sum_of(line.amount for line in found.lines) == found.total
        assert all(line.amount == line.quantity * line.rate for line in found.lines)
        exact = [line for line in found.lines if line.category is not Category.ROUNDING]
        assert found.total == presented(total_of(exact), found.currency)
        assert len(found.lines) - len(exact) <= 1
        recorded = sum_of(line.amount for line in exact if _is_of_rows(line))
        assert recorded == sum_of(one.cost for one in uses if one.currency == found.currency)


def _is_of_rows(line: ChargeLine) -> bool:
    return line.category in (Category.USAGE, Category.CORRECTION, Category.RECORDED)


@settings(max_examples=60)
@given(pricings(), st.integers(0, 10**7), st.integers(0, 10**7))
def test_calls_never_cost_less_than_the_month_but_for_what_is_owed_besides(
    pricing: dict[str, Any], prompt: int, completion: int
) -> None:
    """So a budget that counts calls is never overspent by them."""
    pricing = {**pricing, "minimum_per_month": "0"} | (
        {"fee_per_month": "0"} if pricing["model"] == "subscription" else {}
    )
    one = use(pricing, Tokens(prompt, completion), 3)
    for found in charges([one]):
        exact = total_of(line for line in found.lines if line.category is not Category.ROUNDING)
        assert 0 <= exact <= one.cost


@given(ladders(), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_a_month_in_pieces_costs_what_it_costs_in_one(steps: list[dict[str, Any]], pieces: list[int]) -> None:
    for tiers in ("graduated", "volume"):
        pricing = {"model": "per_token", "rate_per_token": steps, "tiers": tiers, "currency": "USD"}
        split = [use(pricing, Tokens(piece), version=uuid.UUID(int=n)) for n, piece in enumerate(pieces)]
        whole = [use(pricing, Tokens(sum(pieces)))]
        assert [found.total for found in charges(split)] == [found.total for found in charges(whole)]
