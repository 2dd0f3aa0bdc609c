from typing import Any

import django.db.models.deletion
from django.db import migrations, models


def forget_those_of_no_service(apps: Any, schema_editor: Any) -> None:
    apps.get_model("quotas", "QuotaDrift").objects.filter(service=None).delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0013_outage_mode"), ("quotas", "0003_budget_notices")]

    operations = [
        migrations.AddField(
            model_name="quotadrift",
            name="counted",
            field=models.CharField(default="tokens", help_text="What is counted.", max_length=100),
        ),
        migrations.AddField(
            model_name="quotadrift",
            name="currency",
            field=models.CharField(
                blank=True, help_text="Empty: tokens. Else nano-units of it.", max_length=3
            ),
        ),
        migrations.AlterField(
            model_name="quotadrift", name="month", field=models.DateField(help_text="Or the day.")
        ),
        migrations.AlterField(
            model_name="quotadrift",
            name="service",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="catalog.service",
            ),
        ),
        # Backwards first: what an older version has no place for.
        migrations.RunPython(migrations.RunPython.noop, forget_those_of_no_service),
    ]
