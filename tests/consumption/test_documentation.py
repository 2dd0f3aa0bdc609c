"""The API's description, its pages, and the problems that Django answers by itself."""

import json
import uuid
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator

from tests.api import anonymous, refusal

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]


@pytest.fixture
def document() -> Any:
    response = Client().get("/api/v1/openapi.json")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    return json.loads(response.content)


def test_every_call_of_the_contract_is_described(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    calls = {(path, method) for path, item in document["paths"].items() for method in item}
    assert calls == {
        ("/api/v1/consume/{service_id}", "post"),
        ("/api/v1/keys", "get"),
        ("/api/v1/keys", "post"),
        ("/api/v1/keys/{key_id}", "delete"),
        ("/api/v1/keys/{key_id}", "get"),
        ("/api/v1/keys/{key_id}", "patch"),
        ("/api/v1/keys/{key_id}/rotate", "post"),
        ("/api/v1/quota/{service_id}", "get"),
        ("/api/v1/secret-scanning", "post"),
        ("/api/v1/services", "get"),
        ("/api/v1/services/{service_id}", "get"),
        ("/api/v1/token", "post"),
        ("/api/v1/token/refresh", "post"),
        ("/api/v1/usage/{service_id}", "get"),
        ("/health", "get"),
        ("/health/ready", "get"),
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/v1/embeddings", "post"),
        ("/v1/messages", "post"),
        ("/v1/models", "get"),
    }


def test_who_may_call_is_described(document: Any) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {
        "apiKey": "bearer",
        "jwt": "bearer",
    }
    who = {
        f"{method} {path}": [name for choice in call.get("security", []) for name in choice]
        for path, item in document["paths"].items()
        for method, call in item.items()
    }
    assert who["post /api/v1/consume/{service_id}"] == ["apiKey"]
    assert who["post /api/v1/keys"] == ["jwt"]
    assert who["get /api/v1/quota/{service_id}"] == ["apiKey", "jwt"]
    assert who["get /api/v1/services"] == ["apiKey", "jwt"]
    assert who["post /api/v1/token"] == []


def test_a_paid_call_may_carry_an_idempotency_key(document: Any) -> None:
    call = document["paths"]["/api/v1/consume/{service_id}"]["post"]
    (header,) = [each for each in call["parameters"] if each["in"] == "header"]
    assert (header["name"], header.get("required", False)) == ("Idempotency-Key", False)
    assert header["schema"] == {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    assert "409" in call["responses"]


def test_every_refusal_is_a_problem_document(document: Any) -> None:
    for path, item in document["paths"].items():
        for call in item.values():
            for status, response in call["responses"].items():
                if status >= "400" and path.startswith("/api"):
                    assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_nothing_is_left_undescribed() -> None:
    GENERATOR_STATS.reset()
    SchemaGenerator(urlconf="config.urls").get_schema(public=True)  # type: ignore[no-untyped-call]
    assert not GENERATOR_STATS, dict(GENERATOR_STATS._warn_cache)


def test_the_page_needs_nothing_from_elsewhere_and_no_inline_script() -> None:
    response = Client().get("/api/v1/docs")
    page = response.content.decode()
    assert response.status_code == 200
    assert "script-src 'self';" in response["Content-Security-Policy"]
    assert "//" not in page.replace("<!--", "")
    assert "<script>" not in page
    assert Client().get("/api/v1/docs?script=")["Content-Type"].startswith("application/javascript")
    assert (
        Client().get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js").status_code
        == 200
    )


@pytest.mark.urls("config.console_urls")
def test_the_console_shows_the_same_document_to_read() -> None:
    assert Client().get("/")["Location"] == "/admin/"
    assert Client().get("/docs/").status_code == 200
    assert b'"supportedSubmitMethods": []' in Client().get("/docs/?script=").content
    assert "/api/v1/keys" in Client().get("/docs/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/", "/api/v1/nothing", "/api/v1/keys/", "/api/v2/keys", "/%00", "/api/v1/quota/"]
)
def test_what_is_not_there_is_a_problem_too(path: str) -> None:
    assert refusal(anonymous().get(path)) == (404, "not_found")


def test_a_host_that_is_not_ours_is_a_problem_too() -> None:
    assert refusal(anonymous().get("/api/v1/keys", HTTP_HOST="elsewhere.example")) == (
        400,
        "malformed_request",
    )


def test_a_defect_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr("catalog.views.entitlements_of", defect)
    monkeypatch.setattr("catalog.views.caller_of", defect)
    monkeypatch.setattr("rest_framework.views.APIView.check_permissions", lambda *_: None)
    response = anonymous().get("/api/v1/services")
    assert refusal(response) == (500, "internal_error")
    assert b"secret" not in response.content


def test_static_files_come_whole_in_part_or_not_at_all() -> None:
    url = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
    whole = Client().get(url)
    assert (whole.status_code, whole.streaming) == (200, False)
    assert whole["Content-Type"].startswith("text/javascript")
    assert int(whole["Content-Length"]) == len(whole.content) > 100_000
    part = Client().get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert Client().get(url, headers={"If-Modified-Since": whole["Last-Modified"]}).status_code == 304
    assert Client().head(url).content == b""


def test_every_answer_names_its_request() -> None:
    answers = [
        Client().get(path) for path in ("/api/v1/openapi.json", "/api/v1/docs", "/api/v1/keys", "/nothing")
    ]
    ids = {uuid.UUID(answer["X-Request-Id"]) for answer in answers}
    assert len(ids) == 4
    assert {id_.version for id_ in ids} == {7}
