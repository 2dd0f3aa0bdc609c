"""Prices are pure functions; every amount here was worked out by hand."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.pricing import Tokens, parse_pricing

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


def test_a_request_is_charged_only_when_it_brought_something() -> None:
    pricing = {"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}
    assert cost(pricing, Tokens(5, 5)) == Decimal("0.01")
    assert cost(pricing, Tokens(), charged=False) == 0


def test_a_subscription_costs_nothing_per_call() -> None:
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
        {"model": "subscription", "currency": "USD", "rate_per_token": "1"},
        {"model": "per_token", "currency": "USD"},
        {"model": "per_token", "rate_per_token": 0.0001, "currency": "USD"},
        {"model": "per_token", "rate_per_token": True, "currency": "USD"},
        {"model": "per_token", "rate_per_token": "-1", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "NaN", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1e400", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "1e-19", "currency": "USD"},
        {"model": "per_token", "rate_per_token": "cheap", "currency": "USD"},
        {"model": "per_token", "rates": {"prompt": "1"}, "currency": "USD"},
        {"model": "per_token", "rates": {"prompt": "1", "completion": "1", "image": "1"}, "currency": "USD"},
        {"model": "per_request", "currency": "USD"},
        {"model": "per_request", "rate_per_request": "1", "rate_per_token": "1", "currency": "USD"},
    ],
)
def test_other_shapes_are_refused(pricing: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_pricing(pricing)
