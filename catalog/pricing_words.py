"""A price as people read it, always per token: ``0.0001 USD per token``."""

from collections.abc import Iterator
from typing import Any

from catalog.pricing import REQUEST, Price, Step
from catalog.pricing_shapes import parse_pricing
from common.money import plain


def in_words(pricing: Any) -> str:
    """The price in words; a dash where it is none."""
    try:
        price = parse_pricing(pricing)
    except ValueError:
        return "—"
    return "; ".join(_parts(price)) or f"subscription ({price.currency})"


def _parts(price: Price) -> Iterator[str]:
    if price.fee:
        yield f"{plain(price.fee)} {price.currency} per month"
    rates = price.unit_rates
    told = ", ".join(
        (f"{counted} " if len(rates) > 1 else "") + _rate_in_words(price, counted) for counted in rates
    )
    if told:
        yield f"{told} {price.currency} per {'request' if REQUEST in rates else 'token'}"
    if price.volume:
        yield "the step that the month reaches holds for all of it"
    if price.least:
        yield f"at least {plain(price.least)} {price.currency} per month"


def _rate_in_words(price: Price, counted: str) -> str:
    steps = price.steps.get(counted)
    if steps is None:
        return plain(price.unit_rates[counted])
    return ", ".join(_step_in_words(step) for step in steps)


def _step_in_words(step: Step) -> str:
    rate = plain(step.rate)
    return f"then {rate}" if step.up_to is None else f"{rate} up to {step.up_to:,} a month"
