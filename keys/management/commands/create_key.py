"""``manage.py create_key``: a key for a consumer, with the entitlement that it needs."""

import uuid
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from accounts.models import Consumer
from catalog.entitlements import entitle, listed_service
from catalog.models import Tier
from common.commands import JsonCommand
from keys.errors import OtherEnvironment
from keys.issuing import check_environment, issue_key
from keys.models import ApiKey

ACTOR = "create_key"


class Command(JsonCommand):
    help = 'Create an API key, entitling the consumer where it is not yet. Prints {"id": …, "key": …}.'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--consumer", required=True, type=uuid.UUID, metavar="ID")
        parser.add_argument("--service", required=True, type=uuid.UUID, metavar="ID")
        parser.add_argument("--tier", required=True)
        parser.add_argument("--environment", default="live", choices=ApiKey.Environment.values)
        parser.add_argument("--name", default="")
        parser.add_argument("--expires-in-days", type=int, default=None)

    @transaction.atomic
    def answer(self, **options: Any) -> dict[str, Any]:
        consumer = Consumer.objects.filter(id=options["consumer"]).first()
        if consumer is None:
            raise CommandError("No such consumer")
        tier = Tier.objects.filter(name=options["tier"]).first()
        if tier is None:
            raise CommandError(
                "No such tier: there are " + ", ".join(Tier.objects.values_list("name", flat=True))
            )
        days = options["expires_in_days"]
        if days is not None and not 1 <= days <= 3650:
            raise CommandError("--expires-in-days must be from 1 to 3650")
        service = listed_service(options["service"])
        try:
            check_environment(service=service, environment=options["environment"])
        except OtherEnvironment as error:
            raise CommandError(error.detail) from error
        entitle(consumer=consumer, service=service, tier=tier, actor=ACTOR)
        key, text = issue_key(
            consumer=consumer,
            service=service,
            tier=tier,
            actor=ACTOR,
            environment=options["environment"],
            name=options["name"],
            expires_in_days=days,
        )
        return {"id": str(key.id), "key": text}
