"""How the API documentation describes refusals: one shape for all of them (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

_MEANINGS = {
    400: "The request could not be read",
    401: "No credentials, or ones that are not valid any more",
    402: "The quota or budget is spent",
    403: "A bad API key, or something that this caller may not do",
    404: "Unknown, or not yours",
    406: "No representation that the client accepts",
    409: "A call with the same Idempotency-Key is running, or was made and its answer is not kept",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A field is not valid; `errors` says which",
    429: "Too many requests, see Retry-After",
    500: "A defect of ours",
    502: "The upstream failed",
    503: "Not able to serve this now, see Retry-After",
    504: "The deadline passed",
}


def meaning_of(status: int) -> str:
    """What a status tells, in a sentence."""
    return _MEANINGS[status]


class FieldProblemSerializer(serializers.Serializer[Any]):
    """Which field is not valid, and a stable code for what is wrong with it."""

    field = serializers.CharField()
    code = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """A problem document (RFC 9457). Decide by ``code``; it never changes."""

    type = serializers.CharField(help_text="`urn:marketplace:problem:` and the code")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable and machine-readable")
    request_id = serializers.UUIDField(help_text="Quote it when you ask about this answer")
    errors = FieldProblemSerializer(many=True, required=False)  # type: ignore[assignment]


def problems(*statuses: int) -> Mapping[tuple[int, str], OpenApiResponse]:
    """The responses for ``extend_schema``: ``{200: …, **problems(401, 404)}``."""
    return {
        (status, "application/problem+json"): OpenApiResponse(ProblemSerializer, _MEANINGS[status])
        for status in statuses
    }
