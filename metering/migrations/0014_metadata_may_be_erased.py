"""A row of a closed month may lose its metadata, and nothing else of it may change."""

from django.db import migrations

# ``*=`` compares bytes: 1.0 is not 1.00.
FORWARDS = """
    CREATE OR REPLACE FUNCTION refuse_change_of_closed_month() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND TG_NAME = 'closed_month' THEN
            OLD.metadata := NULL;
            IF NEW *= OLD THEN
                RETURN NEW;
            END IF;
        END IF;
        RAISE EXCEPTION 'the month is closed' USING ERRCODE = 'MC001', TABLE = TG_TABLE_NAME;
    END $$;
"""
BACKWARDS = """
    CREATE OR REPLACE FUNCTION refuse_change_of_closed_month() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the month is closed' USING ERRCODE = 'MC001', TABLE = TG_TABLE_NAME;
    END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0013_cheaper_sums")]

    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]
