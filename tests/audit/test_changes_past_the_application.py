"""Raw SQL, ``update()`` and ``bulk_create()`` leave their entry in the trail as well, once, and break no chain."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Model
from psycopg2 import sql

from accounts.models import Consumer, ConsumerBudget, ExternalIdentity, Membership, User
from audit import trail
from audit.audited_admin import AuditedAdmin
from audit.changes import SECRETS
from audit.models import AuditEntry
from audit.ownership import audited_tables
from catalog.models import Endpoint, Entitlement, PriceVersion, Service, Tier
from finance.models import ReportSchedule
from keys.models import ApiKey
from policy.models import Policy
from tests.factories import PER_REQUEST, make_consumer, make_endpoint, make_key, make_service, make_user
from tests.superuser import superuser_cursor

Told = tuple[str, str, dict[str, Any], dict[str, Any]]


def a_link(links: Any, row: Model) -> Model:
    """The row of a many-to-many table that ``add`` makes."""
    links.add(row)
    made: Model = links.through.objects.latest("pk")
    return made


def a_budget() -> ConsumerBudget:
    return ConsumerBudget.objects.create(consumer=make_consumer(), amount="2.5", currency="USD", period="day")


def an_entitlement() -> Entitlement:
    make_key()
    return Entitlement.objects.get()


def a_key() -> ApiKey:
    return make_key(budget_amount="1.5", budget_currency="USD", budget_period="day")[0]


def a_price() -> PriceVersion:
    return make_service().price_versions.get()


def a_service() -> Service:
    return Service.objects.create(
        name="s", version="1", endpoint="http://127.0.0.1:9/v1", pricing=PER_REQUEST
    )


#: What the trail calls it → how a row is made, which column is changed, and to what (None: it cannot be).
AUDITED: dict[str, tuple[Callable[[], Model], str, Any]] = {
    "api_key": (a_key, "requests_per_second", 7),
    "user": (make_user, "is_superuser", True),
    "group": (lambda: Group.objects.create(name="auditors"), "name", "admins"),
    "group_permission": (
        lambda: a_link(Group.objects.create(name="auditors").permissions, Permission.objects.first()),  # type: ignore[arg-type]
        "permission_id",
        Permission,
    ),
    "user_group": (lambda: a_link(make_user().groups, Group.objects.create(name="auditors")), "user_id", User),
    "user_permission": (
        lambda: a_link(make_user().user_permissions, Permission.objects.first()),  # type: ignore[arg-type]
        "user_id",
        User,
    ),
    "external_identity": (
        lambda: ExternalIdentity.objects.create(user=make_user(), issuer="https://a", subject="b"),
        "subject",
        "c",
    ),
    "membership": (
        lambda: Membership.objects.create(user=make_user(), consumer=make_consumer(), role="viewer"),
        "role",
        "owner",
    ),
    "consumer": (make_consumer, "status", "suspended"),
    "consumer_budget": (a_budget, "amount", "9.000000000"),
    "tier": (lambda: Tier.objects.create(name="gold", rank=99), "tokens_per_month", 5),
    "entitlement": (an_entitlement, "requests_per_second", 0),
    "service": (a_service, "pricing", {**PER_REQUEST, "currency": "EUR"}),
    "endpoint": (lambda: make_endpoint(credential="planted"), "weight", 9),
    "price_version": (a_price, "pricing", None),
    "policy": (lambda: Policy.objects.create(id="mine", description="d", text="t"), "enabled", False),
    "report_schedule": (
        lambda: ReportSchedule.objects.create(name="r", format="csv", channel="email", recipients="a@example.com"),
        "recipients",
        "b@example.com",
    ),
}  # fmt: skip


@pytest.fixture
def row(request: pytest.FixtureRequest, db: None) -> Model:
    made = AUDITED[request.param][0]()
    commit()
    return made


def commit() -> None:
    """What the database does at a commit."""
    connection.check_constraints()


def told_by(change: Callable[[], object]) -> list[Told]:
    """What the database tells of a change, and nobody else does."""
    commit()
    last = AuditEntry.objects.count() and AuditEntry.objects.latest("id").id
    change()
    commit()
    entries = list(AuditEntry.objects.filter(id__gt=last).order_by("id"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user, host(inet_client_addr())")
        role, address = cursor.fetchone()
    assert {(entry.actor, entry.address) for entry in entries} <= {(f"database: {role}", address)}
    return [(entry.action, entry.target_id, entry.before, entry.after) for entry in entries]


def run(statement: str, *values: Any, **names: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(with_names(statement, **names), values)


def with_names(statement: str, **names: str) -> sql.Composed:
    return sql.SQL(statement).format(**{name: sql.Identifier(value) for name, value in names.items()})


def names_of(row: Model) -> dict[str, str]:
    return {"table": row._meta.db_table, "key": str(row._meta.pk.column)}


def stored(row: Model) -> dict[str, Any]:
    """Its columns as JSON; decimals are text."""
    with connection.cursor() as cursor:
        cursor.execute(
            with_names("SELECT to_jsonb(t) FROM {table} t WHERE {key} = %s", **names_of(row)), [row.pk]
        )
        found: dict[str, Any] = json.loads(cursor.fetchone()[0], parse_float=str)
    assert set(found) == {field.column for field in row._meta.concrete_fields}
    return found


def without_secrets(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name not in SECRETS}


def another(value: Any) -> Any:
    """A change of a foreign key is to another row."""
    if value is User:
        return make_user().pk
    return Permission.objects.last().pk if value is Permission else value  # type: ignore[union-attr]


#: A price is not deleted once it holds.
every_deletable = pytest.mark.parametrize(
    "row", [name for name in AUDITED if name != "price_version"], indirect=True
)
every_change = pytest.mark.parametrize(
    ("row", "target"), [(name, name) for name in AUDITED if name != "price_version"], indirect=["row"]
)


@pytest.mark.django_db
def test_whatever_the_console_tells_of_the_database_tells_of_too() -> None:
    told = {
        model._meta.db_table for model, page in admin.site._registry.items() if isinstance(page, AuditedAdmin)
    }
    assert told <= set(audited_tables())
    assert len(audited_tables()) == len(AUDITED)


@every_change
def test_a_column_that_is_changed(row: Model, target: str) -> None:
    _, column, value = AUDITED[target]
    value, was = another(value), stored(row)[column]
    raw = json.dumps(value) if isinstance(value, dict) else value
    names = {"column": column, **names_of(row)}
    assert told_by(
        lambda: run("UPDATE {table} SET {column} = %s WHERE {key} = %s", raw, row.pk, **names)
    ) == [(f"{target}_changed", str(row.pk), {column: was}, {column: value})]
    field = next(field.name for field in row._meta.concrete_fields if field.column == column)
    before = json.loads(json.dumps(was)) if isinstance(value, dict) else was
    assert told_by(lambda: type(row)._base_manager.filter(pk=row.pk).update(**{field: before})) == [
        (f"{target}_changed", str(row.pk), {column: value}, {column: was})
    ]
    assert told_by(lambda: run("UPDATE {table} SET {column} = {column}", **names)) == []


@every_deletable
def test_a_row_that_is_deleted_and_put_back(row: Model, request: pytest.FixtureRequest) -> None:
    target, names, columns = request.node.callspec.params["row"], names_of(row), stored(row)
    assert told_by(lambda: run("DELETE FROM {table} WHERE {key} = %s", row.pk, **names)) == [
        (f"{target}_deleted", str(row.pk), without_secrets(columns), {})
    ]
    put_in = "INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, %s)"
    assert told_by(lambda: run(put_in, json.dumps(columns), **names)) == [
        (f"{target}_created", str(row.pk), {}, without_secrets(columns))
    ]
    run("DELETE FROM {table} WHERE {key} = %s", row.pk, **names)
    created = told_by(lambda: type(row)._base_manager.bulk_create([row]))
    assert [(action, id_) for action, id_, _, _ in created if "created" in action] == [
        (f"{target}_created", str(row.pk))
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("model", "column", "value"),
    [(ApiKey, "key_hash", "$planted"), (User, "password", "$planted"), (Endpoint, "credential", b"$planted")],
)
def test_a_secret_is_said_to_have_changed_and_no_more(model: Any, column: str, value: object) -> None:
    make_endpoint(credential="planted")
    make_key()
    make_user()
    row = model.objects.get()
    assert column in SECRETS
    assert told_by(lambda: model.objects.update(**{column: value})) == [
        (f"{str(model._meta.verbose_name).lower().replace(' ', '_')}_changed", str(row.pk), {}, {column: "(changed)"})
    ]  # fmt: skip
    assert "planted" not in str(list(AuditEntry.objects.values()))


@pytest.mark.django_db
def test_that_somebody_was_there_is_no_change() -> None:
    key, person = make_key()[0], make_user()
    assert told_by(lambda: run("UPDATE api_keys SET last_used_at = now()")) == []
    assert told_by(lambda: run("UPDATE users SET last_login = now()")) == []
    assert told_by(person.save) == []
    changed = told_by(lambda: run("UPDATE api_keys SET last_used_at = NULL, name = 'eve'"))
    assert changed == [("api_key_changed", str(key.pk), {"name": ""}, {"name": "eve"})]


@pytest.mark.django_db
def test_what_was_told_of_is_not_told_again_but_what_was_kept_back_is() -> None:
    tier = Tier.objects.create(name="gold", rank=98)

    def half() -> None:
        run("UPDATE tiers SET rank = 99, tokens_per_month = 5 WHERE name = 'gold'")
        trail.record(
            actor="ada",
            action="x",
            target_type="tier",
            target_id="gold",
            before={"rank": 98},
            after={"rank": 99},
        )

    commit()
    half()
    commit()
    told = AuditEntry.objects.filter(target_id=tier.pk).order_by("-id").values_list("after", flat=True)[:2]
    assert sorted(told, key=str) == [{"rank": 99}, {"tokens_per_month": 5}]


def verified() -> int:
    out = io.StringIO()
    call_command("verify_audit", stdout=out)
    return int(json.loads(out.getvalue())["entries"])


def test_only_what_is_committed_is_told_and_the_chain_holds(committed: None) -> None:
    key, _ = make_key()
    first = verified()
    ApiKey.objects.update(name="one")
    ApiKey.objects.bulk_update([key], ["name"])
    assert verified() == first + 2
    with transaction.atomic():
        ApiKey.objects.update(name="two")
        transaction.set_rollback(True)
    with transaction.atomic():
        with transaction.atomic():
            Consumer.objects.update(name="inner")
            transaction.set_rollback(True)
        Consumer.objects.update(name="outer")
    assert verified() == first + 3
    assert AuditEntry.objects.latest("id").after == {"name": "outer"}


def test_an_entry_of_another_transaction_tells_of_nothing(committed: None) -> None:
    tier = make_key()[0].tier
    with transaction.atomic():
        with transaction.atomic():
            Tier.objects.filter(pk=tier.pk).update(rank=50)
        trail.record(
            actor="ada",
            action="x",
            target_type="tier",
            target_id=tier.pk,
            before={"rank": 1},
            after={"rank": 50},
        )
    Tier.objects.filter(pk=tier.pk).update(rank=51)
    told = AuditEntry.objects.filter(target_type="tier").order_by("-id")
    assert [(entry.actor.split(":")[0], entry.after) for entry in told[:2]] == [
        ("database", {"rank": 51}),
        ("ada", {"rank": 50}),
    ]
    assert verified() == AuditEntry.objects.count()


#: Changes a row, says so, and stays there with its transaction open.
CHANGER = """
import sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
connection.cursor().execute("UPDATE tiers SET rank = 77")
print("changed", flush=True)
sys.stdin.read()
"""


def test_whoever_is_killed_before_the_commit_changed_nothing_and_told_nothing(committed: None) -> None:
    make_key()
    before = AuditEntry.objects.count()
    kept = connection.settings_dict
    url = f"postgresql://{kept['USER']}:{kept['PASSWORD']}@{kept['HOST']}:{kept['PORT']}/{kept['NAME']}"
    changer = subprocess.Popen(
        [sys.executable, "-c", CHANGER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with changer:
        assert changer.stdout is not None
        assert changer.stdout.readline() == "changed\n"
        changer.kill()
    Tier.objects.update(rank=78)  # waits until the other one is gone
    assert Tier.objects.get().rank == 78
    assert AuditEntry.objects.count() == before + 1
    assert AuditEntry.objects.latest("id").after == {"rank": 78}
    assert verified() == before + 1


def test_a_table_is_not_emptied_behind_the_trails_back(committed: None) -> None:
    make_key()
    with superuser_cursor() as cursor:
        for role in ("origin", "replica"):
            cursor.execute(f"SET session_replication_role = {role}")
            with pytest.raises(psycopg2.Error, match="is audited row by row"):
                cursor.execute("TRUNCATE api_keys CASCADE")
        before = AuditEntry.objects.count()
        cursor.execute("UPDATE api_keys SET name = 'eve'")
    assert ApiKey.objects.count() == 1
    assert AuditEntry.objects.count() == before + 1
    assert AuditEntry.objects.latest("id").actor == "database: postgres"
