"""What calls cost at an endpoint."""

from django.db import migrations, models

import catalog.models


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0010_price_approval"),
    ]

    operations = [
        migrations.AddField(
            model_name="endpoint",
            name="cost_pricing",
            field=models.JSONField(
                blank=True,
                help_text="What a call costs us there, written as prices are, in the currency of the service's price. Kept beside the cost of each call, so that the margin is known. Blank: not known.",
                null=True,
                validators=[catalog.models.validate_pricing],
                verbose_name="upstream price",
            ),
        ),
    ]
