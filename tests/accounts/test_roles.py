"""What each platform role may do in the console."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command

from accounts.models import User
from accounts.roles import ROLES, sync_roles
from audit.models import AuditEntry
from tests.console import console, operator, posted
from tests.factories import make_member, make_user

pytestmark = pytest.mark.django_db


def permissions(role: str) -> set[str]:
    found = Permission.objects.filter(group__name=role).values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in found}


def test_the_roles_are_there_and_running_it_again_changes_nothing() -> None:
    Group.objects.all().delete()
    call_command("sync_roles")
    first = {role: permissions(role) for role in ROLES}
    call_command("sync_roles")
    assert {role: permissions(role) for role in ROLES} == first
    assert set(first) == {"super_admin", "admin", "approver", "finance", "viewer", "service_account"}


def test_a_permission_given_to_a_role_by_hand_does_not_stay() -> None:
    sync_roles()
    Group.objects.get(name="viewer").permissions.add(Permission.objects.get(codename="add_tier"))
    sync_roles()
    assert "catalog.add_tier" not in permissions("viewer")


def test_what_each_role_may() -> None:
    sync_roles()
    assert permissions("service_account") == set()
    assert len(permissions("super_admin")) == Permission.objects.count()
    assert all(name.partition(".")[2].startswith("view_") for name in permissions("viewer"))
    assert {"metering.view_usagerecord", "catalog.view_service"} <= permissions("viewer")
    assert not {"accounts.view_user", "audit.view_auditentry"} & permissions("viewer")
    assert {
        "metering.view_usagerecord",
        "catalog.view_priceversion",
        "accounts.view_consumer",
    } <= permissions("finance")
    written = {n for n in permissions("finance") if ".add_" in n or ".change_" in n or ".delete_" in n}
    assert written == {"finance.add_reportschedule", "finance.change_reportschedule"}
    assert permissions("approver") - permissions("viewer") == {
        "accounts.view_user",
        "audit.view_auditentry",
        "catalog.change_service",
        "catalog.approve_priceversion",
    }
    assert {"keys.add_apikey", "catalog.change_tier", "accounts.change_user"} <= permissions("admin")
    assert not {"auth.change_group", "accounts.delete_user"} & permissions("admin")


def test_an_admin_cannot_make_anybody_powerful() -> None:
    person = make_user()
    admin_group = operator("admin").groups.get()
    client = console(operator("admin"))
    posted(
        client,
        f"/admin/accounts/user/{person.pk}/change/",
        **{
            "username": person.username, "email": "new@example.com", "is_active": "on",
            "is_staff": "on", "is_superuser": "on", "groups": [str(admin_group.pk)],
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
            "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0,
            "identities-TOTAL_FORMS": 0, "identities-INITIAL_FORMS": 0,
        },
    )  # fmt: skip
    person.refresh_from_db()
    assert person.email == "new@example.com"
    assert (person.is_staff, person.is_superuser, person.groups.count()) == (False, False, 0)


@pytest.mark.parametrize("page", ["change/", "password/", "delete/"])
@pytest.mark.parametrize("flag", ["is_staff", "is_superuser"])
def test_an_admin_cannot_take_over_the_powerful(page: str, flag: str) -> None:
    powerful = make_user(
        password="untouched", is_staff=flag == "is_staff", is_superuser=flag == "is_superuser"
    )
    url = f"/admin/accounts/user/{powerful.pk}/{page}"
    response = console(operator("admin")).post(
        url,
        {"username": "taken", "password1": "Another Pass 1!", "password2": "Another Pass 1!", "post": "yes"},
    )
    assert response.status_code == 403
    powerful.refresh_from_db()
    assert powerful.check_password("untouched")
    assert powerful.username != "taken"


def test_a_super_admin_gives_roles_and_the_trail_tells_of_it() -> None:
    boss, person = operator("super_admin"), make_user()
    finance = Group.objects.get(name="finance")
    posted(
        console(boss),
        f"/admin/accounts/user/{person.pk}/change/",
        **{
            "username": person.username, "is_active": "on", "is_staff": "on", "groups": [str(finance.pk)],
            "date_joined_0": f"{person.date_joined:%Y-%m-%d}", "date_joined_1": f"{person.date_joined:%H:%M:%S}",
            "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0,
            "identities-TOTAL_FORMS": 0, "identities-INITIAL_FORMS": 0,
        },
    )  # fmt: skip
    assert [group.name for group in User.objects.get(pk=person.pk).groups.all()] == ["finance"]
    told = [(e.actor, e.action, e.before, e.after) for e in AuditEntry.objects.order_by("id")]
    assert (boss.username, "user_changed", {"groups": []}, {"groups": ["finance"]}) in told
    assert not any("password" in {**e.before, **e.after} for e in AuditEntry.objects.all())


def test_a_change_of_what_a_role_may_is_told() -> None:
    boss = operator("super_admin")
    role = Group.objects.create(name="auditor")
    view = Permission.objects.get(codename="view_auditentry")
    posted(console(boss), f"/admin/auth/group/{role.pk}/change/", name="auditor", permissions=[view.pk])
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == (boss.username, "group_changed", str(role.pk))
    assert (entry.before, entry.after) == ({"permissions": []}, {"permissions": ["view_auditentry"]})


def told() -> list[tuple[str, str, str, dict[str, object], dict[str, object]]]:
    rows = AuditEntry.objects.order_by("id")
    return list(rows.values_list("actor", "action", "target_id", "before", "after"))


def test_making_the_roles_is_told_and_so_is_what_is_put_right() -> None:
    viewer = Group.objects.get(name="viewer")
    viewer.permissions.add(Permission.objects.get(codename="add_tier"))
    Group.objects.get(name="service_account").delete()
    call_command("sync_roles")
    kept = sorted(viewer.permissions.values_list("codename", flat=True))
    made = Group.objects.get(name="service_account")
    assert told() == [
        ("sync_roles", "group_changed", str(viewer.pk), {"permissions": sorted([*kept, "add_tier"])},
         {"permissions": kept}),
        ("sync_roles", "group_created", str(made.pk), {}, {"name": "service_account", "permissions": []}),
    ]  # fmt: skip


def test_a_superuser_made_on_the_command_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "Never Told 1")
    call_command("createsuperuser", username="root", email="root@example.com", interactive=False, verbosity=0)
    ((actor, action, target, before, after),) = told()
    assert (actor, action, target, before) == (
        "createsuperuser",
        "user_created",
        str(User.objects.get().pk),
        {},
    )
    assert (after["username"], after["is_superuser"], after["is_staff"]) == ("root", True, True)
    assert "password" not in after


def test_a_deleted_person_is_told_with_the_roles_that_went_along() -> None:
    boss, member = operator("super_admin"), make_member()
    member.user.groups.add(Group.objects.get(name="finance"))
    client = console(boss)
    chosen = {"action": "delete_selected", "_selected_action": [member.user.pk], "post": "yes"}
    assert client.post("/admin/accounts/user/", chosen).status_code == 302
    assert [(actor, action, target) for actor, action, target, _, _ in told()] == [
        (boss.username, "membership_deleted", str(member.pk)),
        (boss.username, "user_deleted", str(member.user_id)),
    ]
    assert told()[0][3]["role"] == "owner"
    assert told()[1][3]["groups"] == ["finance"]


def test_a_deleted_role_is_told_with_who_had_it() -> None:
    boss, person = operator("super_admin"), make_user()
    finance = Group.objects.get(name="finance")
    person.groups.add(finance)
    assert console(boss).post(f"/admin/auth/group/{finance.pk}/delete/", {"post": "yes"}).status_code == 302
    ((_, action, _, before, _),) = told()
    assert (action, before["name"], before["people"]) == ("group_deleted", "finance", [person.username])


def test_a_password_set_for_somebody_is_told_and_not_what_it_is() -> None:
    boss, person = operator("super_admin"), make_user(password="Before That 1")
    url = f"/admin/accounts/user/{person.pk}/password/"
    fields = {"password1": "After That 2", "password2": "After That 3", "usable_password": "true"}
    assert console(boss).post(url, fields).status_code == 200
    assert told() == []
    assert console(boss).post(url, fields | {"password2": "After That 2"}).status_code == 302
    assert told() == [(boss.username, "user_password_changed", str(person.pk), {}, {})]
