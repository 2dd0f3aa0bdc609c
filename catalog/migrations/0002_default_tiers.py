from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TIERS = (
    ("basic", 10, 10, 100_000),
    ("premium", 20, 100, 10_000_000),
    ("enterprise", 30, 1_000, 1_000_000_000),
)


def create_tiers(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Tiers that an operator has made or edited already stay as they are."""
    tier = apps.get_model("catalog", "Tier")
    tier.objects.bulk_create(
        [
            tier(name=name, rank=rank, requests_per_second=requests, tokens_per_month=tokens)
            for name, rank, requests, tokens in TIERS
        ],
        ignore_conflicts=True,
    )


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_initial")]
    operations = [migrations.RunPython(create_tiers, migrations.RunPython.noop)]
