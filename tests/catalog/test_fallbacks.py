"""A service's deadlines and its fallback: in their ranges, and never in a circle, whoever writes."""

import threading
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from catalog.models import Service
from catalog.publishing import change_service
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import make_service
from tests.harness.waiting import wait_for
from tests.telling import told_by_the_application

__all__ = ["audit_trail_may_be_emptied", "committed"]


def chain(length: int) -> list[Service]:
    """Services of which each falls back to the next."""
    services = [make_service()]
    for _ in range(length - 1):
        services.insert(0, make_service(fallback=services[0]))
    return services


@pytest.mark.django_db
@pytest.mark.parametrize("length", [1, 2, 5])
class TestCircle:
    def test_is_refused_with_a_sentence(self, length: int) -> None:
        services = chain(length)
        services[-1].fallback = services[0]
        with pytest.raises(ValidationError) as refused:
            services[-1].full_clean()
        assert refused.value.message_dict == {"fallback": ["It would fall back to itself"]}

    def test_is_refused_by_the_database(self, length: int) -> None:
        services = chain(length)
        with pytest.raises(IntegrityError, match="cannot fall back to itself"), transaction.atomic():
            Service.objects.filter(id=services[-1].id).update(fallback=services[0])
        services[-1].refresh_from_db()
        assert services[-1].fallback is None

    def test_no_circle_is_no_refusal(self, length: int) -> None:
        services = chain(length)
        shared = make_service(fallback=services[0])
        shared.full_clean()
        services[0].fallback = services[-1] if length > 1 else None
        services[0].full_clean()
        services[0].save()


@pytest.mark.django_db
def test_a_circle_that_one_statement_closes_is_refused() -> None:
    one, two = make_service(), make_service()
    swap = "UPDATE services SET fallback_id = CASE id WHEN %s THEN %s::uuid ELSE %s::uuid END WHERE id IN (%s, %s)"
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(swap, [one.id, two.id, one.id, one.id, two.id])
    assert not Service.objects.exclude(fallback=None).exists()


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.usefixtures("committed")
def test_of_two_who_close_a_circle_at_once_the_second_is_refused() -> None:
    one, two = make_service(), make_service()
    refused = []

    def point_second_at_first() -> None:
        try:
            two.fallback = one
            two.full_clean()
            change_service(service=two, actor="second")
        except IntegrityError as error:
            refused.append(str(error))
        finally:
            connection.close()

    second = threading.Thread(target=point_second_at_first)
    with transaction.atomic():
        one.fallback = two
        change_service(service=one, actor="first")
        second.start()
        wait_for(waits_for_a_lock)
    second.join(30)
    assert len(refused) == 1
    assert "cannot fall back to itself" in refused[0]
    assert dict(Service.objects.values_list("id", "fallback")) == {one.id: two.id, two.id: None}
    assert [entry.actor for entry in told_by_the_application()] == ["first"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connect_seconds", 0), ("connect_seconds", 3601), ("connect_seconds", None), ("first_byte_seconds", 0),
        ("first_byte_seconds", 3601), ("idle_seconds", 0), ("idle_seconds", 3601), ("least_bytes_per_second", 0),
        ("on_client_gone", "shrug"), ("tokenizer", "shrug"), ("outage_mode", "shrug"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_by_form_and_database(field: str, value: Any) -> None:
    service = make_service()
    before = getattr(service, field)
    with pytest.raises(IntegrityError), transaction.atomic():
        Service.objects.update(**{field: value})
    setattr(service, field, value)
    with pytest.raises(ValidationError) as refused:
        service.full_clean()
    assert list(refused.value.message_dict) == [field]
    assert getattr(Service.objects.get(), field) == before


@pytest.mark.django_db
def test_the_database_itself_has_the_defaults() -> None:
    """The published schema is written to by plain SQL; columns of ours must not stand in its way."""
    service = make_service()
    fields = (
        "connect_seconds",
        "first_byte_seconds",
        "idle_seconds",
        "least_bytes_per_second",
        "on_client_gone",
        "tokenizer",
        "outage_mode",
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO services (name, version, endpoint, upstream_model, status, pricing, sla, region, clearance,"
            " default_max_tokens, deadline_seconds, stream_deadline_seconds)"
            " SELECT 'plain', version, endpoint, upstream_model, status, pricing, sla, region, clearance,"
            " default_max_tokens, deadline_seconds, stream_deadline_seconds FROM services WHERE id = %s",
            [service.id],
        )
    assert Service.objects.values_list(*fields).get(name="plain") == (5, None, 60, 1, "cancel", "", "closed")
