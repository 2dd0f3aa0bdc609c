"""How prices are written, as JSON. Rates are strings in, exact numbers out.

- ``{"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}``
- ``{"model": "per_token", "rates": {"prompt": "3", "completion": "15", "cached": "0.3"}, "unit": 1000000, …}``, of any
  of ``pricing.KINDS``; a kind without a rate is charged as its group
- ``{"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}``
- ``{"model": "subscription", "fee_per_month": "20", "included": 1000000, "rate_per_token": "0.0001", …}``: what goes
  beyond ``included`` is charged at any of the rates above (with ``rates``, ``included`` is by kind too); without a rate
  everything is included

``unit``: how many tokens a rate is for, 1 (where it is not said), 1,000 or 1,000,000. Any of them may say
``minimum_per_month``. A rate may depend on the month's quantity: ``[{"up_to": 1000000, "rate": "3"}, {"rate": "2"}]``;
``"tiers"`` then says whether each step's rate is for what lies in it (``graduated``), or the last step reached is for
all (``volume``).
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from catalog.pricing import GROUPS, KINDS, PARTS, REQUEST, TOKEN, Price, Step

_MAX_RATE = Decimal(10) ** 9
_MAX_DIGITS_AFTER_POINT = 18
_MAX_QUANTITY = 2**53
_MAX_STEPS = 20
_CURRENCY = re.compile(r"[A-Z]{3}")
#: Tokens that a rate may be for, and how far the point then moves.
UNITS = {1: 0, 1_000: -3, 1_000_000: -6}
_RATES = ("rate_per_token", "rates", "rate_per_request")
#: By model: the ways to say its rates, and what else it may say.
_MODELS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "per_token": (_RATES[:2], frozenset({"tiers"})),
    "per_request": (_RATES[2:], frozenset({"tiers"})),
    "subscription": (_RATES, frozenset({"fee_per_month", "included"})),
}


def parse_pricing(pricing: Any) -> Price:
    """The ``Price`` of one of the shapes above. Raises ``ValueError`` with a sentence an operator understands."""
    if not isinstance(pricing, dict):
        raise ValueError("pricing must be an object")
    model, currency = pricing.get("model"), pricing.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise ValueError("currency must be a code of three capital letters (ISO 4217)")
    if not isinstance(model, str) or model not in _MODELS:
        raise ValueError("model must be per_token, per_request or subscription")
    steps = _steps(pricing, model)
    if model == "subscription":
        steps = _beyond_included(pricing, steps)
    highest = {counted: max(step.rate for step in of_it) for counted, of_it in steps.items()}
    per_request, per_token = highest.pop(REQUEST, Decimal(0)), highest.pop(TOKEN, None)
    return Price(
        model,
        currency,
        highest if per_token is None else dict.fromkeys(GROUPS, per_token),
        per_request=per_request,
        single=per_token is not None,
        steps={counted: of_it for counted, of_it in steps.items() if len(of_it) > 1},
        volume=pricing.get("tiers") == "volume",
        fee=_rate(pricing.get("fee_per_month", 0), "fee_per_month"),
        least=_rate(pricing.get("minimum_per_month", 0), "minimum_per_month"),
    )


def currency_of(pricing: Any) -> str:
    """What it is in. Raises ``ValueError``."""
    return parse_pricing(pricing).currency


_Steps = dict[str, tuple[Step, ...]]


def _steps(pricing: dict[str, Any], model: str) -> _Steps:
    """The steps of each rate, by what is counted; one step where the month's quantity does not matter."""
    ways, more = _MODELS[model]
    said = [name for name in ways if name in pricing]
    if len(said) > 1 or (not said and model != "subscription"):
        raise ValueError("pricing must say " + (" or ".join(ways) if len(ways) < 3 else "one kind of rate"))
    way = said[0] if said else ""
    unit = {"unit"} if way in _RATES[:2] else set()
    _only(pricing, {"model", "currency", "minimum_per_month", *said, *unit, *more})
    scale = _scale(pricing)
    if way == "rates":
        found = {kind: _ladder(rate, kind, scale) for kind, rate in _by_kind(pricing["rates"]).items()}
    else:
        counted = TOKEN if way == "rate_per_token" else REQUEST
        found = {counted: _ladder(pricing[way], way, scale)} if way else {}
    _check_tiers(pricing, any(len(steps) > 1 for steps in found.values()), may="tiers" in more)
    return found


