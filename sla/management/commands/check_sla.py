"""``manage.py check_sla``: check every service's objectives now, and say what was found."""

from typing import Any

from django.core.management.base import BaseCommand

from catalog.models import Service
from sla.checks import Finding, check


class Command(BaseCommand):
    help = "Check the objectives of all services now and print what was found."

    def handle(self, *args: Any, **options: Any) -> None:
        names = {service.id: str(service) for service in Service.objects.only("name", "version")}
        findings = check()
        for finding in findings:
            self.stdout.write(f"{names.get(finding.measure.service_id, '?')}: {_line(finding)}")
        if not findings:
            self.stdout.write("No service has objectives.")


def _line(finding: Finding) -> str:
    found = finding.measure
    severity = f" ({found.severity.value})" if found.severity else ""
    actual = "-" if found.actual is None else f"{float(found.actual):g}"
    return f"{found.metric.value} {actual}, objective {float(found.threshold):g}: {finding.outcome}{severity}"
