"""Every route, every id of another consumer, every role: the answer is that for an id that nobody has."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from accounts.models import Consumer
from config.documentation import document
from tests import factories
from tests.foreign.callers import Caller, every_caller
from tests.foreign.routes import Route, every_route
from tests.foreign.rows import changes, every_row
from tests.foreign.world import Other, every_id, kind_of

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

#: A body with which each write to an id would do something, were the id the caller's.
BODIES: dict[tuple[str, str], Any] = {
    ("/api/v1/keys/<uuid:key_id>", "patch"): {"name": "taken"},
    ("/api/v1/keys/<uuid:key_id>", "delete"): None,
    ("/api/v1/keys/<uuid:key_id>/rotate", "post"): {"overlap_seconds": 0},
}
#: Bodies that name a row: the field, and what is sent beside it.
NAMED_IN_BODIES: dict[tuple[str, str], tuple[str, Any]] = {
    ("/api/v1/keys", "post"): ("service_id", {"tier": "basic"}),
}
#: DRF describes the view, and looks no row up.
DESCRIBES = "options"
READS = ("get", "head", DESCRIBES)
#: What names nothing, by kind.
ABSENT = {"uuid": str(uuid.uuid4()), "number": "9" * 18, "text": "z" * 8}
CHANGING_HEADERS = {"X-Request-Id", "Content-Length", "Expires"}

Answer = tuple[int, dict[str, str], Any]


@pytest.fixture
def other() -> Other:
    for tier in factories.TIERS:
        factories.make_tier(tier)
    other = Other()
    other.is_whole()
    return other


@pytest.fixture
def own(other: Other) -> Consumer:
    """Made after the other: what it has is no id of another's."""
    return factories.make_consumer()


def ask(caller: Caller, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Status, headers and body, but for what differs between any two answers."""
    content: Any = b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Any = caller.client.generic(
        method.upper(),
        path,
        content,
        content_type="application/json",
        headers=named,
    )
    kept = {name: value for name, value in response.headers.items() if name not in CHANGING_HEADERS}
    try:
        answer = json.loads(response.content or b"null")
    except ValueError:
        answer = response.content
    if isinstance(answer, dict):
        answer.pop("request_id", None)
    return response.status_code, kept, answer


def is_refused(caller: Caller, answer: Answer) -> bool:
    """404, or what this caller is told whatever they ask for. A HEAD has no code to tell them apart by."""
    status, _, body = answer
    if body is None:
        return status == 404 or status in {each for each, _ in caller.refusals}
    return status == 404 or (status, body["code"]) in caller.refusals


def calls_with_ids() -> Iterator[tuple[Route, str]]:
    for route in every_route():
        if route.parameters and not route.paid:
            for method in route.methods:
                yield route, method


def test_an_id_of_another_is_answered_as_one_that_nobody_has(other: Other, own: Consumer) -> None:
    ids = sorted(every_id() - {str(own.id)})
    callers = every_caller(own)
    before = every_row()
    for route, method in calls_with_ids():
        called = (route.template, method)
        assert method in READS or called in BODIES, f"the matrix knows no body for {called}"
        for caller in callers:
            expected = {
                kind: ask(caller, method, route.filled(value), BODIES.get(called))
                for kind, value in ABSENT.items()
            }
            for value in ids:
                answer = ask(caller, method, route.filled(value), BODIES.get(called))
                assert answer == expected[kind_of(value)], (caller.name, called, value)
                assert method == DESCRIBES or is_refused(caller, answer), (caller.name, called, answer)
    assert not changes(before, every_row())


def test_a_service_or_row_of_another_cannot_be_named_in_a_body(other: Other, own: Consumer) -> None:
    ids = sorted(value for value in every_id() - {str(own.id)} if kind_of(value) == "uuid")
    factories.make_entitlement(own)
    callers = every_caller(own)
    before = every_row()
    for (path, method), (field, beside) in NAMED_IN_BODIES.items():
        for caller in callers:
            expected = ask(caller, method, path, {field: ABSENT["uuid"], **beside})
            for value in ids:
                answer = ask(caller, method, path, {field: value, **beside})
                assert answer == expected, (caller.name, path, value)
                assert is_refused(caller, answer) or answer[2]["code"] == "forbidden", (caller.name, answer)
    assert not changes(before, every_row())


def test_the_matrix_knows_every_id_that_a_body_or_query_may_name() -> None:
    described = document()
    found = set()
    for path, item in described["paths"].items():
        for method, call in item.items():
            for field in uuid_fields(call.get("requestBody", {}), described):
                found.add((path, method, field))
            for parameter in call.get("parameters", ()):
                assert parameter["in"] == "path" or parameter["schema"].get("format") != "uuid", (
                    path,
                    parameter,
                )
    assert found == {(path, method, field) for (path, method), (field, _) in NAMED_IN_BODIES.items()}


def uuid_fields(part: Any, described: Any) -> Iterator[str]:
    """Names of the properties below a part of the document that are ids."""
    if isinstance(part, list):
        for each in part:
            yield from uuid_fields(each, described)
    elif isinstance(part, dict):
        if "$ref" in part:
            yield from uuid_fields(
                described["components"]["schemas"][part["$ref"].rpartition("/")[2]], described
            )
        for name, each in part.items():
            if isinstance(each, dict) and each.get("format") == "uuid":
                yield name
            yield from uuid_fields(each, described)


def test_another_consumer_cannot_be_named_to_act_for(other: Other, own: Consumer) -> None:
    nobody, *callers = every_caller(own)
    members = [caller for caller in callers if not caller.refusals]
    before = every_row()
    calls = [(route, method) for route in every_route() if not route.paid for method in route.methods]
    closed = 0
    for route, method in calls:
        path = route.filled(ABSENT["uuid"])
        if method == DESCRIBES or ask(nobody, method, path)[0] != 401:
            continue
        for caller in members:
            theirs = ask(caller, method, path, X_Consumer_Id=str(other.consumer.id))
            assert theirs == ask(caller, method, path, X_Consumer_Id=ABSENT["uuid"]), (caller.name, route)
            assert theirs[0] == 404, (caller.name, route, theirs)
            closed += 1
    assert closed
    assert not changes(before, every_row())


def test_lists_hold_nothing_of_another(other: Other, own: Consumer) -> None:
    ids = {value for value in every_id() - {str(own.id)} if kind_of(value) == "uuid"}
    for caller in every_caller(own):
        for route in every_route():
            if not route.parameters and not route.paid and "get" in route.methods:
                response = caller.client.get(route.template)
                assert not [value for value in ids if value in response.content.decode()], (
                    caller.name,
                    route,
                )


def test_a_listed_service_does_not_tell_whether_another_is_entitled_to_it(own: Consumer) -> None:
    """It is for sale, so the contract says 403: the same whoever else has bought it."""
    theirs, nobodys = factories.make_entitlement().service, factories.make_service()
    for caller in every_caller(own):
        for route, method in calls_with_ids():
            if route.parameters == ("service_id",):
                answers = [ask(caller, method, route.filled(each.id)) for each in (theirs, nobodys)]
                assert answers[0] == answers[1], (caller.name, route, method)
