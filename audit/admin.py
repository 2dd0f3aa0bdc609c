"""The audit trail, to read."""

import json
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.text import Truncator

from audit.audited_admin import ReadOnlyAdmin
from audit.models import AuditEntry


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("at", "actor", "action", "short_target", "changes", "address")
    list_display_links = ("at", "action")
    list_filter = ("at", "target_type", "action")
    search_fields = ("actor__exact", "target_id__exact", "action__exact")
    search_help_text = "Actor, id of what was changed, or action: exactly."
    fields = ("at", "actor", "address", "action", "target", "was", "became")
    readonly_fields = fields
    show_full_result_count = False

    @admin.display(description="target")
    def target(self, entry: AuditEntry) -> str:
        return f"{entry.target_type} {entry.target_id}"

    @admin.display(description="target")
    def short_target(self, entry: AuditEntry) -> str:
        """The first group of a UUID is enough to tell rows apart; the whole is in the tooltip."""
        short = entry.target_id.partition("-")[0]
        return format_html('<span title="{}">{} {}</span>', entry.target_id, entry.target_type, short)

    @admin.display(description="what changed")
    def changes(self, entry: AuditEntry) -> str:
        names = list({**entry.before, **entry.after})
        if entry.before and entry.after:
            told = [f"{name}: {entry.before.get(name)} → {entry.after.get(name)}" for name in names]
        else:
            told = [f"{name}: {value}" for name, value in {**entry.before, **entry.after}.items() if value]
        return Truncator(", ".join(told)).chars(160)

    @admin.display(description="before")
    def was(self, entry: AuditEntry) -> str:
        return _pretty(entry.before)

    @admin.display(description="after")
    def became(self, entry: AuditEntry) -> str:
        return _pretty(entry.after)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).order_by("-id")


def _pretty(value: dict[str, Any]) -> str:
    if not value:
        return "—"
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))
