"""``manage.py add_endpoint``: one more place where a service's calls may go."""

import os
import uuid
from typing import Any

from django.core.management.base import CommandError, CommandParser

from catalog.management.commands.create_service import pricing_option
from catalog.models import Endpoint
from catalog.publishing import add_endpoint
from common.commands import JsonCommand


class Command(JsonCommand):
    help = (
        'Add an endpoint to a service. Prints {"id": …}. From its first endpoint on, the service\'s own base URL is '
        "not called: add it as well where it is still to serve."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--service", required=True, type=uuid.UUID, metavar="ID")
        parser.add_argument("--url", required=True, help="base URL of the upstream's API")
        parser.add_argument("--protocol", default=Endpoint.Protocol.OPENAI, choices=Endpoint.Protocol.values)
        parser.add_argument("--upstream-model", default="", help="model name it knows, if another")
        parser.add_argument("--weight", type=int, default=1, help="its share among those of one order")
        parser.add_argument(
            "--order", type=int, default=0, help="0 first; a higher one where lower ones fail"
        )
        parser.add_argument(
            "--cost-pricing", metavar="JSON", help="what a call costs there, written as a price"
        )
        parser.add_argument(
            "--credential-env", metavar="NAME", help="environment variable that holds its credential"
        )

    def answer(self, **options: Any) -> dict[str, Any]:
        said = options["cost_pricing"]
        endpoint = add_endpoint(
            actor="add_endpoint",
            service_id=options["service"],
            base_url=options["url"],
            protocol=options["protocol"],
            upstream_model=options["upstream_model"],
            weight=options["weight"],
            order=options["order"],
            cost_pricing=None if said is None else pricing_option("--cost-pricing", said),
            credential=_from_environment(options["credential_env"]),
        )
        return {"id": str(endpoint.id)}


def _from_environment(name: str | None) -> str | None:
    """Never an argument: those are seen by everybody on the machine."""
    if name is None:
        return None
    if not (found := os.environ.get(name)):
        raise CommandError("the variable that --credential-env names is not set")
    return found
