"""The database refuses to change the trail, to the application's role and to a superuser, in raw SQL too."""

import psycopg2
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from audit.checks import audit_is_guarded
from audit.models import AuditEntry, AuditLink
from audit.ownership import OWNER, take_back
from devstack.postgres import ROLE, Postgres
from tests.audit.tampering import write
from tests.harness.commands import manage
from tests.superuser import as_superuser, superuser_cursor

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("postgres_server")]

CHANGES = [
    "UPDATE audit_entries SET actor = 'eve'",
    "DELETE FROM audit_entries",
    "TRUNCATE audit_entries",
    "UPDATE audit_links SET hash = ''",
    "DELETE FROM audit_links",
    "TRUNCATE audit_links",
    "INSERT INTO audit_entries SELECT * FROM audit_entries ON CONFLICT (id) DO UPDATE SET actor = 'eve'",
]
PUT_IN = """
    INSERT INTO audit_entries (at, actor, action, target_type, target_id, before, after)
    VALUES (now(), 'ada', 'tier_changed', 'tier', 'basic', '{}', '{}')
"""


def found() -> list[str | None]:
    return [message.id for message in audit_is_guarded(app_configs=None, databases=["default"])]


@pytest.mark.parametrize(
    "statement",
    [
        *CHANGES,
        "INSERT INTO audit_links VALUES (9, '', '', 9)",
        "DROP TABLE audit_links",
        "DROP SCHEMA public CASCADE",
        "ALTER TABLE audit_entries DISABLE TRIGGER append_only",
        "DROP TRIGGER linked ON audit_entries",
        "CREATE TRIGGER other BEFORE INSERT ON audit_entries EXECUTE FUNCTION refuse_change()",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP FUNCTION link_audit_entry() CASCADE",
        "CREATE TABLE own (); CREATE TRIGGER own AFTER INSERT ON own EXECUTE FUNCTION link_audit_entry()",
        "SELECT append_audit_link(entry) FROM audit_entries entry",
        f"SET ROLE {OWNER}",
        f"GRANT {OWNER} TO {ROLE}",
        "SET session_replication_role = replica",
        "ALTER TABLE api_keys DISABLE TRIGGER audited_update",
        "DROP TRIGGER audited ON users_groups",
        "SELECT unaudit_table('tiers')",
        "TRUNCATE entitlements",
        "ALTER TABLE memberships RENAME TO other",
        "CREATE RULE quiet AS ON UPDATE TO tiers DO INSTEAD NOTHING",
        "CREATE TRIGGER early BEFORE UPDATE ON tiers FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE OR REPLACE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TABLE own (); CREATE TRIGGER own AFTER INSERT ON own EXECUTE FUNCTION audit_change()",
    ],
)
def test_the_applications_role_may_only_insert_and_read(statement: str) -> None:
    write("ada")
    with (
        pytest.raises(DatabaseError, match=r"permission denied|must be owner"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert AuditEntry.objects.get().actor == "ada"


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_a_superuser_is_refused_by_the_triggers(committed: None, role: str) -> None:
    with superuser_cursor() as cursor:
        cursor.execute(f"SET session_replication_role = {role}")
        cursor.execute(PUT_IN)
        for statement in CHANGES:
            with pytest.raises(psycopg2.Error, match="is append-only"):
                cursor.execute(statement)
    assert AuditEntry.objects.get().actor == "ada"
    assert AuditLink.objects.get().sequence == 1


def test_nothing_is_reported_where_the_trail_is_anothers() -> None:
    assert found() == []
    call_command("check", databases=["default"], fail_level="WARNING")


def test_what_leaves_the_trail_unguarded_is_reported(committed: None, postgres_server: Postgres) -> None:
    with as_superuser():
        assert found() == ["audit.W001", "audit.W002"]
    with superuser_cursor() as cursor:
        cursor.execute(f"GRANT UPDATE, DELETE ON audit_entries TO {ROLE}")
        assert found() == ["audit.W003"]
        cursor.execute(f"REVOKE UPDATE, DELETE ON audit_entries FROM {ROLE}")
        cursor.execute("ALTER TABLE audit_links ENABLE TRIGGER append_only")
        assert found() == ["audit.W004"]
        cursor.execute("ALTER TABLE audit_links ENABLE ALWAYS TRIGGER append_only")
        cursor.execute(f"GRANT TRUNCATE ON tiers TO {ROLE}")
        cursor.execute("ALTER TABLE tiers DISABLE TRIGGER audited_update")
        assert found() == ["audit.W003", "audit.W004"]
        cursor.execute(f"REVOKE TRUNCATE ON tiers FROM {ROLE}")
        cursor.execute("ALTER TABLE tiers ENABLE ALWAYS TRIGGER audited_update")
    with as_superuser():
        take_back(application=ROLE)
    assert found() == ["audit.W002"]
    database = connection.settings_dict["NAME"]
    superuser = postgres_server.administration_url.rpartition("/")[0] + f"/{database}"
    manage("guard_audit", "--application-role", ROLE, env={"DATABASE_URL": superuser})
    assert found() == []
