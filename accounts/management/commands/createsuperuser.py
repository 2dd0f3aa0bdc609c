"""``manage.py createsuperuser``: Django's own, and the audit trail tells of it."""

from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.db import transaction

from accounts.models import User
from audit import trail
from audit.changes import fields_of


class Command(createsuperuser.Command):
    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> str | None:
        last = User.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        done = super().handle(*args, **options)
        for user in User.objects.filter(pk__gt=last, is_superuser=True):
            trail.record(
                actor="createsuperuser",
                action="user_created",
                target_type="user",
                target_id=user.pk,
                after=fields_of(user),
            )
        return done
