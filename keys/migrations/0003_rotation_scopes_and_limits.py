"""Rotation, scopes, networks and limits of a key; keys that exist keep what they could do."""

import uuid

import django.contrib.postgres.fields
import django.core.validators
from django.db import migrations, models

import common.networks


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("catalog", "0005_published_defaults"),
        ("keys", "0002_published_defaults"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="allowed_networks",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=43, validators=[common.networks.validate_network]),
                blank=True,
                help_text="Networks (CIDR) it may be used from. Empty: from anywhere.",
                null=True,
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="budget_amount",
            field=models.DecimalField(
                blank=True,
                decimal_places=9,
                help_text="Money it may cost in one period. 0 forbids, empty: unlimited.",
                max_digits=16,
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9000000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="budget_currency",
            field=models.CharField(blank=True, max_length=3),
        ),
        migrations.AddField(
            model_name="apikey",
            name="budget_period",
            field=models.CharField(blank=True, choices=[("day", "Day"), ("month", "Month")], max_length=5),
        ),
        migrations.AddField(
            model_name="apikey",
            name="environment",
            field=models.CharField(
                choices=[("live", "Live"), ("test", "Test")],
                default="live",
                help_text="Test keys reach the services marked for testing, live keys the others.",
                max_length=4,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="generation",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="How many keys of its lineage came before it."
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="last_used_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="To the minute: written once a minute at most.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="lineage",
            field=models.UUIDField(
                default=uuid.uuid4,
                editable=False,
                help_text="One for a key and all that rotation made of it. Limits of a key are counted by it, or rotating would be a way round them.",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_second",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Of this key alone, below the tier's. 0 forbids, empty: unlimited.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("consume", "Call services, and list them"),
                        ("usage:read", "Read usage"),
                        ("quota:read", "Read quotas"),
                    ],
                    max_length=20,
                ),
                blank=True,
                default=list,
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_month",
            field=models.PositiveBigIntegerField(
                blank=True,
                help_text="Of this key alone, below the tier's. 0 forbids, empty: unlimited.",
                null=True,
            ),
        ),
        migrations.RunSQL(
            sql="""
                UPDATE api_keys SET lineage = id, scopes = '{consume,usage:read,quota:read}';
                ALTER TABLE api_keys ALTER COLUMN lineage SET DEFAULT gen_random_uuid(),
                    ALTER COLUMN generation SET DEFAULT 0,
                    ALTER COLUMN environment SET DEFAULT 'live',
                    ALTER COLUMN scopes SET DEFAULT '{}',
                    ALTER COLUMN budget_currency SET DEFAULT '',
                    ALTER COLUMN budget_period SET DEFAULT '';
            """,
            reverse_sql=migrations.RunSQL.noop,
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.UniqueConstraint(
                fields=("lineage", "generation"), name="one_key_per_generation"
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("budget_amount", None), ("budget_currency", ""), ("budget_period", "")),
                    models.Q(
                        ("budget_amount__gte", 0),
                        ("budget_currency__regex", "^[A-Z]{3}$"),
                        ("budget_period__in", ("day", "month")),
                    ),
                    _connector="OR",
                ),
                name="whole_budget_or_none",
            ),
        ),
        # When a key was used last is of no interest to gateways: they are who says so, every minute.
        migrations.RunSQL(
            sql="""
                DROP TRIGGER notify_change ON api_keys;
                CREATE TRIGGER notify_change AFTER INSERT OR DELETE ON api_keys
                FOR EACH ROW EXECUTE FUNCTION notify_change('public_id');
                CREATE TRIGGER notify_update AFTER UPDATE ON api_keys FOR EACH ROW
                WHEN (to_jsonb(OLD) - 'last_used_at' IS DISTINCT FROM to_jsonb(NEW) - 'last_used_at')
                EXECUTE FUNCTION notify_change('public_id');
            """,
            reverse_sql="""
                DROP TRIGGER notify_update ON api_keys;
                DROP TRIGGER notify_change ON api_keys;
                CREATE TRIGGER notify_change AFTER INSERT OR UPDATE OR DELETE ON api_keys
                FOR EACH ROW EXECUTE FUNCTION notify_change('public_id');
            """,
        ),
        # Whoever writes back a row that was read before somebody revoked it must not bring the key to life again.
        migrations.RunSQL(
            sql="""
                CREATE FUNCTION refuse_unrevoking() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    RAISE EXCEPTION 'a revoked API key stays revoked' USING ERRCODE = 'check_violation';
                END $$;
                CREATE TRIGGER revoked_for_good BEFORE UPDATE ON api_keys FOR EACH ROW
                WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NULL)
                EXECUTE FUNCTION refuse_unrevoking();
            """,
            reverse_sql="""
                DROP TRIGGER revoked_for_good ON api_keys;
                DROP FUNCTION refuse_unrevoking();
            """,
        ),
    ]
