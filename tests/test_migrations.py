"""Migrations say what the models say, and every one of them can be taken back."""

import io
import os
import secrets
from collections.abc import Iterator

import psycopg2
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command

from tests.harness.commands import manage
from tests.harness.databases import drop, make_migrated


def own_apps() -> list[str]:
    """Labels of the apps of this checkout that have migrations."""
    root = str(settings.BASE_DIR)
    configs = [config for config in apps.get_app_configs() if os.path.dirname(config.path) == root]
    return [config.label for config in configs if os.path.isdir(os.path.join(config.path, "migrations"))]


def tables_of_others() -> set[str]:
    own = own_apps()
    models = [
        model for model in apps.get_models(include_auto_created=True) if model._meta.app_label not in own
    ]
    return {model._meta.db_table for model in models}


@pytest.fixture
def migrated_database(django_db_setup: None) -> Iterator[str]:
    """The URL of a database for one test, as migrations leave it."""
    name = f"migrations_{secrets.token_hex(4)}"
    yield make_migrated(name)
    drop(name)


def tables(database_url: str) -> set[str]:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = {str(row[0]) for row in cursor.fetchall()}
    connection.close()
    return found


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=io.StringIO())


def test_migrations_run_forwards_backwards_and_forwards_again(migrated_database: str) -> None:
    """Forwards they ran where the tests' own database was made."""
    migrate = {"DATABASE_URL": migrated_database}
    complete = tables(migrated_database)
    # In one plan: `migrate <app> zero` would work out the state before every migration anew, for each app.
    back = f"""
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
MigrationExecutor(connection).migrate([(label, None) for label in {own_apps()}])
"""
    manage("shell", "--no-imports", "--command", back, env=migrate)
    assert tables(migrated_database) - tables_of_others() == {"django_migrations"}
    manage("migrate", "--noinput", env=migrate)
    assert tables(migrated_database) == complete
