"""``manage.py create_service``: one JSON object, or one line and exit code 1."""

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditEntry
from catalog.models import PriceVersion, Service
from tests.factories import PER_TOKEN, make_service

pytestmark = pytest.mark.django_db

GIVEN = {
    "--name": "real",
    "--version": "1",
    "--endpoint": "http://127.0.0.1:8080/v1",
    "--pricing": json.dumps(PER_TOKEN),
    "--sla": '{"latency_p95_ms": 2000, "error_rate": 0.01}',
}


def create_service(**changed: str | None) -> None:
    options = {**GIVEN, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
    call_command(
        "create_service", *(f"{name}={value}" for name, value in options.items() if value is not None)
    )


def test_it_prints_the_id_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    create_service(
        upstream_model="gemma", region="eu", clearance="public", default_max_tokens="64", outage_mode="local"
    )
    printed = capsys.readouterr().out
    service = Service.objects.get()
    assert json.loads(printed) == {"id": str(service.id)}
    assert printed.count("\n") == 1
    assert (service.name, service.version, service.endpoint) == ("real", "1", "http://127.0.0.1:8080/v1")
    assert (service.status, service.upstream_model, service.region) == ("active", "gemma", "eu")
    assert (service.clearance, service.default_max_tokens) == (Service.Clearance.PUBLIC, 64)
    assert service.outage_mode == "local"
    assert service.sla == {"latency_p95_ms": 2000, "error_rate": 0.01}
    assert service.price_versions.get().pricing == PER_TOKEN
    assert AuditEntry.objects.get().action == "service_created"


def test_a_rate_typed_as_a_number_stays_exact() -> None:
    create_service(
        pricing='{"model": "per_token", "rate_per_token": 0.100000000000000005, "currency": "USD"}'
    )
    assert Service.objects.get().pricing["rate_per_token"] == "0.100000000000000005"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pricing": "{"}, "--pricing is not valid JSON"),
        ({"pricing": '{"model": "per_token", "model": "per_token"}'}, "--pricing is not valid JSON"),
        ({"pricing": "NaN"}, "--pricing is not valid JSON"),
        ({"pricing": "[" * 100_000}, "--pricing is not valid JSON"),
        ({"pricing": "[1]"}, "pricing: pricing must be an object"),
        ({"pricing": '{"model": "barter", "currency": "USD"}'}, "pricing: model must be"),
        ({"sla": '{"latency_p95_ms": 1e400}'}, "--sla is not valid JSON"),
        ({"sla": '{"latency_p95_ms": "fast"}'}, "sla: latency_p95_ms must be a number"),
        ({"sla": "[]"}, "sla: sla must be an object"),
        ({"endpoint": "127.0.0.1:8080"}, "endpoint: The endpoint must look like"),
        ({"endpoint": "http://[::1/v1"}, "endpoint: The endpoint is not a URL"),
        ({"endpoint": "http://a b/v1"}, "endpoint: The endpoint holds a character"),
        ({"endpoint": "http://a:0/v1"}, "endpoint: The endpoint must look like"),
        ({"name": ""}, "name: This field cannot be blank."),
        ({"name": "x" * 256}, "name: Ensure this value has at most 255"),
        ({"default_max_tokens": "-1"}, "default_max_tokens: "),
    ],
)
def test_what_is_not_valid_is_said_in_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandError) as refused:
        create_service(**changed)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
    assert not Service.objects.exists()
    assert not PriceVersion.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_name_and_version_exist_once() -> None:
    make_service("real", version="1")
    with pytest.raises(CommandError, match=r"^Service with this Name and Version already exists\.$"):
        create_service()


@pytest.mark.parametrize("changed", [{"pricing": None}, {"clearance": "x"}, {"default_max_tokens": "many"}])
def test_a_wrong_option_is_one_line_and_exit_code_1(
    changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        create_service(**changed)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("CommandError: ")
    assert printed.err.count("\n") == 1