def _by_kind(rates: Any) -> dict[str, Any]:
    if not isinstance(rates, dict) or not set(GROUPS) <= set(rates) <= set(KINDS):
        raise ValueError("rates must name prompt and completion, and may name " + ", ".join(PARTS))
    return rates


def _check_tiers(pricing: dict[str, Any], has_steps: bool, *, may: bool) -> None:
    if has_steps and not may:
        raise ValueError("the rates of a subscription have no steps")
    if has_steps != ("tiers" in pricing):
        raise ValueError("tiers must be said where a rate has steps, and only there")
    if has_steps and pricing["tiers"] not in ("graduated", "volume"):
        raise ValueError("tiers must be graduated or volume")


def _ladder(value: Any, name: str, scale: int) -> tuple[Step, ...]:
    if not isinstance(value, list):
        return (Step(None, _rate(value, name, scale)),)
    if not 2 <= len(value) <= _MAX_STEPS:
        raise ValueError(f"{name} must have 2 to {_MAX_STEPS} steps")
    steps = [_step(step, name, scale, is_last=step is value[-1]) for step in value]
    ends = [step.up_to or 0 for step in steps[:-1]]
    if any(low >= high for low, high in zip([0, *ends], ends, strict=False)):
        raise ValueError(f"each step of {name} must end above the one before")
    return tuple(steps)


def _step(step: Any, name: str, scale: int, *, is_last: bool) -> Step:
    if not isinstance(step, dict) or set(step) != ({"rate"} if is_last else {"up_to", "rate"}):
        raise ValueError(f"a step of {name} says up_to and rate, the last one only rate")
    up_to = None if is_last else _quantity(step["up_to"], f"up_to of {name}")
    return Step(up_to, _rate(step["rate"], name, scale))


def _beyond_included(pricing: dict[str, Any], steps: _Steps) -> _Steps:
    """What is included is a first step that costs nothing."""
    given = pricing.get("included", {})
    if not isinstance(given, dict):
        if len(steps) != 1:
            raise ValueError("included is by kind where the rates are, and says nothing without a rate")
        given = dict.fromkeys(steps, given)
    if not set(given) <= set(steps):
        raise ValueError("included may only name what has a rate")
    free = {counted: _quantity(quantity, "included") for counted, quantity in given.items()}
    return {
        counted: (Step(free[counted], Decimal(0)), *of_it) if free.get(counted) else of_it
        for counted, of_it in steps.items()
    }


def _quantity(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_QUANTITY:
        raise ValueError(f"{name} must be a whole number from 0")
    return int(value)


def _scale(pricing: dict[str, Any]) -> int:
    unit = pricing.get("unit", 1)
    if isinstance(unit, bool) or not isinstance(unit, int) or unit not in UNITS:
        raise ValueError("unit must be 1, 1000 or 1000000")
    return UNITS[unit]


def _only(pricing: dict[str, Any], allowed: set[str]) -> None:
    if not set(pricing) <= allowed:
        raise ValueError("pricing may only hold " + ", ".join(sorted(allowed)))


def _rate(value: Any, name: str, scale: int = 0) -> Decimal:
    """Rates are strings, or whole numbers: a JSON fraction has been through a float and is refused."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} must be a decimal number written as a string")
    try:
        rate = Decimal(value)
    except InvalidOperation as error:
        raise ValueError(f"{name} is not a decimal number") from error
    if not rate.is_finite() or not 0 <= rate <= _MAX_RATE:
        raise ValueError(f"{name} must lie between 0 and {_MAX_RATE}")
    rate = rate.scaleb(scale)
    exponent = rate.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > _MAX_DIGITS_AFTER_POINT:
        raise ValueError(f"{name} may have {_MAX_DIGITS_AFTER_POINT} digits after the point, per token")
    return rate
