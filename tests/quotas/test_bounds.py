"""What is reserved of a budget is never less than what the call then costs."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from catalog.pricing import KINDS, PARTS, Tokens
from catalog.pricing_shapes import parse_pricing
from common import money
from quotas.limits import bounds_of

RATES = st.decimals(0, 1000, places=12).map(str)
BY_KIND = st.fixed_dictionaries({"prompt": RATES, "completion": RATES}, optional=dict.fromkeys(PARTS, RATES))
PRICES = st.one_of(
    RATES.map(lambda rate: {"model": "per_token", "rate_per_token": rate}),
    BY_KIND.map(lambda rates: {"model": "per_token", "rates": rates, "unit": 1000}),
    RATES.map(lambda rate: {"model": "per_request", "rate_per_request": rate}),
    st.just({"model": "subscription"}),
    RATES.map(lambda rate: {"model": "subscription", "rate_per_request": rate, "included": 5}),
    st.tuples(RATES, RATES).map(
        lambda rates: {
            "model": "per_token",
            "rate_per_token": [{"up_to": 10, "rate": rates[0]}, {"rate": rates[1]}],
            "tiers": "volume",
        }
    ),
)
TOKENS = st.fixed_dictionaries({kind: st.integers(0, 10**7) for kind in KINDS}).map(
    lambda counts: Tokens(**counts)
)


@given(PRICES, TOKENS)
def test_a_call_costs_at_most_what_was_reserved_for_it(pricing: dict[str, Any], tokens: Tokens) -> None:
    price = parse_pricing({**pricing, "currency": "USD"})
    any_call, each_prompt_token, each_output_token = bounds_of(price)
    reserved = any_call + each_prompt_token * tokens.prompt + each_output_token * tokens.completion
    assert money.nano(price.cost(tokens, charged=True)) <= reserved
