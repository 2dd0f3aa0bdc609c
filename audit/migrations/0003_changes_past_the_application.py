"""A change of an audited table that nobody told of is told by the database itself.

Migrations of other apps put a table under audit, and take it out again, by one statement::

    SELECT audit_table('api_keys', 'api_key', unaudited => '{last_used_at}', secrets => '{key_hash}');
    SELECT unaudit_table('api_keys');
"""

from collections.abc import Callable
from typing import Any

from django.db import migrations

FORWARDS = """
    -- Which transaction wrote it, so that its other changes are known. It says nothing later, and is not hashed.
    ALTER TABLE {schema}.audit_entries ADD COLUMN transaction_id xid8;
    CREATE FUNCTION {schema}.note_transaction() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        NEW.transaction_id := pg_current_xact_id();
        RETURN NEW;
    END $$;
    CREATE TRIGGER of_transaction BEFORE INSERT ON {schema}.audit_entries
    FOR EACH ROW EXECUTE FUNCTION {schema}.note_transaction();
    ALTER TABLE {schema}.audit_entries ENABLE ALWAYS TRIGGER of_transaction;

    -- A row as the trail tells it: what has decimals is text, or it would be read as a float.
    CREATE FUNCTION {schema}.audit_values(stored jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT coalesce(jsonb_object_agg(key, CASE
            WHEN jsonb_typeof(value) = 'number' AND value::text LIKE '%.%' THEN to_jsonb(value::text) ELSE value
        END), '{}') FROM jsonb_each(stored)
    $$;

    -- Arguments: target_type, key column, unaudited columns, secret columns, and what else tells of the row:
    -- [[target_type, column with its id, name in the entry], ...].
    CREATE FUNCTION {schema}.audit_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    DECLARE
        was jsonb := {schema}.audit_values(to_jsonb(OLD));
        became jsonb := {schema}.audit_values(to_jsonb(NEW));
        target text := coalesce(was ->> TG_ARGV[1], became ->> TG_ARGV[1]);
        unaudited text[] := TG_ARGV[2];
        secrets text[] := TG_ARGV[3];
        told record;
    BEGIN
        -- What the application wrote of this row in this transaction. In a database that was restored elsewhere
        -- transactions are counted anew: age() passes over entries of another one that had the same number.
        SELECT count(*) > 0 AS at_all,
               coalesce(bool_or(entry.before = '{}' AND entry.after <> '{}'), false) AS created,
               coalesce(bool_or(entry.before <> '{}' AND entry.after = '{}'), false) AS deleted,
               coalesce(jsonb_object_agg(name, true) FILTER (WHERE name IS NOT NULL), '{}') AS names
        INTO told
        FROM {schema}.audit_entries entry
             LEFT JOIN LATERAL jsonb_object_keys(entry.before || entry.after) name ON true
        WHERE entry.target_type = TG_ARGV[0] AND entry.target_id = target AND entry.actor NOT LIKE 'database: %'
              AND entry.transaction_id = pg_current_xact_id() AND age(entry.xmin) <= 0;

        IF TG_OP = 'INSERT' AND told.created OR TG_OP = 'DELETE' AND told.deleted OR EXISTS (
            SELECT FROM jsonb_array_elements(TG_ARGV[4]::jsonb) other JOIN {schema}.audit_entries entry
                   ON entry.target_type = other ->> 0
                      AND entry.target_id = (was || became) ->> (other ->> 1)
            WHERE (entry.before || entry.after) ? (other ->> 2) AND entry.actor NOT LIKE 'database: %'
                  AND entry.transaction_id = pg_current_xact_id() AND age(entry.xmin) <= 0
        ) THEN
            RETURN NULL;
        END IF;

        IF TG_OP = 'UPDATE' THEN
            -- Columns that changed and were not named; the application names a foreign key without its "_id". It never
            -- names a secret, so one counts as told with the rest.
            SELECT coalesce(jsonb_object_agg(name, was -> name) FILTER (WHERE NOT secret), '{}'),
                   coalesce(jsonb_object_agg(name, CASE WHEN secret THEN '"(changed)"' ELSE became -> name END), '{}')
            INTO was, became
            FROM (SELECT name, name = ANY (secrets) AS secret FROM jsonb_object_keys(became) name) columns
            WHERE was -> name IS DISTINCT FROM became -> name AND name <> ALL (unaudited)
                  AND NOT CASE WHEN secret THEN told.at_all
                               ELSE told.names ?| ARRAY[name, regexp_replace(name, '_id$', '')] END;
            IF became = '{}' THEN
                RETURN NULL;
            END IF;
        ELSE
            was := was - secrets;
            became := became - secrets;
        END IF;

        INSERT INTO {schema}.audit_entries (at, actor, action, target_type, target_id, address, before, after)
        VALUES (clock_timestamp(), 'database: ' || session_user,
                TG_ARGV[0] || CASE TG_OP WHEN 'INSERT' THEN '_created' WHEN 'DELETE' THEN '_deleted' ELSE '_changed' END,
                TG_ARGV[0], target, inet_client_addr(), was, became);
        RETURN NULL;
    END $$;
    REVOKE EXECUTE ON FUNCTION {schema}.audit_change() FROM PUBLIC;

    CREATE FUNCTION {schema}.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        RAISE EXCEPTION '% is audited row by row: delete its rows', TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END $$;

    CREATE FUNCTION {schema}.audit_table(
        audited regclass, target text,
        unaudited text[] DEFAULT '{}', secrets text[] DEFAULT '{}', told_as jsonb DEFAULT '[]'
    ) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        called text := format('EXECUTE FUNCTION {schema}.audit_change(%L, %L, %L, %L, %L)', target, (
            SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = audited AND indisprimary
        ), unaudited, secrets, told_as);
        -- No list of columns to watch, which the next new column would not be in.
        changed text := CASE WHEN unaudited = '{}' THEN 'OLD.* IS DISTINCT FROM NEW.*'
            ELSE format('to_jsonb(OLD) - %L::text[] IS DISTINCT FROM to_jsonb(NEW) - %1$L::text[]', unaudited) END;
    BEGIN
        -- Deferred to the commit: by then everything was told that will be.
        EXECUTE format('CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR DELETE ON %s '
                       'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW %s', audited, called);
        EXECUTE format('CREATE CONSTRAINT TRIGGER audited_update AFTER UPDATE ON %s '
                       'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (%s) %s', audited, changed, called);
        EXECUTE format('CREATE TRIGGER audited_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_truncate()', audited);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audited, ENABLE ALWAYS TRIGGER audited_update, '
                       'ENABLE ALWAYS TRIGGER audited_truncate', audited);
    END $$;

    CREATE FUNCTION {schema}.unaudit_table(audited regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        EXECUTE format('DROP TRIGGER audited ON %s', audited);
        EXECUTE format('DROP TRIGGER audited_update ON %s', audited);
        EXECUTE format('DROP TRIGGER audited_truncate ON %s', audited);
    END $$;
"""
BACKWARDS = """
    DROP FUNCTION {schema}.unaudit_table(regclass);
    DROP FUNCTION {schema}.audit_table(regclass, text, text[], text[], jsonb);
    DROP FUNCTION {schema}.refuse_truncate();
    DROP FUNCTION {schema}.audit_change();
    DROP FUNCTION {schema}.audit_values(jsonb);
    DROP TRIGGER of_transaction ON {schema}.audit_entries;
    DROP FUNCTION {schema}.note_transaction();
    ALTER TABLE {schema}.audit_entries DROP COLUMN transaction_id;
"""


def in_this_schema(sql: str) -> Callable[[Any, Any], None]:
    def run(apps: Any, schema_editor: Any) -> None:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT quote_ident(current_schema())")
            schema = cursor.fetchone()[0]
            cursor.execute(sql.replace("{schema}", schema))

    return run


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_chain")]

    operations = [migrations.RunPython(in_this_schema(FORWARDS), in_this_schema(BACKWARDS))]
