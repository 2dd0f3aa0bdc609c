"""Changes of services, prices, tiers and entitlements are told by the database where nobody else did."""

from django.db import migrations

_AUDIT = """
    SELECT audit_table('tiers', 'tier');
    SELECT audit_table('entitlements', 'entitlement');
    SELECT audit_table('services', 'service');
    SELECT audit_table('service_endpoints', 'endpoint', secrets => '{credential}');
    SELECT audit_table('price_versions', 'price_version', told_as => '[["service", "service_id", "pricing"]]');
"""
_LEAVE = """
    SELECT unaudit_table('tiers');
    SELECT unaudit_table('entitlements');
    SELECT unaudit_table('services');
    SELECT unaudit_table('service_endpoints');
    SELECT unaudit_table('price_versions');
"""


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0003_changes_past_the_application"),
        ("catalog", "0011_endpoint_cost"),
    ]

    operations = [migrations.RunSQL(_AUDIT, _LEAVE)]
