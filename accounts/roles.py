"""The platform's roles: groups, and which permissions of the admin each has."""

from collections.abc import Iterable

from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.db.models import Q

from audit import trail
from audit.changes import differences

#: The marketplace's own apps. Users, groups and what Django brings along are not among them.
MARKETPLACE = (
    "accounts", "analytics", "audit", "catalog", "finance", "keys", "metering", "policy", "quotas", "sla",
)  # fmt: skip
#: What is known of money and usage, and needed to read it.
FINANCE = ("catalog", "finance", "keys", "metering", "quotas")
#: What only finance does: files of usage leave the house, months are closed.
FINANCE_ALONE = Q(content_type__app_label="finance") & ~Q(codename__startswith="view_")


def _every() -> Q:
    return Q()


def _in(apps: Iterable[str], *actions: str) -> Q:
    """Permissions of all models of some apps; all permissions where no actions are named."""
    chosen = Q(content_type__app_label__in=apps)
    if not actions:
        return chosen
    named = Q()
    for action in actions:
        named |= Q(codename__startswith=f"{action}_")
    return chosen & named


def _of(model: str, *actions: str) -> Q:
    app, _, name = model.partition(".")
    return Q(content_type__app_label=app, codename__in=[f"{action}_{name}" for action in actions])


ROLES: dict[str, Q | None] = {
    "super_admin": _every(),
    "admin": _in(MARKETPLACE)
    & ~Q(content_type__app_label="accounts", content_type__model="user")
    & ~FINANCE_ALONE
    | _of("accounts.user", "add", "change", "view"),
    "approver": _in(MARKETPLACE, "view")
    | _of("catalog.service", "change")
    | _of("catalog.priceversion", "approve"),
    "finance": _in(FINANCE, "view")
    | FINANCE_ALONE
    | _of("accounts.consumer", "view")
    | _of("accounts.consumerbudget", "view"),
    "viewer": _in(set(MARKETPLACE) - {"audit"}, "view") & ~_of("accounts.user", "view"),
    # Signs in over the REST API alone: what it may do follows from its memberships.
    "service_account": None,
}


@transaction.atomic
def sync_roles() -> None:
    """Make every role's group hold exactly its permissions. Safe to run at any time, and again."""
    for name, chosen in ROLES.items():
        group, created = Group.objects.get_or_create(name=name)
        before = {} if created else {"permissions": permissions_of(group)}
        group.permissions.set(
            Permission.objects.none() if chosen is None else Permission.objects.filter(chosen)
        )
        before, after = differences(before, {"permissions": permissions_of(group)})
        if after:
            trail.record(
                actor="sync_roles",
                action="group_created" if created else "group_changed",
                target_type="group",
                target_id=group.pk,
                before=before,
                after={"name": name, **after} if created else after,
            )


def permissions_of(group: Group) -> list[str]:
    """Codenames, as the trail tells them."""
    return sorted(group.permissions.values_list("codename", flat=True))
