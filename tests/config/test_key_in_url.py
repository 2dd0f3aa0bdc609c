"""A key in a URL is refused on every route, and repeated nowhere."""

import json
import logging

import pytest
from django.test import Client

from keys.format import mint
from tests.api import anonymous, refusal

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]


def urls(text: str) -> list[str]:
    return [
        f"/api/v1/keys?key={text}",
        "/api/v1/keys?limit=2&API_KEY=anything",
        "/api/v1/services?access_token=",
        f"/api/v1/keys/{text}",
        f"/api/v1/consume/{text}",
        f"/api/v1/nothing?x=%6d%6B_live_{text[8:]}",
        f"/{text}",
        f"/health?{text}",
        f"/admin/?next=/{text}",
        f"/static/{text}",
    ]


@pytest.mark.parametrize("number", range(10))
def test_a_key_in_a_url_is_refused_on_every_route(number: int, caplog: pytest.LogCaptureFixture) -> None:
    text = mint().text
    url = urls(text)[number]
    with caplog.at_level(logging.DEBUG):
        answers = [anonymous().get(url), anonymous().post(url, {}, format="json")]
    assert [refusal(answer) for answer in answers] == [(400, "key_in_url")] * 2
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["an API key was sent in a URL, by 127.0.0.1"] * 2
    assert text[8:40] not in caplog.text
    assert all(text.encode() not in answer.content for answer in answers)


def test_openai_clients_are_told_in_their_own_way() -> None:
    answer = Client().post("/v1/chat/completions?api_key=x", b"{}", content_type="application/json")
    assert answer.status_code == 400
    assert json.loads(answer.content)["error"]["code"] == "key_in_url"


def test_what_is_no_key_passes() -> None:
    assert Client().get("/health?key=x").status_code == 200
    assert Client().get("/api/v1/openapi.json?keyword=mk_living").status_code == 200
