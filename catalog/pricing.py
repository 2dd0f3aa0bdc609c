"""Prices as pure functions: tokens and a price in, an exact ``Decimal`` out. ``pricing_shapes``: how they are written.

What a call costs follows from the call and its price alone. What depends on a month's total (an allowance, steps, a
fee, a least amount) is settled in lines of the month, and a call costs the highest rate that it may come to: see
``finance.charges``.
"""

from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import NamedTuple

import msgspec

from common.money import ZERO

#: Enough digits for every product of a rate and a 64-bit count, and a trap should that ever be wrong.
EXACT = Context(prec=60, traps=[InvalidOperation, Inexact])
#: Kinds of token that are a part of their group, in the order in which they are taken out of it.
GROUPS = {
    "prompt": ("cached", "cache_write", "audio_prompt"),
    "completion": ("reasoning", "audio_completion"),
}
PARTS = tuple(part for parts in GROUPS.values() for part in parts)
KINDS = (*GROUPS, *PARTS)
#: What is counted where there is one rate for all tokens, or one for a call.
TOKEN, REQUEST = "token", "request"


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one call. All others are parts of ``prompt`` or ``completion`` (``GROUPS``), and of one only:
    a token that is audio and was read from a cache is ``cached``."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0
    audio_prompt: int = 0
    audio_completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Step(NamedTuple):
    """A rate up to a month's quantity; None: beyond all others."""

    up_to: int | None
    rate: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """A parsed price. ``rates`` are per token, by kind, and empty where tokens cost nothing; ``single`` tells one rate
    for all of them from rates by kind. Each is the highest of its steps.

    ``steps``: by what is counted (a kind, ``TOKEN``, ``REQUEST``), where the rate depends on the month's quantity;
    ``volume``: the step that the whole quantity reaches holds for all of it. ``fee`` and ``least``: of a month.
    """

    model: str
    currency: str
    rates: dict[str, Decimal]
    per_request: Decimal = ZERO
    single: bool = False
    steps: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    volume: bool = False
    fee: Decimal = ZERO
    least: Decimal = ZERO
    #: Group, its rate, and the rates of its parts that have one.
    _groups: tuple[tuple[str, Decimal, tuple[tuple[str, Decimal], ...]], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        groups = tuple(
            (
                group,
                self.rates[group],
                tuple((part, self.rates[part]) for part in parts if part in self.rates),
            )
            for group, parts in GROUPS.items()
            if group in self.rates
        )
        object.__setattr__(self, "_groups", groups)

    @property
    def unit_rates(self) -> dict[str, Decimal]:
        """The rate of everything that is counted: of each kind, or of ``TOKEN``, or of ``REQUEST``."""
        if self.single:
            return {TOKEN: self.rates["prompt"]}
        if self.rates:
            return self.rates
        return {REQUEST: self.per_request} if self.model == "per_request" or self.per_request else {}

    def counts(self, tokens: Tokens, requests: int, *, are_changes: bool = False) -> dict[str, int]:
        """How much of each of ``unit_rates`` these tokens of so many charged calls are: each token once.

        ``are_changes``: by so much a call was corrected, so a part may be below zero, or beyond its group.
        """
        if self.single:
            return {TOKEN: tokens.total}
        if not self.rates:
            return dict.fromkeys(self.unit_rates, requests)
        found: dict[str, int] = {}
        for group, _, parts in self._groups:
            left = getattr(tokens, group)
            for kind, _ in parts:
                count = getattr(tokens, kind)
                found[kind] = count if are_changes else min(count, left)
                left -= found[kind]
            found[group] = left
        return found

    def cost(self, tokens: Tokens, *, charged: bool) -> Decimal:
        """The exact cost of one call. ``charged``: it succeeded, or at least one byte of it was delivered."""
        if not charged:
            return ZERO
        if self.single:
            return EXACT.multiply(self.rates["prompt"], tokens.total)
        if not self.rates:
            return self.per_request
        total = ZERO
        for group, rate, parts in self._groups:
            left = getattr(tokens, group)
            for kind, own in parts:
                count = getattr(tokens, kind)
                if count:
                    # Each token once, at its own rate instead of its group's.
                    count = min(count, left)
                    left -= count
                    total = EXACT.add(total, EXACT.multiply(own, count))
            if left:
                total = EXACT.add(total, EXACT.multiply(rate, left))
        return total
