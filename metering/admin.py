"""The ledger and what belongs to it, to look at. Only dead letters can be acted upon: by sending them again."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import ShowFacets
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from redis import RedisError

from audit import trail
from audit.audited_admin import ReadOnlyAdmin, actor_of
from audit.noted_action import ask_for_note, note_of
from common.money import plain
from common.paginators import BoundedPaginator
from metering import archived, dead_letters, explorer_page, export
from metering.consumers import consumers_meant, uuid_of
from metering.correction_admin import CorrectionPages
from metering.models import (
    DeadLetter,
    JournalBatch,
    JournalPosition,
    QuotaPeriod,
    ShardEpoch,
    UsageRecord,
    UsageRollup,
)


class ReadOnly(ReadOnlyAdmin):
    """Large tables that only the drain writes."""

    paginator = BoundedPaginator
    show_facets = ShowFacets.NEVER


class ConsumerFilter(admin.SimpleListFilter):
    """A box for a consumer's id or name: a list of all consumers would be too long."""

    title = "consumer"
    parameter_name = "of_consumer"
    template = "metering/consumer_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Iterator[Any]:
        others = [
            (name, value)
            for name, values in changelist.filter_params.items()
            for value in values
            if name != self.parameter_name
        ]
        yield {"others": others, "parameter": self.parameter_name, "value": self.value() or ""}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        text = (self.value() or "").strip()
        return queryset.filter(consumer_id__in=consumers_meant(text)) if text else queryset


class ExportForm(forms.Form):
    """A range of UTC days, both included."""

    start = forms.DateField(label="From", widget=forms.DateInput(attrs={"type": "date"}))
    end = forms.DateField(label="To", widget=forms.DateInput(attrs={"type": "date"}))

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        start, end = cleaned.get("start"), cleaned.get("end")
        if start and end and end < start:
            raise forms.ValidationError("The range ends before it begins.")
        if end and end >= dt.date.max:
            raise forms.ValidationError("The range ends too late.")
        if start and end and (away := export.months_away(start, end)):
            raise forms.ValidationError(archived.sentence(away))
        return cleaned


