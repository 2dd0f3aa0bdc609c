"""``POST /consume`` through DRF, the readable reference of the lane, and the probes."""

import ipaddress
from typing import Any

from adrf.views import APIView
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import NotFound, TooLarge, Unavailable
from common.problem_schema import problems
from consumption import gauges, metrics, runtime
from consumption.answers import Answer, problem
from consumption.call import Call
from consumption.serializers import (
    ConsumeRequestSerializer,
    ConsumeResponseSerializer,
    HealthSerializer,
    ReadinessSerializer,
)
from consumption.transport import address_of, bearer_of


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
        parameters=[OpenApiParameter("service_id", str, OpenApiParameter.PATH)],
        responses={
            200: ConsumeResponseSerializer,
            **problems(400, 401, 402, 403, 404, 413, 422, 429, 502, 503, 504),
        },
        auth=[{"apiKey": []}],  # type: ignore[list-item]  # a security requirement; its stub knows names only
        tags=["consumption"],
        description="One paid call: checked, limited, routed, priced and recorded. `X-Cost` tells what it cost, "
        "`RateLimit-*` what is left of the rate.",
        examples=[
            OpenApiExample(
                "A prompt",
                {"prompt": "Explain quantum computing in simple terms", "max_tokens": 100},
                request_only=True,
            )
        ],
    )
    async def post(self, request: Request, service_id: str) -> HttpResponse:
        running = runtime.current()
        if running is None:
            raise Unavailable("This process does not serve calls")
        call = Call(
            key=bearer_of(request.headers.get("Authorization", "")),
            service_id=service_id,
            body=b"",
            address=address_of(request),
        )
        try:
            call.body = request._request.body
        except RequestDataTooBig:
            return _response(problem(TooLarge(), str(call.request_id)))
        return _response(await running.gateway.answer(call))


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
        if (running := runtime.current()) is not None:
            await gauges.observe(running)
        await sync_to_async(gauges.observe_database)()
        return HttpResponse(generate_latest(metrics.REGISTRY), content_type=CONTENT_TYPE_LATEST)


def _is_internal(address: str) -> bool:
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(client in ipaddress.ip_network(network) for network in settings.METRICS_NETWORKS)


def _response(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name] = value
    return response
