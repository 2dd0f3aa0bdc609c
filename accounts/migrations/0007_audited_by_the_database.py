"""Changes of people, their roles and their consumers are told by the database where nobody else did."""

from django.db import migrations

_AUDIT = """
    SELECT audit_table('users', 'user', unaudited => '{last_login,session_round}', secrets => '{password}');
    SELECT audit_table('auth_group', 'group');
    SELECT audit_table('auth_group_permissions', 'group_permission', told_as =>
        '[["group", "group_id", "permissions"]]');
    SELECT audit_table('users_groups', 'user_group', told_as =>
        '[["user", "user_id", "groups"], ["group", "group_id", "people"]]');
    SELECT audit_table('users_user_permissions', 'user_permission', told_as =>
        '[["user", "user_id", "permissions"]]');
    SELECT audit_table('external_identities', 'external_identity');
    SELECT audit_table('memberships', 'membership');
    SELECT audit_table('consumers', 'consumer');
    SELECT audit_table('consumer_budgets', 'consumer_budget');
"""
_LEAVE = """
    SELECT unaudit_table('users');
    SELECT unaudit_table('auth_group');
    SELECT unaudit_table('auth_group_permissions');
    SELECT unaudit_table('users_groups');
    SELECT unaudit_table('users_user_permissions');
    SELECT unaudit_table('external_identities');
    SELECT unaudit_table('memberships');
    SELECT unaudit_table('consumers');
    SELECT unaudit_table('consumer_budgets');
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_session_round"),
        ("audit", "0003_changes_past_the_application"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [migrations.RunSQL(_AUDIT, _LEAVE)]
