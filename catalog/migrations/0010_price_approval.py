"""Prices that wait for a second person, and that none is changed or removed once it was approved."""

from django.db import migrations, models

import common.clock

# Reversed, prices that wait are gone: without approval they would hold.
FORWARDS = """
    CREATE OR REPLACE FUNCTION refuse_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.approved_at IS NULL AND TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
        IF OLD.approved_at IS NULL AND NEW.approved_at IS NOT NULL
            AND (NEW.id, NEW.service_id, NEW.pricing, NEW.created_at, NEW.proposed_by)
                = (OLD.id, OLD.service_id, OLD.pricing, OLD.created_at, OLD.proposed_by)
            AND NEW.approved_by NOT IN ('', OLD.proposed_by)
            AND (
                NEW.effective_from = OLD.effective_from
                OR NEW.effective_from = NEW.approved_at AND NEW.effective_from > coalesce(OLD.effective_from, '-infinity')
            )
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'a price version is never changed' USING ERRCODE = 'restrict_violation';
    END $$;
    DROP TRIGGER immutable ON price_versions;
    UPDATE price_versions SET approved_at = created_at;
    CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON price_versions
        FOR EACH ROW EXECUTE FUNCTION refuse_price_change();
"""
BACKWARDS = """
    DROP TRIGGER immutable ON price_versions;
    DELETE FROM price_versions WHERE approved_at IS NULL;
    CREATE OR REPLACE FUNCTION refuse_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'a price version is never changed' USING ERRCODE = 'restrict_violation';
    END $$;
    CREATE TRIGGER immutable BEFORE UPDATE ON price_versions
        FOR EACH ROW EXECUTE FUNCTION refuse_price_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0009_limits"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="priceversion",
            options={
                "ordering": ("service", "-effective_from"),
                "permissions": (("approve_priceversion", "Can approve and refuse prices of others"),),
            },
        ),
        migrations.AddField(
            model_name="priceversion",
            name="approved_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="priceversion",
            name="approved_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=150),
        ),
        migrations.AddField(
            model_name="priceversion",
            name="proposed_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=150),
        ),
        migrations.AlterField(
            model_name="priceversion",
            name="effective_from",
            field=models.DateTimeField(blank=True, default=common.clock.now, null=True),
        ),
        migrations.AddConstraint(
            model_name="priceversion",
            constraint=models.CheckConstraint(
                condition=models.Q(("approved_at", None), ("effective_from__isnull", False), _connector="OR"),
                name="approved_price_has_a_time",
            ),
        ),
        migrations.RunSQL(sql=FORWARDS, reverse_sql=BACKWARDS),
    ]
