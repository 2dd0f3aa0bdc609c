"""Drifts refer to consumers and services as loosely as quota periods do."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("catalog", "0001_initial"),
        ("quotas", "0001_initial"),
    ]

    operations = [
        migrations.AlterField(
            model_name="quotadrift",
            name="consumer",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="accounts.consumer",
            ),
        ),
        migrations.AlterField(
            model_name="quotadrift",
            name="service",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="catalog.service",
            ),
        ),
        # Backwards, before the constraints come back.
        migrations.RunSQL(
            sql=migrations.RunSQL.noop,
            reverse_sql="""
                DELETE FROM quota_drifts
                WHERE consumer_id NOT IN (SELECT id FROM consumers) OR service_id NOT IN (SELECT id FROM services)
            """,
        ),
    ]
