"""Policies for operators to write, every change in the audit trail; and what policies refused, to look at."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.audited_admin import AuditedAdmin, ReadOnlyAdmin
from policy.models import Policy, PolicyViolation

_HINT = """\
principal   Consumer::"<id>"   .residency ("" is anywhere)
resource    Service::"<id>"    .name  .region ("" is unknown)  .clearance
context                        .tier  .classification  .address (an IP address; not always known)

clearance and classification: 0 public, 1 internal, 2 confidential, 3 restricted

forbid (principal, action, resource)
when {
    context.tier == "basic" && resource.name like "large-*"
    || context has address && context.address.isInRange(ip("192.0.2.0/24"))
};
"""


@admin.register(Policy)
class PolicyAdmin(AuditedAdmin):
    list_display = ("id", "enabled", "severity", "fail_mode", "description")
    list_filter = ("enabled", "severity", "fail_mode")
    search_fields = ("id", "description", "text")
    fields = ("id", "description", "enabled", "severity", "fail_mode", "text", "what_a_policy_may_look_at")

    @admin.display
    def what_a_policy_may_look_at(self, policy: Policy) -> SafeString:
        return format_html("<pre>{}</pre>", _HINT)

    def get_readonly_fields(self, request: HttpRequest, obj: Policy | None = None) -> list[str]:
        # Another id would be another policy, and this one would stay.
        return ["what_a_policy_may_look_at", *(["id"] if obj else [])]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if db_field.name == "text":
            options["widget"] = forms.Textarea(
                attrs={"rows": 12, "cols": 100, "style": "font-family: monospace"}
            )
        return super().formfield_for_dbfield(db_field, request, **options)


class _ByPolicy(admin.SimpleListFilter):
    """The policies there are. Asking the violations which they know would read all of them."""

    title = "policy"
    parameter_name = "policy"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(id_, id_) for id_ in Policy.objects.values_list("id", flat=True)]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[PolicyViolation]
    ) -> QuerySet[PolicyViolation]:
        return queryset.filter(policy_id=self.value()) if self.value() else queryset


@admin.register(PolicyViolation)
class PolicyViolationAdmin(ReadOnlyAdmin):
    list_display = ("timestamp", "policy_id", "severity", "consumer", "service", "request_id")
    list_filter = ("severity", _ByPolicy, "timestamp", "service")
    list_select_related = ("consumer", "service")
    search_fields = ("request_id__exact",)
    search_help_text = "The whole id of a request"
