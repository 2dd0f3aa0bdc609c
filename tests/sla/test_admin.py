"""The console's pages on incidents and violations."""

import pytest
from django.test import Client

from sla.checks import check
from sla.models import SlaIncident, SlaViolation
from tests.factories import make_service
from tests.ledger_rows import Calls

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]


@pytest.mark.parametrize("model", [SlaIncident, SlaViolation])
def test_what_checks_found_is_shown_filtered_and_cannot_be_changed(
    admin_client: Client, model: type[SlaIncident] | type[SlaViolation]
) -> None:
    calls = Calls(make_service("chat", sla={"latency_p95_ms": 10, "error_rate": 0.1}))
    calls.record(duration_ms=15)
    calls.record(status="error")
    check()
    page = f"/admin/sla/{model._meta.model_name}/"

    def shown(query: str) -> set[str]:
        answer = admin_client.get(f"{page}?{query}")
        assert answer.status_code == 200
        return {row.metric for row in answer.context["cl"].result_list}

    assert shown("") == {"latency_p95_ms", "error_rate"}
    assert shown("severity__exact=critical") == {"error_rate"}
    assert shown("q=chat") == {"latency_p95_ms", "error_rate"}
    assert shown("q=other") == set()
    row = model.objects.all()[0]
    assert admin_client.get(f"{page}{row.pk}/change/").status_code == 200
    assert admin_client.post(f"{page}{row.pk}/change/", {"severity": "warning"}).status_code == 403
    assert admin_client.post(f"{page}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{page}add/").status_code == 403
