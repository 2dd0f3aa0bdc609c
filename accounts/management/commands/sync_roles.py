"""``manage.py sync_roles``: the platform's roles as groups. To be run after every migration."""

from typing import Any

from django.core.management.base import BaseCommand

from accounts.roles import sync_roles


class Command(BaseCommand):
    help = "Make the groups of the platform's roles hold exactly their permissions."

    def handle(self, *args: Any, **options: Any) -> None:
        sync_roles()
