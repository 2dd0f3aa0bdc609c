"""Endpoints of a service: what a row may hold, its credential at rest, and moving it to a newer key."""

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, connection, transaction

from audit.models import AuditEntry
from catalog import rotation, snapshot
from catalog.models import Endpoint, Service
from catalog.rotation import Rotation, rotate_credentials
from common import clock
from common.sealing import Unsealable, reseal
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import PER_TOKEN, make_endpoint, make_service

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = pytest.mark.django_db

SECRET = "planted-credential-4711"
OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def column(endpoint: Endpoint) -> bytes:
    with connection.cursor() as cursor:
        cursor.execute("SELECT credential FROM service_endpoints WHERE id = %s", [endpoint.id])
        return bytes(cursor.fetchone()[0])


def printed_by(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    call_command(*command)
    return json.loads(capsys.readouterr().out)


class TestRow:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("base_url", "llm.example"), ("base_url", "http://user:secret@llm.example/v1"), ("base_url", "http://127.1/v1"),
            ("protocol", "gopher"), ("weight", 0), ("weight", 1001), ("order", -1),
        ],
    )  # fmt: skip
    def test_what_is_not_valid_is_refused(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            make_endpoint(**{field: value})
        assert list(refused.value.message_dict) == [field]
        assert not Endpoint.objects.exists()

    @pytest.mark.parametrize(
        "changed",
        [
            {"protocol": "gopher"}, {"weight": 0}, {"weight": 1001}, {"order": -1}, {"credential": b"x"},
            {"credential_set_at": dt.datetime(2026, 1, 1, tzinfo=clock.UTC)},
        ],
        ids=str,
    )  # fmt: skip
    def test_the_database_refuses_it_too(self, changed: dict[str, Any]) -> None:
        endpoint = make_endpoint()
        with pytest.raises(IntegrityError), transaction.atomic():
            Endpoint.objects.update(**changed)
        assert Endpoint.objects.get().weight == endpoint.weight

    def test_it_goes_with_its_service(self) -> None:
        service = Service.objects.create(
            name="unpriced", version="1", endpoint="http://127.0.0.1:9/v1", pricing={}
        )
        make_endpoint(service).service.delete()
        assert not Endpoint.objects.exists()


class TestCredential:
    def test_it_is_encrypted_at_rest_and_opens_again(self) -> None:
        endpoint = make_endpoint(credential=SECRET)
        assert SECRET.encode() not in column(endpoint)
        stored = Endpoint.objects.get()
        assert stored.open_credential() == SECRET
        assert stored.credential_set_at is not None

    def test_it_can_be_taken_away(self) -> None:
        endpoint = make_endpoint(credential=SECRET)
        endpoint.set_credential(None)
        endpoint.save()
        stored = Endpoint.objects.get()
        assert (stored.credential, stored.credential_set_at, stored.open_credential()) == (None, None, None)

    def test_no_text_of_a_row_shows_it(self) -> None:
        endpoint = make_endpoint(credential=SECRET)
        assert SECRET not in f"{endpoint} {endpoint!r} {vars(endpoint)}"

    @pytest.mark.parametrize(
        "text", ["", " ", "two words", "line\r\nX-Header: 1", "\x00", "schlüssel", "x" * 4097]
    )
    def test_what_no_header_can_carry_is_refused_and_not_echoed(self, text: str) -> None:
        endpoint = make_endpoint()
        with pytest.raises(ValidationError) as refused:
            endpoint.set_credential(text)
        assert refused.value.messages == [
            "A credential is 1 to 4,096 printable ASCII characters without spaces"
        ]
        assert endpoint.credential is None

    @pytest.mark.parametrize(
        "base_url", ["https://llm.example:8443/v1", "http://llm.example/v1", "https://evil.example/v1"]
    )
    def test_it_does_not_move_to_another_origin(self, base_url: str) -> None:
        endpoint = make_endpoint(base_url="https://llm.example/v1", credential=SECRET)
        endpoint.base_url = base_url
        with pytest.raises(ValidationError, match="another host"):
            endpoint.full_clean()
        # Not even by SQL.
        Endpoint.objects.update(base_url=base_url)
        with pytest.raises(Unsealable):
            Endpoint.objects.get().open_credential()

    def test_it_stays_where_only_the_path_changes(self) -> None:
        endpoint = make_endpoint(base_url="https://llm.example/v1", credential=SECRET)
        endpoint.base_url = "https://LLM.example:443/v2"
        endpoint.full_clean()
        assert endpoint.open_credential() == SECRET

    def test_one_that_no_key_opens_stops_no_other_change(self, settings: Any) -> None:
        endpoint = make_endpoint(credential=SECRET)
        settings.CREDENTIAL_KEYS = [OTHER]
        with pytest.raises(Unsealable):
            endpoint.open_credential()
        endpoint.enabled = False
        endpoint.full_clean()


class TestRotation:
    def test_every_credential_moves_to_the_newest_key_once(self, settings: Any) -> None:
        settings.CREDENTIAL_KEYS = [OLD]
        endpoints = [make_endpoint(credential=f"{SECRET}-{number}") for number in range(3)]
        without = make_endpoint()
        times = set(Endpoint.objects.values_list("id", "credential_set_at"))

        settings.CREDENTIAL_KEYS = [NEW, OLD]
        assert rotate_credentials() == Rotation(rotated=3, replaced=0, unreadable=0)
        moved = [column(endpoint) for endpoint in endpoints]
        assert rotate_credentials() == Rotation(rotated=0, replaced=0, unreadable=0)
        assert [column(endpoint) for endpoint in endpoints] == moved

        settings.CREDENTIAL_KEYS = [NEW]
        opened = [Endpoint.objects.get(id=endpoint.id).open_credential() for endpoint in endpoints]
        assert opened == [f"{SECRET}-{number}" for number in range(3)]
        assert set(Endpoint.objects.values_list("id", "credential_set_at")) == times
        without.refresh_from_db()
        assert without.credential is None

    def test_a_run_that_was_killed_half_way_is_ended_by_the_next(self, settings: Any) -> None:
        settings.CREDENTIAL_KEYS = [OLD]
        make_endpoint(credential=SECRET)
        settings.CREDENTIAL_KEYS = [NEW, OLD]
        make_endpoint(credential=SECRET)
        assert rotate_credentials() == Rotation(rotated=1, replaced=0, unreadable=0)
        settings.CREDENTIAL_KEYS = [NEW]
        assert [endpoint.open_credential() for endpoint in Endpoint.objects.all()] == [SECRET] * 2

    def test_what_no_key_opens_is_counted_named_and_left_as_it_is(
        self, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.CREDENTIAL_KEYS = [OTHER]
        endpoint = make_endpoint(credential=SECRET)
        before = column(endpoint)
        settings.CREDENTIAL_KEYS = [NEW, OLD]
        make_endpoint(credential=SECRET)
        assert rotate_credentials() == Rotation(rotated=0, replaced=0, unreadable=1)
        assert column(endpoint) == before
        assert caplog.messages == [f"the credential of endpoint {endpoint.id} cannot be opened"]

    def test_one_that_is_replaced_meanwhile_stays_replaced(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.CREDENTIAL_KEYS = [OLD]
        endpoint = make_endpoint(credential=SECRET)
        settings.CREDENTIAL_KEYS = [NEW, OLD]

        def replaced_first(sealed: bytes) -> bytes:
            endpoint.set_credential("the-new-one")
            endpoint.save()
            return reseal(sealed)

        monkeypatch.setattr(rotation, "reseal", replaced_first)
        assert rotate_credentials() == Rotation(rotated=0, replaced=1, unreadable=0)
        assert Endpoint.objects.get().open_credential() == "the-new-one"


class TestAddEndpoint:
    def test_it_prints_the_id_and_keeps_the_credential_to_itself(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        service = make_service()
        monkeypatch.setenv("UPSTREAM_KEY", SECRET)
        call_command(
            "add_endpoint", f"--service={service.id}", "--url=https://llm.example/v1", "--protocol=anthropic",
            "--upstream-model=big", "--weight=3", "--order=2", "--credential-env=UPSTREAM_KEY",
        )  # fmt: skip
        printed = capsys.readouterr()
        endpoint = Endpoint.objects.get()
        assert json.loads(printed.out) == {"id": str(endpoint.id)}
        assert (endpoint.service, endpoint.base_url, endpoint.protocol) == (
            service,
            "https://llm.example/v1",
            "anthropic",
        )
        assert (endpoint.upstream_model, endpoint.weight, endpoint.order, endpoint.enabled) == (
            "big",
            3,
            2,
            True,
        )
        assert endpoint.open_credential() == SECRET
        entry = AuditEntry.objects.get()
        assert (entry.actor, entry.action, entry.target_id) == (
            "add_endpoint",
            "endpoint_created",
            str(endpoint.id),
        )
        assert endpoint.credential_set_at is not None
        assert entry.after["credential_set_at"] == endpoint.credential_set_at.isoformat()
        assert "credential" not in entry.after
        assert SECRET not in f"{printed} {entry.after} {caplog.text}"

    def test_it_needs_no_credential(self, capsys: pytest.CaptureFixture[str]) -> None:
        service = make_service()
        printed_by(capsys, "add_endpoint", f"--service={service.id}", "--url=http://127.0.0.1:9/v1")
        endpoint = Endpoint.objects.get()
        assert (endpoint.protocol, endpoint.weight, endpoint.order) == ("openai", 1, 0)
        assert (endpoint.credential, endpoint.credential_set_at) == (None, None)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--url=llm.example"], "base_url: The endpoint must look like"),
            (["--weight=0"], "weight: "),
            (["--order=-1"], "order: "),
            (["--credential-env=NOT_THERE"], "the variable that --credential-env names is not set"),
            (["--credential-env=WITH_SPACE"], "A credential is 1 to 4,096 printable"),
            ([f"--service={uuid.uuid4()}"], "service: service instance with id"),
        ],
    )
    def test_what_is_not_valid_is_said_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
    ) -> None:
        monkeypatch.setenv("WITH_SPACE", f"{SECRET} {SECRET}")
        given = [f"--service={make_service().id}", "--url=https://llm.example/v1", *options]
        with pytest.raises(CommandError) as refused:
            call_command("add_endpoint", *given)
        assert str(refused.value).startswith(said)
        assert "\n" not in str(refused.value)
        assert SECRET not in str(refused.value)
        assert not Endpoint.objects.exists()
        assert not AuditEntry.objects.exists()

    @pytest.mark.parametrize("option", ["--service=x", "--protocol=gopher", "--weight=many"])
    def test_a_wrong_option_is_one_line_and_exit_code_1(
        self, capsys: pytest.CaptureFixture[str], option: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            call_command("add_endpoint", f"--service={uuid.uuid4()}", "--url=https://llm.example/v1", option)
        assert ended.value.code == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("committed")
def test_gateways_hear_of_every_change() -> None:
    service = make_service()
    listener = psycopg2.connect(**{**connection.get_connection_params(), "cursor_factory": None})
    listener.autocommit = True
    listener.cursor().execute("LISTEN marketplace_changes")

    endpoint = make_endpoint(service)
    Endpoint.objects.update(weight=2)
    endpoint.delete()
    listener.cursor().execute("SELECT 1")
    assert [notice.payload for notice in listener.notifies] == [f"service_endpoints:{service.id}"] * 3
    listener.close()


class TestUpstreamPrice:
    def test_a_gateway_knows_it(self) -> None:
        endpoint = make_endpoint(cost_pricing={**PER_TOKEN, "rate_per_token": "0.00005"})
        [known] = snapshot.load().offers[endpoint.service_id].endpoints
        assert known.cost is not None
        assert known.cost.rates["prompt"] == Decimal("0.00005")
        make_endpoint(endpoint.service, order=1)
        assert [each.cost is None for each in snapshot.load().offers[endpoint.service_id].endpoints] == [
            False,
            True,
        ]

    @pytest.mark.parametrize(
        "pricing", [{**PER_TOKEN, "currency": "EUR"}, {"model": "gift"}, [1], "free"], ids=str
    )
    def test_what_is_no_price_or_in_another_currency_is_refused(self, pricing: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            make_endpoint(cost_pricing=pricing)
        assert list(refused.value.message_dict) == ["cost_pricing"]
