"""Finance in the console: exports and reconciliations."""

import datetime as dt
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from audit import trail
from audit.audited_admin import ReadOnlyAdmin, actor_of
from catalog.models import PriceVersion
from common import clock
from finance import downloads, exports
from finance.errors import DownloadRefused
from finance.models import ArchiveStep, Difference, ExportJob, Reconciliation
from finance.periods_admin import ClosedMonthAdmin, GatewayAdmin
from finance.price_admin import PreviewedPriceVersionAdmin
from finance.reports_admin import ReportDeliveryAdmin, ReportScheduleAdmin
from finance.tasks import reconcile_books, run_export
from metering import archived

__all__ = [
    "ClosedMonthAdmin", "ExportJobAdmin", "GatewayAdmin", "ReconciliationAdmin", "ReportDeliveryAdmin",
    "ReportScheduleAdmin",
]  # fmt: skip


class OrderForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    """A range of UTC days, both included."""

    first = forms.DateField(label="From", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="To", widget=forms.DateInput(attrs={"type": "date"}))

    class Meta:
        model = ExportJob
        fields = ("format", "consumer")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        first, last = cleaned.get("first"), cleaned.get("last")
        if first and last and last < first:
            raise forms.ValidationError("The range ends before it begins.")
        if last and last >= dt.date.max:
            raise forms.ValidationError("The range ends too late.")
        if first and midnight(first) >= clock.now():
            raise forms.ValidationError("The range has not begun yet.")
        if (
            first
            and last
            and (away := archived.months_away_of(midnight(first), midnight(last + dt.timedelta(days=1))))
        ):
            raise forms.ValidationError(archived.sentence(away))
        if first and last and cleaned.get("format") == ExportJob.Format.STATEMENTS:
            _require_whole_months(first, last)
        return cleaned


def _require_whole_months(first: dt.date, last: dt.date) -> None:
    if not exports.are_whole_months(midnight(first), midnight(last + dt.timedelta(days=1))):
        raise forms.ValidationError("Statements are of whole months (UTC) that are over.")


def midnight(day: dt.date) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day, tzinfo=clock.UTC)


@admin.register(ExportJob)
class ExportJobAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "__str__", "consumer", "state", "progress", "ordered_by", "expires_at")
    list_filter = ("state", "format", "created_at")
    list_select_related = ("consumer",)
    fields = (
        "format", "start", "end", "consumer", "state", "progress", "attempts", "error", "ordered_by", "created_at",
        "finished_at", "expires_at", "totals", "sha256",
    )  # fmt: skip
    raw_id_fields = ("consumer",)
    actions = ("cancel",)
    change_form_template = "finance/export_job.html"

    def has_export_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("finance.export_usage")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_export_permission(request)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(
            request, obj, change=change, **({} if change else {"form": OrderForm}), **kwargs
        )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj else ("format", "first", "last", "consumer")

    @admin.display
    def progress(self, job: ExportJob) -> str:
        return f"{job.percent} %"

    @admin.display
    def totals(self, job: ExportJob) -> str:
        found = job.manifest or {}
        sums = [f"{amount} {currency}" for currency, amount in found.get("totals", {}).items()]
        return ", ".join([f"{found['rows']} rows", *sums]) if found else "-"

    @admin.display(description="SHA-256")
    def sha256(self, job: ExportJob) -> str:
        return str((job.manifest or {}).get("sha256", "-"))

    def save_model(self, request: HttpRequest, obj: ExportJob, form: Any, change: bool) -> None:
        job = exports.order(
            format=obj.format,
            start=midnight(form.cleaned_data["first"]),
            end=midnight(form.cleaned_data["last"] + dt.timedelta(days=1)),
            consumer=obj.consumer,
            actor=actor_of(request),
            address=trail.address_of(request),
        )
        obj.__dict__.update(job.__dict__)
        transaction.on_commit(partial(run_export.delay, str(job.id)))

    @admin.action(description="Cancel", permissions=["export"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[ExportJob]) -> None:
        address = trail.address_of(request)
        ended = sum(exports.cancel(job, actor=actor_of(request), address=address) for job in jobs)
        self.message_user(request, f"{ended} cancelled.", messages.SUCCESS if ended else messages.WARNING)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), **self._links(request, object_id)}
        )

    def _links(self, request: HttpRequest, object_id: str) -> dict[str, str]:
        """Good for a few minutes from when the page is shown."""
        job = self.get_object(request, object_id)
        if job is None or not self.has_export_permission(request) or exports.file_of(job) is None:
            return {}
        token = downloads.sign(job, user=request.user)  # type: ignore[arg-type] # signed in
        url = reverse("admin:finance_exportjob_download")
        return {
            f"{part}_url": f"{url}?{urlencode({'token': token, 'part': part})}"
            for part in ("file", "manifest")
        }

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.download_view)
        return [path("download/", view, name="finance_exportjob_download"), *super().get_urls()]

    def download_view(self, request: HttpRequest) -> FileResponse:
        try:
            found = downloads.redeem(
                request.GET.get("token", ""),
                user=request.user,  # type: ignore[arg-type] # signed in
                part=request.GET.get("part", "file"),
                address=trail.address_of(request),
            )
        except DownloadRefused as error:
            raise PermissionDenied from error
        return FileResponse(found.path.open("rb"), as_attachment=True, filename=found.name)


class DifferenceInline(admin.TabularInline):  # type: ignore[type-arg] # generic in the stubs alone
    model = Difference
    fields = ("source", "month", "consumer", "service", "export", "ledger", "other", "cause")
    readonly_fields = fields
    can_delete = False
    extra = 0
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Difference]:
        # Looked up apart: a join would drop rows whose consumer is gone.
        return super().get_queryset(request).prefetch_related("consumer", "service", "export")


@admin.register(Reconciliation)
class ReconciliationAdmin(ReadOnlyAdmin):
    list_display = ("finished_at", "state", "found", "pairs", "counters_compared", "asked_by")
    list_filter = ("finished_at", "counters_compared")
    fields = (
        "state",
        "started_at",
        "finished_at",
        "months",
        "pairs",
        "found",
        "counters_compared",
        "asked_by",
    )
    inlines = (DifferenceInline,)
    change_list_template = "finance/reconciliations.html"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        may_reconcile = request.user.has_perm("finance.reconcile_books")
        return super().changelist_view(request, {"may_reconcile": may_reconcile, **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.now_view)
        return [path("now/", view, name="finance_reconciliation_now"), *super().get_urls()]

    def now_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not request.user.has_perm("finance.reconcile_books"):
            raise PermissionDenied
        reconcile_books.delay(actor_of(request))
        self.message_user(request, "The books are being compared; this page shows the result in a moment.")
        return HttpResponseRedirect(reverse("admin:finance_reconciliation_changelist"))


@admin.register(ArchiveStep)
class ArchiveStepAdmin(ReadOnlyAdmin):
    list_display = ("month", "step", "at", "by", "rows", "totals", "file")
    list_filter = ("step",)


# A price is put up for sale below; what it would bring is known here.
admin.site.unregister(PriceVersion)
admin.site.register(PriceVersion, PreviewedPriceVersionAdmin)
