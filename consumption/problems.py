"""DRF's exceptions as problem documents, so that every refusal of the REST API looks alike (RFC 9457)."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from common.errors import Problem, Unavailable
from common.ids import uuid7

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_CODES: dict[int, tuple[str, str]] = {
    400: ("malformed_request", "The request could not be read"),
    401: ("credentials_missing", "Credentials are missing or not valid"),
    403: ("forbidden", "Not allowed"),
    404: ("not_found", "Not found"),
    405: ("method_not_allowed", "The method is not allowed here"),
    406: ("not_acceptable", "No representation that the client accepts"),
    415: ("unsupported_media_type", "The body must be application/json"),
    422: ("invalid_field", "A field is not valid"),
    429: ("rate_limited", "Too many requests"),
}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook. None leaves what is not a refusal to Django: it is a defect, and answers 500."""
    request_id = str(uuid7())
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("the database did not answer: %s", error)
        error = Unavailable(retry_after=1)
    if isinstance(error, Problem):
        return _response(error.document(request_id), error.status, request_id, error.retry_after)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if not isinstance(error, exceptions.APIException):
        return None
    status = 422 if isinstance(error, exceptions.ValidationError) else error.status_code
    code, title = _CODES.get(status, ("refused", "The request was refused"))
    document: dict[str, Any] = {
        "type": f"urn:marketplace:problem:{code}",
        "title": title,
        "status": status,
        "detail": title,
        "code": code,
        "request_id": request_id,
    }
    if isinstance(error, exceptions.ValidationError):
        document["errors"] = _fields(error.get_full_details())
    response = _response(document, status, request_id, getattr(error, "wait", None))
    if header := getattr(error, "auth_header", None):
        response["WWW-Authenticate"] = header
    return response


def _fields(details: Any) -> list[dict[str, str]]:
    """Which fields, and the stable code of what is wrong: never the value that was sent."""
    if not isinstance(details, dict):
        return []
    return [
        {"field": str(name), "code": _first_code(detail)}
        for name, detail in details.items()
        if name != "message"
    ]


def _first_code(detail: Any) -> str:
    while isinstance(detail, list) and detail:
        detail = detail[0]
    if isinstance(detail, dict):
        return str(detail.get("code", "invalid"))
    return "invalid"


def _response(document: dict[str, Any], status: int, request_id: str, retry_after: float | None) -> Response:
    response = Response(document, status=status, content_type=MEDIA_TYPE)
    response["X-Request-Id"] = request_id
    if retry_after is not None:
        response["Retry-After"] = str(max(1, round(retry_after)))
    return response