@admin.register(UsageRecord)
class UsageRecordAdmin(CorrectionPages, ReadOnly):
    list_display = (
        "id", "timestamp", "consumer", "service", "status", "total_tokens", "price", "duration_ms", "kind",
        "settlement",
    )  # fmt: skip
    list_filter = ("timestamp", "status", "kind", "settlement", ConsumerFilter, "service")
    # The key is made of time: the same order as by timestamp, and there is an index of it.
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("id",)
    search_help_text = "A request id, or the id of a consumer or a service."
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRecord]:
        # Looked up apart: a join would drop rows whose consumer is gone.
        return super().get_queryset(request).prefetch_related("consumer", "service")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        id_ = uuid_of(search_term)
        if id_ is None:
            return queryset.none(), False
        by_request = queryset.filter(Q(id=id_) | Q(corrects=id_, kind=UsageRecord.Kind.CORRECTION))
        if by_request.exists():
            return by_request, False
        return queryset.filter(Q(consumer_id=id_) | Q(service_id=id_)), False

    @admin.display(description="cost")
    def price(self, record: UsageRecord) -> str:
        return f"{plain(record.cost_amount)} {record.currency}"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or export.may_export(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return super().has_module_permission(request) or export.may_export(request.user)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        shown = {"may_export": export.may_export(request.user), **(extra_context or {})}
        if away := archived.months_away():
            self.message_user(request, archived.sentence(away), messages.WARNING)
        return super().changelist_view(request, shown)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name="metering_usagerecord_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """The form, and with both days given the CSV itself."""
        if not export.may_export(request.user):
            raise PermissionDenied
        form = ExportForm(request.GET or None)
        if form.is_valid():
            return _csv(request, form.cleaned_data["start"], form.cleaned_data["end"])
        context = {
            **self.admin_site.each_context(request),
            "form": form,
            "title": "Export usage",
            "opts": self.opts,
            "action": reverse("admin:metering_usagerecord_export"),
        }
        status = 400 if form.is_bound else 200
        return TemplateResponse(request, "metering/export_form.html", context, status=status)


def _csv(request: HttpRequest, first: dt.date, last: dt.date) -> StreamingHttpResponse:
    trail.record(
        actor=request.user.get_username(),
        action="usage.exported",
        target_type="usage_records",
        target_id=f"{first}..{last}",
        address=request.META.get("REMOTE_ADDR") or None,
    )
    response = StreamingHttpResponse(
        export.csv_lines(first=first, last=last), content_type="text/csv; charset=utf-8"
    )
    response["Content-Disposition"] = f'attachment; filename="usage_{first}_{last}.csv"'
    return response


@admin.register(UsageRollup)
class UsageRollupAdmin(ReadOnly):
    list_display = (
        "hour", "consumer", "service", "tier", "status", "kind", "requests", "total_tokens", "price",
    )  # fmt: skip
    list_filter = ("hour", "status", ConsumerFilter, "service")
    list_per_page = 50

    change_list_template = "metering/rollups.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRollup]:
        return super().get_queryset(request).prefetch_related("consumer", "service", "tier")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.explore_view)
        return [path("explore/", view, name="metering_usagerollup_explore"), *super().get_urls()]

    def explore_view(self, request: HttpRequest) -> HttpResponse:
        return explorer_page.explore(request, self.admin_site)

    @admin.display(description="cost")
    def price(self, rollup: UsageRollup) -> str:
        return f"{plain(rollup.cost_amount)} {rollup.currency}"


@admin.register(QuotaPeriod)
class QuotaPeriodAdmin(ReadOnly):
    list_display = ("month", "consumer", "service", "used", "granted")
    list_filter = ("month", ConsumerFilter, "service")

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuotaPeriod]:
        return super().get_queryset(request).prefetch_related("consumer", "service")


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly):
    list_display = ("created_at", "shard", "stream_id", "reason", "detail", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter), "reason", "created_at", "shard")
    search_fields = ("=stream_id", "detail")
    fields = (
        "shard", "epoch", "stream_id", "reason", "detail", "settlement", "entry_text", "created_at",
        "resolved_at",
    )  # fmt: skip
    actions = ("retry", "set_aside")

    @admin.display(description="entry")
    def entry_text(self, letter: DeadLetter) -> str:
        return bytes(letter.entry).decode("utf-8", "replace")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("metering.change_deadletter")

    @admin.action(description="Journal again", permissions=["retry"])
    def retry(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> None:
        try:
            sent = dead_letters.retry(letters, actor=request.user.get_username())
        except RedisError:
            self.message_user(request, "Valkey does not answer; try again later.", messages.ERROR)
            return
        self.message_user(request, f"{sent} entries are in the journal again.")

    def has_set_aside_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("finance.correct_usage")

    @admin.action(description="Set aside: it stays out of the ledger", permissions=["set_aside"])
    def set_aside(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> TemplateResponse | None:
        note = note_of(request)
        if note is None:
            return ask_for_note(self, request, letters, action="set_aside", title="Set aside")
        count = dead_letters.set_aside(
            letters, note=note, actor=actor_of(request), address=trail.address_of(request)
        )
        self.message_user(request, f"{count} set aside.")
        return None


@admin.register(JournalPosition)
class JournalPositionAdmin(ReadOnly):
    list_display = ("shard", "epoch", "last_id", "batch")


@admin.register(ShardEpoch)
class ShardEpochAdmin(ReadOnly):
    list_display = ("shard", "number", "state", "changed_at")
    list_filter = ("state",)


@admin.register(JournalBatch)
class JournalBatchAdmin(ReadOnly):
    list_display = ("shard", "number", "drained_at")
    list_filter = ("shard", "drained_at")
    ordering = ("-id",)
