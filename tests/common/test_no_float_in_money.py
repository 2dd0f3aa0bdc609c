"""No float in the money path: whatever module handles ``Decimal`` is of it, and may neither make nor name a float."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APPS = (
    "accounts",
    "analytics",
    "catalog",
    "common",
    "consumption",
    "finance",
    "keys",
    "metering",
    "quotas",
    "sla",
)
#: Module and function → what is no money there.
NOT_MONEY = {
    ("metering/usage.py", "UsageStatistics"): "latency and error rate",
    ("metering/usage.py", "_statistics"): "latency and error rate",
    ("consumption/reading_serializers.py", "UsageStatisticsSerializer"): "latency and error rate",
    ("consumption/dialects/marketplace.py", "_Options"): "how to sample",
    ("catalog/serializers.py", "OfferSerializer"): "objectives",
}
#: Handle decimal numbers, but of time and of tokens.
NO_MONEY_AT_ALL = {"sla"}


def money_modules() -> list[Path]:
    modules = [
        path
        for app in APPS
        if app not in NO_MONEY_AT_ALL
        for path in sorted((ROOT / app).rglob("*.py"))
        if "migrations" not in path.parts and "Decimal" in path.read_text()
    ]
    assert {"catalog/pricing.py", "finance/charges.py", "metering/lines.py", "quotas/limits.py"} <= {
        path.relative_to(ROOT).as_posix() for path in modules
    }
    return modules


def floats(tree: ast.AST, within: str = "") -> Iterator[tuple[str, int, str]]:
    """Function or class, line, and what makes or names a float there."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) and not within else within
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield inside, node.lineno, repr(node.value)
        elif isinstance(node, ast.Name) and node.id in {"float", "round"}:
            yield inside, node.lineno, node.id
        elif isinstance(node, ast.Attribute) and node.attr in {"FloatField", "from_float", "fsum"}:
            yield inside, node.lineno, node.attr
        yield from floats(node, inside)


@pytest.mark.parametrize("path", money_modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_float(path: Path) -> None:
    module = path.relative_to(ROOT).as_posix()
    found = [
        f"{module}:{line}: {what}"
        for within, line, what in floats(ast.parse(path.read_text()))
        if (module, within) not in NOT_MONEY
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["x = 0.1", "def f(): return float(1)", "y = round(z)", "class C: a = m.FloatField()"]
)
def test_a_float_is_found(text: str) -> None:
    assert [what for _, _, what in floats(ast.parse(text))] != []
