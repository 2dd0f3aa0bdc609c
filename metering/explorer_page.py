"""The usage explorer of the console: filters, a chart, a table whose lines open further, and what moved."""

import datetime as dt
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from catalog.models import Service
from common import clock
from common.money import plain
from metering import explorer
from metering.consumers import consumers_meant
from metering.explorer import GROUPS, MOST_DAYS, MOST_ROWS, Question, Row, Sums
from metering.models import UsageRecord

MEASURES = {"cost": "Cost", "total_tokens": "Tokens", "calls": "Calls"}
#: Height of the chart's columns, in its own units.
HEIGHT = 100
_DAY = forms.DateInput(attrs={"type": "date"})


class ExplorerForm(forms.Form):
    """UTC days, both included; of which consumer, service, key and status; grouped and drawn by what."""

    first = forms.DateField(label="From", widget=_DAY)
    last = forms.DateField(label="To", widget=_DAY)
    by = forms.ChoiceField(choices=[(group, group.capitalize()) for group in GROUPS])
    measure = forms.ChoiceField(choices=list(MEASURES.items()))
    consumer = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"placeholder": "id or name"}), max_length=200
    )
    service = forms.ModelChoiceField(
        Service.objects.order_by("name", "version"), required=False, empty_label="All"
    )
    key = forms.UUIDField(required=False, widget=forms.TextInput(attrs={"placeholder": "id"}))
    status = forms.ChoiceField(required=False, choices=[("", "All"), *UsageRecord.Status.choices])

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        first, last = cleaned.get("first"), cleaned.get("last")
        if first and last and not 0 <= (last - first).days < MOST_DAYS:
            raise forms.ValidationError(f"The range must have 1 to {MOST_DAYS} days.")
        if (first and first.year < 2000) or (last and last.year > 9000):
            raise forms.ValidationError("The range lies too far away.")
        return cleaned

    @property
    def question(self) -> Question:
        """What a valid form asks."""
        asked = self.cleaned_data
        return Question(
            asked["first"],
            asked["last"],
            asked["by"],
            consumers=tuple(consumers_meant(asked["consumer"])) if asked["consumer"] else None,
            service=asked["service"] and asked["service"].id,
            key=asked["key"],
            status=asked["status"] or None,
        )


def usual() -> dict[str, Any]:
    """What is asked where nothing is: the last thirty days, day by day."""
    today = clock.now().date()
    return {"first": today - dt.timedelta(days=29), "last": today, "by": "day", "measure": "cost"}


def explore(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The page. Raises ``PermissionDenied`` for whoever may not see rollups."""
    if not request.user.has_perm("metering.view_usagerollup"):
        raise PermissionDenied
    given = request.GET.dict()
    form = ExplorerForm({**usual(), **given} if given else usual())
    context = {
        **site.each_context(request), "title": "Usage", "form": form, "opts": UsageRecord._meta, "most": MOST_ROWS,
    }  # fmt: skip
    if form.is_valid():
        context |= _answer(form)
    return TemplateResponse(
        request, "metering/explorer.html", context, status=200 if form.is_valid() else 400
    )


def _answer(form: ExplorerForm) -> dict[str, Any]:
    question, measure = form.question, form.cleaned_data["measure"]
    rows = explorer.rows(question)
    highest = max([_size(row.sums, measure) for row in rows], default=Decimal(0))
    lines = [_line(form, row, _share(_size(row.sums, measure), highest)) for row in rows]
    moves = [
        {
            "label": move.row.label,
            "before": plain(move.before),
            "now": plain(move.row.sums.cost),
            "change": f"{'+' if move.change > 0 else ''}{plain(move.change)}",
            "currency": move.row.sums.currency,
        }
        for move in explorer.movers(question)
    ]
    return {
        "lines": lines,
        "totals": [_told(sums) for sums in explorer.totals(question)],
        "moves": moves,
        "by": question.by,
        "is_chart": question.by in ("day", "month"),
        "measure": MEASURES[measure],
        "width": len(lines) * 10,
        "records_url": reverse("admin:metering_usagerecord_changelist"),
    }


def _size(sums: Sums, measure: str) -> Decimal:
    return Decimal(getattr(sums, measure))


def _share(size: Decimal, of: Decimal) -> int:
    """Hundredths, and never nothing of something."""
    return max(1, int(size * HEIGHT / of)) if size > 0 else 0


def _told(sums: Sums) -> dict[str, Any]:
    return {
        "calls": sums.calls,
        "errors": sums.errors,
        "prompt": sums.prompt_tokens,
        "completion": sums.completion_tokens,
        "cached": sums.cached_tokens,
        "reasoning": sums.reasoning_tokens,
        "tokens": sums.total_tokens,
        "cost": plain(sums.cost),
        "currency": sums.currency,
    }


def _line(form: ExplorerForm, row: Row, share: int) -> dict[str, Any]:
    return {
        "label": row.label,
        "share": share,
        "rest": HEIGHT - share,
        "url": _deeper(form, row),
        **_told(row.sums),
    }


def _deeper(form: ExplorerForm, row: Row) -> str | None:
    """The question that a line opens: what it is made of."""
    asked = {name: value for name, value in form.data.items() if name in form.fields and value}
    match form.cleaned_data["by"]:
        case "month":
            last = clock.next_month(row.id) - dt.timedelta(days=1)
            days = {
                "first": max(row.id, form.cleaned_data["first"]),
                "last": min(last, form.cleaned_data["last"]),
            }
            asked |= {**days, "by": "day"}
        case "day":
            asked |= {"first": row.id, "last": row.id, "by": "consumer"}
        case "consumer":
            asked |= {"consumer": row.id, "by": "service"}
        case "service":
            asked |= {"service": row.id, "by": "key"}
        case "key":
            asked |= {"key": row.id, "by": "day"}
        case "status":
            asked |= {"status": row.id, "by": "day"}
        case _:
            return None
    return f"?{urlencode(asked)}"
