"""Admin pages whose every change is told in the audit trail, in the transaction of the change."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from audit import trail
from audit.changes import differences, fields_of


class AuditedAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """Tells of rows that are made, changed or deleted here, by form, inline form or action."""

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        before = _stored(type(obj), [obj.pk]).get(obj.pk, {}) if change else {}
        super().save_model(request, obj, form, change)
        tell(request, obj, before, fields_of(obj))

    def goes_along(self, obj: Any) -> Iterable[Model]:
        """Rows that give somebody a power and are deleted together with ``obj``."""
        return ()

    def links_of(self, obj: Any) -> dict[str, Any]:
        """What it is linked to by tables that have no page of their own: roles, permissions."""
        return {}

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        self._tell_of_end(request, obj)
        super().delete_model(request, obj)

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self._tell_of_end(request, row)
        super().delete_queryset(request, queryset)

    def _tell_of_end(self, request: HttpRequest, obj: Model) -> None:
        for row in self.goes_along(obj):
            tell(request, row, fields_of(row), {})
        tell(request, obj, {**fields_of(obj), **self.links_of(obj)}, {})

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        before = self.links_of(form.instance)
        super().save_related(request, form, formsets, change)
        tell(request, form.instance, before, self.links_of(form.instance))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        # By identity: a deleted row has lost its key when it comes back.
        keys = {id(inline.instance): inline.instance.pk for inline in formset.initial_forms}
        before = _stored(formset.model, list(keys.values()))
        super().save_formset(request, form, formset, change)
        for row in formset.new_objects:
            tell(request, row, {}, fields_of(row))
        for row, _ in formset.changed_objects:
            tell(request, row, before[row.pk], fields_of(row))
        for row in formset.deleted_objects:
            tell(request, row, before[keys[id(row)]], {}, pk=keys[id(row)])


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """Rows to look at, which nobody writes by hand."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def tell(
    request: HttpRequest, row: Model, before: dict[str, Any], after: dict[str, Any], *, pk: object = None
) -> None:
    """Append the audit entry of one row's change; nothing where nothing changed."""
    before, after = differences(before, after)
    if not before and not after:
        return
    target = str(row._meta.verbose_name).lower().replace(" ", "_")
    verb = "changed" if before and after else "created" if after else "deleted"
    trail.record(
        actor=actor_of(request),
        action=f"{target}_{verb}",
        target_type=target,
        target_id=row.pk if pk is None else pk,
        before=before,
        after=after,
        address=trail.address_of(request),
    )


def actor_of(request: HttpRequest) -> str:
    """How the trail names who is signed in."""
    return request.user.get_username()


def _stored(model: type[Model], keys: list[Any]) -> dict[Any, dict[str, Any]]:
    """The rows as the database has them (a form's own are changed already), held until they are saved."""
    stored = model._base_manager.select_for_update().filter(pk__in=keys).order_by("pk")
    return {row.pk: fields_of(row) for row in stored}
