"""Reports of every month in the console: what, to whom, and what became of each."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from audit import trail
from audit.audited_admin import AuditedAdmin, ReadOnlyAdmin, actor_of
from catalog.credentials import validate_credential
from finance import reports
from finance.models import ReportDelivery, ReportSchedule


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    secret_key = forms.CharField(
        required=False,
        validators=[validate_credential],
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60}),
        help_text="Sets it, or replaces the one that is set. It is never shown again.",
    )

    class Meta:
        model = ReportSchedule
        fields = (
            "name", "format", "consumer", "day", "is_active", "channel", "recipients", "endpoint", "region", "bucket",
            "folder", "access_key",
        )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("secret_key") and cleaned.get("endpoint"):
            self.instance.endpoint = cleaned["endpoint"]
            self.instance.set_credential(cleaned["secret_key"])
        return cleaned


@admin.register(ReportSchedule)
class ReportScheduleAdmin(AuditedAdmin):
    form = ScheduleForm
    list_display = ("name", "format", "consumer", "channel", "day", "is_active", "created_by")
    list_filter = ("is_active", "channel", "format")
    list_select_related = ("consumer",)
    raw_id_fields = ("consumer",)
    _WHAT = (None, {"fields": ("name", "format", "consumer", "day", "is_active", "channel")})
    _MAIL = ("E-mail", {"fields": ("recipients",)})
    _BUCKET = ("Bucket", {"fields": ("endpoint", "region", "bucket", "folder", "access_key", "secret_key")})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_add_permission(request) or self.has_change_permission(request, obj):
            return (self._WHAT, self._MAIL, self._BUCKET)
        shown = [name for name in self._BUCKET[1]["fields"] if name != "secret_key"]
        return (self._WHAT, self._MAIL, ("Bucket", {"fields": shown}))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It is switched off, so that what was sent stays on record."""
        return False

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if isinstance(obj, ReportSchedule) and not change:
            obj.created_by = actor_of(request)
        super().save_model(request, obj, form, change)


@admin.register(ReportDelivery)
class ReportDeliveryAdmin(ReadOnlyAdmin):
    list_display = ("month", "schedule", "state", "attempts", "attempted_at", "sent_at", "error")
    list_filter = ("state", "month", "schedule")
    list_select_related = ("schedule",)
    actions = ("again",)

    def has_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("finance.send_report")

    @admin.action(description="Send again", permissions=["again"])
    def again(self, request: HttpRequest, chosen: QuerySet[ReportDelivery]) -> None:
        done = [delivery for delivery in chosen if reports.send_again(delivery)]
        for delivery in done:
            trail.record(
                actor=actor_of(request),
                action="report.sent_again",
                target_type="report_deliveries",
                target_id=delivery.pk,
                after={"month": f"{delivery.month:%Y-%m}", "schedule": delivery.schedule_id},
                address=trail.address_of(request),
            )
        self.message_user(
            request, f"{len(done)} will be sent again.", messages.SUCCESS if done else messages.WARNING
        )
