# Statements are one more format of exports.

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("finance", "0004_focus_formats"),
    ]

    operations = [
        migrations.AlterField(
            model_name="exportjob",
            name="format",
            field=models.CharField(
                choices=[
                    ("csv", "CSV"),
                    ("xlsx", "Excel (XLSX)"),
                    ("parquet", "Parquet"),
                    ("focus-1.4", "FOCUS 1.4 (CSV)"),
                    ("focus-1.2", "FOCUS 1.2 (CSV)"),
                    ("statements", "Statements (ZIP of PDFs)"),
                ],
                max_length=20,
            ),
        ),
    ]
