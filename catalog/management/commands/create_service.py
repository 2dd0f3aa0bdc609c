"""``manage.py create_service``: put a service up for sale."""

import json
import uuid
from typing import Any

from django.core.management.base import CommandError, CommandParser

from catalog.models import Service
from catalog.publishing import PricingDecoder, publish_service
from common.commands import JsonCommand, json_option


class Command(JsonCommand):
    help = 'Create a service and its first price. Prints {"id": …}.'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True)
        parser.add_argument("--version", required=True, dest="service_version")
        parser.add_argument("--endpoint", required=True, help="base URL of an OpenAI-compatible API")
        parser.add_argument("--pricing", required=True, metavar="JSON")
        parser.add_argument("--sla", default="{}", metavar="JSON")
        parser.add_argument("--upstream-model", default="", help="model name the upstream knows, if another")
        parser.add_argument(
            "--fallback", type=uuid.UUID, metavar="ID", help="service that serves where this one cannot"
        )
        parser.add_argument(
            "--tokenizer",
            default="",
            choices=Service.Tokenizer.values,
            help="where the upstream reports no usage",
        )
        parser.add_argument("--status", default=Service.Status.ACTIVE, choices=Service.Status.values)
        parser.add_argument("--testing", action="store_true", help="for test keys, and for no others")
        parser.add_argument(
            "--outage-mode",
            default=Service.OutageMode.CLOSED,
            choices=Service.OutageMode.values,
            help="what becomes of calls while Valkey is away",
        )
        parser.add_argument("--region", default="")
        parser.add_argument(
            "--clearance", default="internal", choices=[c.name.lower() for c in Service.Clearance]
        )
        parser.add_argument("--default-max-tokens", type=int, default=1024)
        parser.add_argument("--deadline-seconds", type=int, default=30)
        parser.add_argument("--stream-deadline-seconds", type=int, default=600)

    def answer(self, **options: Any) -> dict[str, Any]:
        service = publish_service(
            actor="create_service",
            name=options["name"],
            version=options["service_version"],
            endpoint=options["endpoint"],
            pricing=pricing_option("--pricing", options["pricing"]),
            sla=json_option("--sla", options["sla"]),
            upstream_model=options["upstream_model"],
            fallback_id=options["fallback"],
            tokenizer=options["tokenizer"],
            status=options["status"],
            testing=options["testing"],
            outage_mode=options["outage_mode"],
            region=options["region"],
            clearance=Service.Clearance[options["clearance"].upper()],
            default_max_tokens=options["default_max_tokens"],
            deadline_seconds=options["deadline_seconds"],
            stream_deadline_seconds=options["stream_deadline_seconds"],
        )
        return {"id": str(service.id)}


def pricing_option(name: str, text: str) -> Any:
    """The price that an option says."""
    json_option(name, text)  # a key twice, NaN and the like
    try:
        return json.loads(text, cls=PricingDecoder)
    except ValueError as error:
        raise CommandError(f"{name} is not valid JSON") from error
