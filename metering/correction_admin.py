"""Voids and corrections of usage, in the console."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from audit import trail
from audit.audited_admin import actor_of
from audit.noted_action import NoteForm, ask_for_note, note_of
from common.money import ZERO
from metering import corrections
from metering.corrections import Amounts, CorrectionRefused
from metering.journal import TOKEN_COUNTS
from metering.models import UsageRecord

_PERMISSION = "finance.correct_usage"


class CorrectionForm(NoteForm):
    """What is added to a call; negative takes away."""

    cost = forms.DecimalField(max_digits=38, decimal_places=18, initial=0, required=False)
    seen = forms.IntegerField(widget=forms.HiddenInput)
    field_order = (*TOKEN_COUNTS, "cost", "note")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in TOKEN_COUNTS:
            self.fields[name] = forms.IntegerField(
                min_value=-(2**53), max_value=2**53, initial=0, required=False
            )
        self.order_fields(self.field_order)

    def amounts(self) -> Amounts:
        """What is left empty is nothing."""
        return Amounts(
            **{name: self.cleaned_data[name] or 0 for name in TOKEN_COUNTS},
            cost=self.cleaned_data["cost"] or ZERO,
        )


class CorrectionPages(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """The action *Void* of a list of usage, and the page *Correct* of one row."""

    change_form_template = "metering/usage_record.html"
    actions = ("void",)

    def has_correct_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(_PERMISSION)

    @admin.action(description="Void: an unsettled call stays free", permissions=["correct"])
    def void(self, request: HttpRequest, records: QuerySet[UsageRecord]) -> TemplateResponse | None:
        note = note_of(request)
        if note is None:
            return ask_for_note(self, request, records, action="void", title="Void")
        voided = sum(self._void(request, record, note) for record in records)
        refused = len(records) - voided
        if voided:
            self.message_user(request, f"{voided} voided.", messages.SUCCESS)
        if refused:
            self.message_user(request, f"{refused} were not unsettled.", messages.WARNING)
        return None

    def _void(self, request: HttpRequest, record: UsageRecord, note: str) -> bool:
        try:
            corrections.void(record, note=note, actor=actor_of(request), address=trail.address_of(request))
        except CorrectionRefused:
            return False
        return True

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        shown = {"may_correct": self.has_correct_permission(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, shown)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.correct_view)
        return [
            path("<uuid:object_id>/correct/", view, name="metering_usagerecord_correct"),
            *super().get_urls(),
        ]

    def correct_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_correct_permission(request):
            raise PermissionDenied
        record = self.get_object(request, object_id)
        if record is None:
            raise Http404
        seen = len(corrections.rows_of(record.request_id))
        form = CorrectionForm(request.POST or None, initial={"seen": seen})
        if form.is_valid() and self._correct(request, record, form):
            return HttpResponseRedirect(
                reverse("admin:metering_usagerecord_changelist") + f"?q={record.request_id}"
            )
        context = {
            **self.admin_site.each_context(request),
            "form": form,
            "title": f"Correct {record}",
            "opts": self.opts,
        }
        return TemplateResponse(
            request, "metering/correction_form.html", context, status=400 if form.is_bound else 200
        )

    def _correct(self, request: HttpRequest, record: UsageRecord, form: CorrectionForm) -> bool:
        try:
            corrections.correct(
                record,
                form.amounts(),
                note=form.cleaned_data["note"],
                actor=actor_of(request),
                seen=form.cleaned_data["seen"],
                address=trail.address_of(request),
            )
        except CorrectionRefused as error:
            form.add_error(None, error.detail)
            return False
        return True
