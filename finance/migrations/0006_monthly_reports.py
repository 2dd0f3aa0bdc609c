# Reports of every month, and what became of each.

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import catalog.endpoints
import finance.models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_audited_by_the_database"),
        ("finance", "0005_statement_format"),
    ]

    operations = [
        migrations.CreateModel(
            name="ReportSchedule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "format",
                    models.CharField(
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
                (
                    "day",
                    models.PositiveSmallIntegerField(
                        default=3,
                        help_text="Day of the following month (UTC) from which it is sent.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(28),
                        ],
                    ),
                ),
                (
                    "first_month",
                    models.DateField(
                        default=finance.models.this_month,
                        editable=False,
                        help_text="The first month that is sent.",
                    ),
                ),
                ("is_active", models.BooleanField(default=True)),
                (
                    "channel",
                    models.CharField(
                        choices=[("email", "E-mail"), ("bucket", "S3-compatible bucket")], max_length=10
                    ),
                ),
                (
                    "recipients",
                    models.TextField(blank=True, help_text="Addresses, one a line. They see each other."),
                ),
                (
                    "endpoint",
                    models.CharField(
                        blank=True,
                        help_text="https://s3.example.com",
                        max_length=255,
                        validators=[catalog.endpoints.validate_endpoint],
                    ),
                ),
                (
                    "region",
                    models.CharField(
                        default="us-east-1",
                        max_length=40,
                        validators=[django.core.validators.RegexValidator("^[a-z0-9-]+\\Z")],
                    ),
                ),
                (
                    "bucket",
                    models.CharField(
                        blank=True,
                        max_length=63,
                        validators=[
                            django.core.validators.RegexValidator("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\\Z")
                        ],
                    ),
                ),
                (
                    "folder",
                    models.CharField(
                        blank=True,
                        max_length=200,
                        validators=[
                            django.core.validators.RegexValidator("^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\\Z")
                        ],
                    ),
                ),
                (
                    "access_key",
                    models.CharField(
                        blank=True,
                        max_length=128,
                        validators=[django.core.validators.RegexValidator("^[A-Za-z0-9_+=.@-]+\\Z")],
                    ),
                ),
                ("credential", models.BinaryField(help_text="Sealed for the origin of endpoint.", null=True)),
                ("credential_set_at", models.DateTimeField(editable=False, null=True)),
                ("created_by", models.CharField(editable=False, max_length=150)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "consumer",
                    models.ForeignKey(
                        blank=True,
                        help_text="Blank: all.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="accounts.consumer",
                    ),
                ),
            ],
            options={
                "db_table": "report_schedules",
                "ordering": ("name", "id"),
                "permissions": (("send_report", "Can have a report sent again"),),
                "default_permissions": ("add", "change", "view"),
            },
        ),
        migrations.CreateModel(
            name="ReportDelivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("sending", "Sending"),
                            ("sent", "Sent"),
                            ("unclear", "Unclear"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("attempted_at", models.DateTimeField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("error", models.CharField(blank=True, max_length=255)),
                (
                    "job",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="finance.exportjob",
                    ),
                ),
                (
                    "schedule",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deliveries",
                        to="finance.reportschedule",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "report deliveries",
                "db_table": "report_deliveries",
                "ordering": ("-month", "id"),
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(fields=("schedule", "month"), name="one_delivery_a_month")
                ],
            },
        ),
    ]
