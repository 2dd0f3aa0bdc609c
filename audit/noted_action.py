"""Actions of the console that want a reason: chosen rows, a page that asks why, then the deed."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse


class NoteForm(forms.Form):
    note = forms.CharField(
        max_length=1000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Why, for the trail."
    )


def note_of(request: HttpRequest) -> str | None:
    """The reason that was sent along; None where none was."""
    form = NoteForm(request.POST)
    return form.cleaned_data["note"] if form.is_valid() else None


def ask_for_note(
    page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: QuerySet[Any], *, action: str, title: str
) -> TemplateResponse:
    """The page that comes back with the same action, the same rows, and a reason."""
    context = {
        **page.admin_site.each_context(request),
        "title": title,
        "opts": page.opts,
        "action": action,
        "rows": rows,
        "chosen": ACTION_CHECKBOX_NAME,
        "form": NoteForm(request.POST if "note" in request.POST else None),
    }
    return TemplateResponse(request, "audit/note.html", context)
