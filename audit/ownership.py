"""Who owns the audit trail in the database: a role that nobody signs in as, and never the application's.

Triggers bind everybody but an owner, who may drop them. So the trail's tables and functions are handed to ``OWNER``,
and the schema they are in, whose owner may drop what others own there. The application's role may insert and read.
So are the tables whose changes the database tells of (``audit_table`` in migrations): there it may do all that changes
rows, and nothing that changes the table.
"""

from django.db import connection, transaction
from psycopg2 import sql

OWNER = "marketplace_audit_owner"
TABLES = ("audit_entries", "audit_links")
FUNCTIONS = (
    "refuse_change()",
    "audit_field(text)",
    "append_audit_link(audit_entries)",
    "link_audit_entry()",
    "note_transaction()",
    "audit_values(jsonb)",
    "audit_change()",
    "refuse_truncate()",
    "audit_table(regclass, text, text[], text[], jsonb)",
    "unaudit_table(regclass)",
)
#: Those that have the triggers, and those that were handed over when they had them.
_AUDITED = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname <> ALL (%s)
          AND (pg_get_userbyid(relowner) = %s OR EXISTS (
              SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgfoid = to_regproc('audit_change')))
    ORDER BY relname
"""


@transaction.atomic
def hand_over(*, application: str) -> None:
    """Take the trail from the role ``application``, but for reading and inserting. Needs a superuser's connection.

    Safe to run again, as after a migration that made more of it.
    """
    _make_owner()
    _give_to(OWNER)
    _run("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}", role=application)
    for table in TABLES:
        _run("REVOKE ALL ON {table} FROM PUBLIC, {role}", table=table, role=application)
    _run("GRANT SELECT, INSERT ON audit_entries TO {role}", role=application)
    _run("GRANT SELECT ON audit_links TO {role}", role=application)
    for table in audited_tables():
        _run("REVOKE ALL ON {table} FROM {role}", table=table, role=application)
        _run(
            "GRANT SELECT, INSERT, UPDATE, DELETE, REFERENCES ON {table} TO {role}",
            table=table,
            role=application,
        )


@transaction.atomic
def take_back(*, application: str) -> None:
    """Give all that to the role that migrates, for a migration that changes it. Needs a superuser's connection."""
    _give_to(application)


def audited_tables() -> list[str]:
    """Tables whose changes the database tells of."""
    with connection.cursor() as cursor:
        cursor.execute(_AUDITED, [list(TABLES), OWNER])
        return [name for (name,) in cursor.fetchall()]


def _make_owner() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER])
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(OWNER)))


def _give_to(role: str) -> None:
    """What of the trail there is: a database may be older than some of it."""
    _run("ALTER SCHEMA {schema} OWNER TO {role}", role=role)
    for table in (*TABLES, *audited_tables()):
        if _exists("to_regclass", table):
            _run("ALTER TABLE {table} OWNER TO {role}", table=table, role=role)
    for function in FUNCTIONS:
        if _exists("to_regprocedure", function):
            _run(f"ALTER FUNCTION {function} OWNER TO {{role}}", role=role)


def _exists(lookup: str, name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {lookup}(%s) IS NOT NULL", [name])
        return bool(cursor.fetchone()[0])


def _run(statement: str, **names: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        names = {"schema": cursor.fetchone()[0], **names}
        identifiers = {name: sql.Identifier(value) for name, value in names.items()}
        cursor.execute(sql.SQL(statement).format(**identifiers))
