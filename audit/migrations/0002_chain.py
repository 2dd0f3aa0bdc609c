"""Every audit entry gets its link in a chain of hashes, those that were there before too."""

from collections.abc import Callable
from typing import Any

import django.db.models.deletion
from django.db import migrations, models

# Functions name what they use by schema, and look nowhere else: one of them runs with its owner's rights.
FORWARDS = """
    -- A field of the hashed text: its length in bytes before it, so that no two entries share a text.
    CREATE FUNCTION {schema}.audit_field(value text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
    $$ SELECT coalesce(octet_length(value) || ':' || value, '-') || ',' $$;

    -- audit/chain.py hashes the same again, apart from the database.
    CREATE FUNCTION {schema}.append_audit_link(entry {schema}.audit_entries) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        head {schema}.audit_links%ROWTYPE;
    BEGIN
        -- Writers go one by one from here to their commit. Any number would do; this one spells "audit".
        PERFORM pg_advisory_xact_lock(418581342580);
        SELECT * INTO head FROM {schema}.audit_links ORDER BY sequence DESC LIMIT 1;
        head.sequence := coalesce(head.sequence, 0) + 1;
        head.previous_hash := coalesce(head.hash, decode(repeat('00', 32), 'hex'));
        head.hash := sha256(convert_to(
            {schema}.audit_field(encode(head.previous_hash, 'hex'))
            || {schema}.audit_field(head.sequence::text)
            || {schema}.audit_field(entry.id::text)
            || {schema}.audit_field((extract(epoch FROM entry.at) * 1000000)::bigint::text)
            || {schema}.audit_field(entry.actor)
            || {schema}.audit_field(entry.action)
            || {schema}.audit_field(entry.target_type)
            || {schema}.audit_field(entry.target_id)
            || {schema}.audit_field(entry.address::text)
            || {schema}.audit_field(entry.before::text)
            || {schema}.audit_field(entry.after::text), 'UTF8'));
        INSERT INTO {schema}.audit_links (sequence, entry_id, previous_hash, hash)
        VALUES (head.sequence, entry.id, head.previous_hash, head.hash);
    END $$;

    CREATE FUNCTION {schema}.link_audit_entry() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM {schema}.append_audit_link(NEW);
        RETURN NULL;
    END $$;
    -- Nobody else hangs it on a table of their own.
    REVOKE EXECUTE ON FUNCTION {schema}.link_audit_entry() FROM PUBLIC;

    DO $$
    DECLARE
        entry {schema}.audit_entries%ROWTYPE;
    BEGIN
        FOR entry IN SELECT * FROM {schema}.audit_entries ORDER BY id LOOP
            PERFORM {schema}.append_audit_link(entry);
        END LOOP;
    END $$;

    -- Deferred: the lock is taken at the commit, after all others, and held for as long as that takes.
    CREATE CONSTRAINT TRIGGER linked AFTER INSERT ON {schema}.audit_entries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION {schema}.link_audit_entry();
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.audit_links
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();
    -- Always: "session_replication_role = replica" passes over the others.
    ALTER TABLE {schema}.audit_entries ENABLE ALWAYS TRIGGER append_only;
    ALTER TABLE {schema}.audit_entries ENABLE ALWAYS TRIGGER linked;
    ALTER TABLE {schema}.audit_links ENABLE ALWAYS TRIGGER append_only;
"""
BACKWARDS = """
    ALTER TABLE {schema}.audit_entries ENABLE TRIGGER append_only;
    DROP TRIGGER append_only ON {schema}.audit_links;
    DROP TRIGGER linked ON {schema}.audit_entries;
    DROP FUNCTION {schema}.link_audit_entry();
    DROP FUNCTION {schema}.append_audit_link({schema}.audit_entries);
    DROP FUNCTION {schema}.audit_field(text);
"""


def in_this_schema(sql: str) -> Callable[[Any, Any], None]:
    def run(apps: Any, schema_editor: Any) -> None:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT quote_ident(current_schema())")
            schema = cursor.fetchone()[0]
            cursor.execute(sql.replace("{schema}", schema))

    return run


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="AuditLink",
            fields=[
                ("sequence", models.BigIntegerField(primary_key=True, serialize=False)),
                ("previous_hash", models.BinaryField()),
                ("hash", models.BinaryField()),
                (
                    "entry",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="link",
                        to="audit.auditentry",
                    ),
                ),
            ],
            options={"db_table": "audit_links", "default_permissions": (), "ordering": ("sequence",)},
        ),
        migrations.RunPython(in_this_schema(FORWARDS), in_this_schema(BACKWARDS)),
    ]
