"""Prices are pure functions; every amount here was worked out by hand."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.pricing import KINDS, PARTS, Step, Tokens
from catalog.pricing_shapes import parse_pricing
from catalog.pricing_words import in_words

BY_KIND = {
    "model": "per_token",
    "rates": {"prompt": "0.000003", "completion": "0.000015", "cached": "0.0000003", "reasoning": "0.00002"},
    "currency": "USD",
}


def cost(pricing: dict[str, Any], tokens: Tokens, *, charged: bool = True) -> Decimal:
    return parse_pricing(pricing).cost(tokens, charged=charged)


def test_one_rate_charges_every_token() -> None:
    pricing = {"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}
    assert cost(pricing, Tokens(50, 200)) == Decimal("0.025")
    assert cost(pricing, Tokens(3_821_450, 0)) == Decimal("382.145")
    assert cost(pricing, Tokens(50, 200, cached=50, reasoning=200)) == Decimal("0.025")


def test_cached_and_reasoning_tokens_are_charged_once_at_their_own_rate() -> None:
    # 600 * 0.000003 + 400 * 0.0000003 + 70 * 0.000015 + 30 * 0.00002
    assert cost(BY_KIND, Tokens(1000, 100, cached=400, reasoning=30)) == Decimal("0.00357")


def test_kinds_without_a_rate_of_their_own_are_charged_as_their_group() -> None:
    pricing = {**BY_KIND, "rates": {"prompt": "1", "completion": "2"}}
    assert cost(pricing, Tokens(10, 5, cached=10, reasoning=5)) == 20


def test_counts_beyond_their_group_are_not_charged_twice() -> None:
    assert cost(BY_KIND, Tokens(10, 0, cached=999)) == Decimal("0.000003")


def test_every_kind_has_a_rate_of_its_own() -> None:
    rates = {
        "prompt": "1", "completion": "100", "cached": "2", "cache_write": "3", "audio_prompt": "5", "reasoning": "200",
        "audio_completion": "500",
    }  # fmt: skip
    tokens = Tokens(
        10, 10, cached=1, cache_write=2, audio_prompt=3, reasoning=4, audio_completion=5
    )  # 4 of the prompt and 1 of the completion are none of these
    assert (
        cost({**BY_KIND, "rates": rates}, tokens) == 4 * 1 + 2 + 2 * 3 + 3 * 5 + 1 * 100 + 4 * 200 + 5 * 500
    )


def test_parts_that_overlap_are_charged_once_in_their_order() -> None:
    rates = {"prompt": "1", "completion": "1", "cached": "10", "cache_write": "100", "audio_prompt": "1000"}
    tokens = Tokens(10, cached=6, cache_write=6, audio_prompt=6)
    assert cost({**BY_KIND, "rates": rates}, tokens) == 6 * 10 + 4 * 100


@pytest.mark.parametrize(
    ("unit", "rate"), [(1, "0.000003"), (1_000, "0.003"), (1_000_000, "3"), (1_000_000, 3)]
)
def test_rates_may_be_for_a_thousand_or_a_million_tokens(unit: int, rate: Any) -> None:
    price = parse_pricing({"model": "per_token", "rate_per_token": rate, "unit": unit, "currency": "USD"})
    assert price.rates["prompt"] == Decimal("0.000003")
    by_kind = parse_pricing({**BY_KIND, "rates": {"prompt": rate, "completion": rate}, "unit": unit})
    assert by_kind.rates == {"prompt": Decimal("0.000003"), "completion": Decimal("0.000003")}
    assert price.cost(Tokens(1_000_000), charged=True) == 3


def test_a_request_is_charged_only_when_it_brought_something() -> None:
    pricing = {"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}
    assert cost(pricing, Tokens(5, 5)) == Decimal("0.01")
    assert cost(pricing, Tokens(), charged=False) == 0


STEPS = [{"up_to": 100, "rate": "3"}, {"up_to": 1_000, "rate": "2"}, {"rate": "1"}]


@pytest.mark.parametrize("tiers", ["graduated", "volume"])
def test_where_the_month_decides_a_call_costs_the_highest_rate(tiers: str) -> None:
    pricing = {"model": "per_token", "rate_per_token": STEPS, "unit": 1000, "tiers": tiers, "currency": "USD"}
    price = parse_pricing(pricing)
    assert price.cost(Tokens(2_000, 1_000), charged=True) == 9
    assert price.steps == {
        "token": (Step(100, Decimal("0.003")), Step(1_000, Decimal("0.002")), Step(None, Decimal("0.001")))
    }
    rising = {"model": "per_request", "rate_per_request": [*STEPS[:1], {"rate": "7"}], "tiers": tiers}
    assert cost({**rising, "currency": "USD"}, Tokens()) == 7


def test_a_call_of_a_subscription_costs_what_goes_beyond_what_is_included() -> None:
    price = parse_pricing(
        {
            "model": "subscription", "fee_per_month": "20", "currency": "USD", "unit": 1_000_000,
            "rates": {"prompt": "2", "completion": "8"}, "included": {"prompt": 1_000_000}, "minimum_per_month": 30,
        }
    )  # fmt: skip
    assert price.cost(Tokens(500, 100), charged=True) == Decimal("0.0018")
    assert price.steps == {"prompt": (Step(1_000_000, Decimal(0)), Step(None, Decimal("0.000002")))}
    assert (price.fee, price.least) == (Decimal(20), Decimal(30))
    requests = {"model": "subscription", "rate_per_request": "0.5", "included": 10, "currency": "USD"}
    assert cost(requests, Tokens(5)) == Decimal("0.5")


def test_a_subscription_without_a_rate_costs_nothing_per_call() -> None:
    assert cost({"model": "subscription", "currency": "EUR"}, Tokens(10**9, 10**9)) == 0


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_cost_is_exact_and_splits_into_its_kinds(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    whole = cost(BY_KIND, Tokens(prompt, completion, cached, reasoning))
    scaled = (
        (prompt - cached) * 30 + (completion - reasoning) * 150 + cached * 3 + reasoning * 200
    )  # units of 1e-7
    assert whole == Decimal(scaled).scaleb(-7)


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        [],
        {},
        {"model": "free", "currency": "USD"},
        {"model": "subscription"},
        {"model": "subscription", "currency": "usd"},
        {"model": "subscription", "currency": "USD", "included": 5},
        {"model": "subscription", "currency": "USD", "rate_per_token": "1", "included": -1},
        {"model": "subscription", "currency": "USD", "rate_per_token": "1", "included": "5"},
        {"model": "subscription", "currency": "USD", "rate_per_token": "1", "included": {"prompt": 5}},
        {
            "model": "subscription",
            "currency": "USD",
            "rates": {"prompt": "1", "completion": "1"},
            "included": 5,
        },
        {"model": "subscription", "currency": "USD", "rate_per_token": "1", "rate_per_request": "1"},
        {"model": "subscription", "currency": "USD", "fee_per_month": 1.5},
        {"model": "subscription", "currency": "USD", "fee_per_month": "-1"},
        {
            "model": "subscription",
            "currency": "USD",
            "rate_per_token": [{"up_to": 1, "rate": "2"}, {"rate": "1"}],
        },
        {"model": "per_token", "rate_per_token": "1", "fee_per_month": "1", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1", "tiers": "volume", "currency": "USD"},
        {
            "model": "per_token",
            "rate_per_token": [{"up_to": 1, "rate": "2"}, {"rate": "1"}],
            "currency": "USD",
        },
        *(
            {"model": "per_token", "rate_per_token": steps, "tiers": "graduated", "currency": "USD"}
            for steps in (
                [],
                [{"rate": "1"}],
                [{"rate": "2"}, {"rate": "1"}],
                [{"up_to": 1, "rate": "2"}, {"up_to": 2, "rate": "1"}],
                [{"up_to": 0, "rate": "2"}, {"rate": "1"}],
                [{"up_to": 5, "rate": "3"}, {"up_to": 5, "rate": "2"}, {"rate": "1"}],
                [{"up_to": 1.5, "rate": "2"}, {"rate": "1"}],
                [{"up_to": 1, "rate": 0.5}, {"rate": "1"}],
                [1, 2],
            )
        ),
        {
            "model": "per_token",
            "rate_per_token": [{"up_to": 1, "rate": "2"}, {"rate": "1"}],
            "tiers": "other",
            "currency": "USD",
        },
        {"model": "per_token", "currency": "USD"},
        {"model": "per_token", "rate_per_token": 0.0001, "currency": "USD"},
        {"model": "per_token", "rate_per_token": True, "currency": "USD"},
        {"model": "per_token", "rate_per_token": "-1", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "NaN", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1e400", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1e-19", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "cheap", "currency": "USD"},
        {"model": "per_token", "rates": {"prompt": "1"}, "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1", "unit": 100, "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1", "unit": True, "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1", "unit": "1000", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "0.0000000000001", "unit": 1000000, "currency": "USD"},
        {"model": "per_request", "rate_per_request": "1", "unit": 1000, "currency": "USD"},
        {"model": "per_token", "rates": {"prompt": "1", "completion": "1", "image": "1"}, "currency": "USD"},
        {"model": "per_request", "currency": "USD"},
        {"model": "per_request", "rate_per_request": "1", "rate_per_token": "1", "currency": "USD"},
    ],
)
def test_other_shapes_are_refused(pricing: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_pricing(pricing)


@pytest.mark.parametrize(
    ("pricing", "words"),
    [
        ({"model": "per_token", "rate_per_token": "0.1", "unit": 1000}, "0.0001 USD per token"),
        (
            {"model": "per_token", "rates": {"prompt": 3, "completion": 15}, "unit": 1_000_000},
            "prompt 0.000003, completion 0.000015 USD per token",
        ),
        ({"model": "per_request", "rate_per_request": "0.01"}, "0.01 USD per request"),
        ({"model": "subscription"}, "subscription (USD)"),
        (
            {
                "model": "subscription", "fee_per_month": 20, "included": 10**6, "rate_per_token": "0.5",
                "minimum_per_month": "25.50",
            },
            "20 USD per month; 0 up to 1,000,000 a month, then 0.5 USD per token; at least 25.5 USD per month",
        ),
        (
            {"model": "per_request", "rate_per_request": STEPS[:1] + STEPS[2:], "tiers": "volume"},
            "3 up to 100 a month, then 1 USD per request; the step that the month reaches holds for all of it",
        ),
        ({"model": "gift"}, "—"),
    ],
)  # fmt: skip
def test_prices_are_told_per_token(pricing: dict[str, Any], words: str) -> None:
    assert in_words({**pricing, "currency": "USD"}) == words


COUNTS = st.fixed_dictionaries({kind: st.integers(0, 10**9) for kind in KINDS})


@given(
    st.dictionaries(st.sampled_from(PARTS), st.integers(0, 10**6).map(str)),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    COUNTS,
)
def test_what_is_counted_times_its_rate_is_the_cost(
    parts: dict[str, str], groups: tuple[int, int], counts: dict[str, int]
) -> None:
    rates = {**parts, "prompt": groups[0], "completion": groups[1]}
    tokens = Tokens(**counts)
    for pricing in (
        {"model": "per_token", "rates": rates, "unit": 1000},
        {"model": "per_token", "rate_per_token": groups[0]},
        {"model": "per_request", "rate_per_request": groups[0]},
        {"model": "subscription"},
    ):
        price = parse_pricing({**pricing, "currency": "USD"})
        counted = price.counts(tokens, 1)
        assert counted.keys() == price.unit_rates.keys()
        assert sum(counted.values()) in (tokens.total, 1, 0)
        told = sum((price.unit_rates[name] * count for name, count in counted.items()), Decimal(0))
        assert told == price.cost(tokens, charged=True)
