"""Prices as pure functions: tokens and a price in, an exact ``Decimal`` out.

Shapes (rates are strings in, exact numbers out):

- ``{"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}``
- ``{"model": "per_token", "rates": {"prompt": "…", "completion": "…", "cached": "…", "reasoning": "…"}, …}``
- ``{"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}``
- ``{"model": "subscription", "currency": "USD"}``
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

import msgspec

from common.money import ZERO

_MAX_RATE = Decimal(10) ** 9
_MAX_DIGITS_AFTER_POINT = 18
_CURRENCY = re.compile(r"[A-Z]{3}")
#: Enough digits for every product of a rate and a 64-bit count, and a trap should that ever be wrong.
_EXACT = Context(prec=60, traps=[InvalidOperation, Inexact])
KINDS = ("prompt", "completion", "cached", "reasoning")


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one call. ``cached`` is a part of ``prompt``, ``reasoning`` a part of ``completion``,
    as OpenAI-compatible upstreams report them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Price:
    """A parsed price. ``rates`` is empty unless the model is per token; ``single`` tells one rate from four."""

    model: str
    currency: str
    rates: dict[str, Decimal]
    per_request: Decimal = ZERO
    single: bool = False

    def cost(self, tokens: Tokens, *, charged: bool) -> Decimal:
        """The exact cost of one call. ``charged``: it succeeded, or at least one byte of it was delivered."""
        if not charged or self.model == "subscription":
            return ZERO
        if self.model == "per_request":
            return self.per_request
        if self.single:
            return _EXACT.multiply(self.rates["prompt"], tokens.total)
        total = ZERO
        for kind, count in self._billed(tokens).items():
            if count:
                total = _EXACT.add(total, _EXACT.multiply(self.rates[kind], count))
        return total

    def _billed(self, tokens: Tokens) -> dict[str, int]:
        """Each token once: a cached or reasoning token is charged at its own rate instead of its group's."""
        cached = min(tokens.cached, tokens.prompt) if "cached" in self.rates else 0
        reasoning = min(tokens.reasoning, tokens.completion) if "reasoning" in self.rates else 0
        return {
            "prompt": tokens.prompt - cached,
            "completion": tokens.completion - reasoning,
            "cached": cached,
            "reasoning": reasoning,
        }


def parse_pricing(pricing: Any) -> Price:
    """The ``Price`` of one of the shapes above. Raises ``ValueError`` with a sentence an operator understands."""
    if not isinstance(pricing, dict):
        raise ValueError("pricing must be an object")
    model = pricing.get("model")
    currency = pricing.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise ValueError("currency must be a code of three capital letters (ISO 4217)")
    if model == "per_token":
        return _per_token(pricing, currency)
    if model == "per_request":
        _only(pricing, {"model", "currency", "rate_per_request"})
        return Price(
            model, currency, {}, per_request=_rate(pricing.get("rate_per_request"), "rate_per_request")
        )
    if model == "subscription":
        _only(pricing, {"model", "currency"})
        return Price(model, currency, {})
    raise ValueError("model must be per_token, per_request or subscription")


def _per_token(pricing: dict[str, Any], currency: str) -> Price:
    if "rate_per_token" in pricing:
        _only(pricing, {"model", "currency", "rate_per_token"})
        rate = _rate(pricing["rate_per_token"], "rate_per_token")
        return Price("per_token", currency, {"prompt": rate, "completion": rate}, single=True)
    _only(pricing, {"model", "currency", "rates"})
    given = pricing.get("rates")
    if not isinstance(given, dict) or not {"prompt", "completion"} <= set(given) <= set(KINDS):
        raise ValueError("rates must name prompt and completion, and may name cached and reasoning")
    return Price("per_token", currency, {kind: _rate(given[kind], kind) for kind in given})


def _only(pricing: dict[str, Any], allowed: set[str]) -> None:
    if not set(pricing) <= allowed:
        raise ValueError("pricing may only hold " + ", ".join(sorted(allowed)))


def _rate(value: Any, name: str) -> Decimal:
    """Rates are strings, or whole numbers: a JSON fraction has been through a float and is refused."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} must be a decimal number written as a string")
    try:
        rate = Decimal(value)
    except InvalidOperation as error:
        raise ValueError(f"{name} is not a decimal number") from error
    if not rate.is_finite() or not 0 <= rate <= _MAX_RATE:
        raise ValueError(f"{name} must lie between 0 and {_MAX_RATE}")
    exponent = rate.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > _MAX_DIGITS_AFTER_POINT:
        raise ValueError(f"{name} may have {_MAX_DIGITS_AFTER_POINT} digits after the point")
    return rate
