"""``POST /consume`` through DRF, the readable reference of the lane, and the probes."""

import ipaddress
from typing import Any

from adrf.views import APIView
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import NotFound, TooLarge, Unavailable
from common.problem_schema import problems
from consumption import dialect_schema, exposition, runtime
from consumption.answers import refusal
from consumption.call import Call
from consumption.dialect_schema import IDEMPOTENCY_KEY
from consumption.dialects import anthropic, openai
from consumption.dialects.base import Dialect
from consumption.paid_response import PaidResponse, response_of
from consumption.serializers import (
    ConsumeRequestSerializer,
    ConsumeResponseSerializer,
    HealthSerializer,
    ReadinessSerializer,
)
from consumption.transport import DIALECTS, MARKETPLACE, address_of, key_of


class OpenView(APIView):  # type: ignore[misc]  # adrf has no types
    """A view that asks for no credentials, or sees to them itself."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class ConsumeView(OpenView):
    """One paid call. The gateway authenticates, since a key is proven and remembered there."""

    @extend_schema(
        operation_id="consume",
        summary="Call an LLM service",
        request=ConsumeRequestSerializer,
        parameters=[OpenApiParameter("service_id", str, OpenApiParameter.PATH), IDEMPOTENCY_KEY],
        responses={
            200: ConsumeResponseSerializer,
            **problems(400, 401, 402, 403, 404, 409, 413, 422, 429, 502, 503, 504),
        },
        auth=[{"apiKey": []}],  # type: ignore[list-item]  # a security requirement; its stub knows names only
        tags=["consumption"],
        description="One paid call: checked, limited, routed, priced and recorded. `X-Cost` tells what it cost, "
        "`RateLimit-*` what is left of the rate. With an `Idempotency-Key` it may be repeated and is paid for once.",
        examples=[
            OpenApiExample(
                "A prompt",
                {"prompt": "Explain quantum computing in simple terms", "max_tokens": 100},
                request_only=True,
            )
        ],
    )
    async def post(self, request: Request, service_id: str) -> HttpResponseBase:
        return await _paid(
            request, Call(MARKETPLACE, _key(request, MARKETPLACE), address_of(request), service_id)
        )


class DialectView(OpenView):
    """One paid call in OpenAI's dialect or Anthropic's; the path says which of their calls."""

    async def post(self, request: Request) -> HttpResponseBase:
        dialect = DIALECTS[request.path]
        return await _paid(request, Call(dialect, _key(request, dialect), address_of(request)))


class ModelsView(OpenView):
    """What a key may call, as OpenAI's clients list it, or Anthropic's: theirs send a version along."""

    @dialect_schema.models
    async def get(self, request: Request) -> HttpResponse:
        dialect = anthropic.MESSAGES if "Anthropic-Version" in request.headers else openai.CHAT
        call = Call(dialect, _key(request, dialect), address_of(request))
        running = runtime.current()
        if running is None:
            return response_of(refusal(call, Unavailable("This process does not serve calls")))
        return response_of(await running.gateway.models(call, dialect.models))


class HealthView(OpenView):
    """Whether the process lives."""

    @extend_schema(
        operation_id="health", summary="Live", tags=["health"], auth=[], responses={200: HealthSerializer}
    )
    async def get(self, request: Request) -> Response:
        return Response({"status": "ok"})


class ReadyView(OpenView):
    """Whether the process would serve a call, with each dependency by name."""

    @extend_schema(
        operation_id="ready",
        summary="Ready",
        tags=["health"],
        auth=[],
        responses={200: ReadinessSerializer, 503: ReadinessSerializer},
    )
    async def get(self, request: Request) -> Response:
        running = runtime.current()
        if running is None:
            return Response({"status": "not ready", "dependencies": {}}, status=503)
        state: dict[str, Any] = {
            "status": "ready" if running.is_ready else "not ready",
            "dependencies": running.dependencies,
        }
        return Response(state, status=200 if running.is_ready else 503)


class MetricsView(OpenView):
    """Prometheus text, for the networks of ``METRICS_NETWORKS`` only; to all others it does not exist."""

    @extend_schema(exclude=True)
    async def get(self, request: Request) -> HttpResponse:
        if not _is_internal(address_of(request)):
            raise NotFound()
        return HttpResponse(await exposition.text(), content_type=CONTENT_TYPE_LATEST)


def _is_internal(address: str) -> bool:
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(client in ipaddress.ip_network(network) for network in settings.METRICS_NETWORKS)


def _key(request: Request, dialect: Dialect) -> str | None:
    return key_of(dialect, request.headers.get("Authorization"), request.headers.get("X-Api-Key"))


async def _paid(request: Request, call: Call) -> HttpResponseBase:
    running = runtime.current()
    if running is None:
        return response_of(refusal(call, Unavailable("This process does not serve calls")))
    try:
        call.body = request._request.body
        call.idempotency_key = request.headers.get("Idempotency-Key")
        call.betas = request.headers.get("Anthropic-Beta", "")
    except RequestDataTooBig:
        return response_of(refusal(call, TooLarge()))
    return await PaidResponse(running.gateway.answer(call)).response()
