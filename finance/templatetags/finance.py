"""What pages of the console show of finance."""

from decimal import Decimal
from typing import Any

from django import template

from common.money import grouped, minor_units, plain
from finance import reconciliation

register = template.Library()
register.filter("plain", plain)
register.filter("grouped", grouped)


@register.filter
def money(amount: Decimal, currency: str) -> str:
    """What is payable, with all digits of its currency's smallest unit."""
    return f"{amount:,.{minor_units(currency)}f}"


@register.inclusion_tag("finance/reconciliation_line.html", takes_context=True)
def reconciliation_line(context: dict[str, Any]) -> dict[str, Any]:
    """The state of the books in one line, for whoever may see reconciliations."""
    may_view = context["request"].user.has_perm("finance.view_reconciliation")
    return {"may_view": may_view, "latest": reconciliation.latest() if may_view else None}
