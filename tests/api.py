"""The REST API as a client sees it."""

import json
from decimal import Decimal
from typing import Any

from rest_framework.response import Response
from rest_framework.test import APIClient

from accounts.models import User
from accounts.sign_ins import begin
from tests.telling import Telling


class Api(Telling, APIClient):
    pass


def anonymous() -> APIClient:
    return Api(raise_request_exception=False)


def signed_in(user: User, *, consumer_id: object = None) -> APIClient:
    """A client with the person's token, and the header that names a consumer where one is given."""
    client = anonymous()
    headers = {"HTTP_AUTHORIZATION": f"Bearer {begin(user=user).access_token}"}
    if consumer_id is not None:
        headers["HTTP_X_CONSUMER_ID"] = str(consumer_id)
    client.credentials(**headers)
    return client


def with_key(text: str) -> APIClient:
    client = anonymous()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def post_bytes(
    client: APIClient, url: str, body: bytes, *, content_type: str = "application/json"
) -> Response:
    """Send a body exactly as given."""
    response: Response = client.generic("POST", url, body, content_type=content_type)  # type: ignore[arg-type]
    return response


def exact(response: Response) -> Any:
    """The body, with fractions as ``Decimal``: a float would hide what was sent."""
    return json.loads(response.content, parse_float=Decimal)


def refusal(response: Response) -> tuple[int, str]:
    """Status and stable code of a problem document. Fails unless the answer is a complete one."""
    assert response["Content-Type"] == "application/problem+json"
    document = json.loads(response.content)
    assert document["status"] == response.status_code
    assert document["type"] == f"urn:marketplace:problem:{document['code']}"
    assert document["request_id"] == response["X-Request-Id"]
    return response.status_code, document["code"]
