from django.db import migrations, models

import catalog.endpoints


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0002_default_tiers"),
    ]

    operations = [
        migrations.AlterField(
            model_name="service",
            name="endpoint",
            field=models.TextField(
                help_text="Base URL of an OpenAI-compatible API: http://host:port/v1",
                validators=[catalog.endpoints.validate_endpoint],
            ),
        ),
    ]
