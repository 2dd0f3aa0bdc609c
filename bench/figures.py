"""A figure, what it must be at least, what it aims at, and the table of them."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`at_least` and `aim` are bounds of the same side: lower ones where more is better, else upper ones."""

    name: str
    measured: float
    at_least: float
    aim: float
    unit: str = ""
    more_is_better: bool = False
    # How far the single measurements were apart, lowest and highest.
    spread: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        if math.isnan(self.measured):
            return "not measured"
        if self._reaches(self.aim):
            return "aim"
        return "met" if self._reaches(self.at_least) else "MISSED"

    def _reaches(self, bound: float) -> bool:
        return self.measured >= bound if self.more_is_better else self.measured <= bound

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}

    def row(self) -> list[str]:
        sign = "≥" if self.more_is_better else "≤"
        spread = f"{number(self.spread[0])} to {number(self.spread[1])}" if self.spread else ""
        return [
            self.name, f"{sign} {number(self.at_least)}", f"{sign} {number(self.aim)}",
            number(self.measured), self.unit, spread, self.verdict,
        ]  # fmt: skip


HEAD = ["figure", "at least", "aim", "measured", "", "spread", "verdict"]


def number(value: float) -> str:
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
