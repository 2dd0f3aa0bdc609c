"""The rules that every marketplace starts with. An operator's edits of them are never overwritten."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

DEFAULTS = {
    "data-classification": {
        "description": "The data is classified higher than this service is cleared for.",
        "text": (
            "forbid (principal, action, resource)\nwhen { context.classification > resource.clearance };\n"
        ),
        "severity": "critical",
        "fail_mode": "closed",
    },
    "data-residency": {
        "description": "The data of this consumer must stay in its region, and this service is not known to run there.",
        "text": (
            "forbid (principal, action, resource)\n"
            'when { principal.residency != "" && principal.residency != resource.region };\n'
        ),
        "severity": "critical",
        "fail_mode": "closed",
    },
}


def add_defaults(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    policies = apps.get_model("policy", "Policy")._default_manager.using(schema_editor.connection.alias)
    for id_, values in DEFAULTS.items():
        policies.get_or_create(id=id_, defaults=values)


def remove_defaults(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    policies = apps.get_model("policy", "Policy")._default_manager.using(schema_editor.connection.alias)
    policies.filter(id__in=DEFAULTS).delete()


class Migration(migrations.Migration):
    dependencies = [("policy", "0001_initial")]
    operations = [migrations.RunPython(add_defaults, remove_defaults)]
