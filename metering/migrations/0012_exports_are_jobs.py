"""Usage leaves the house as a job of finance's alone: the permission of the page that streamed it is gone."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def forget(apps: Apps, _editor: BaseDatabaseSchemaEditor) -> None:
    # Going back, Django makes it again by itself.
    apps.get_model("auth", "Permission").objects.filter(
        codename="export_usagerecord", content_type__app_label="metering"
    ).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0011_archived_requests"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.AlterModelOptions(name="usagerecord", options={"ordering": ("-timestamp",)}),
        migrations.RunPython(forget, migrations.RunPython.noop),
    ]
