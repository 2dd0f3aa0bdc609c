"""What a consumer reads of its own consumption: the quota of this month, and usage over days."""

import re
import uuid
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.acting import caller_of
from accounts.authentication import MemberAuthentication
from accounts.models import ConsumerBudget
from catalog.listing import entitlement_of
from catalog.models import Entitlement
from catalog.rendering import PlainNumberRenderer, json_number
from common.errors import InvalidField
from common.money import presented
from common.problem_schema import problems
from consumption.quota_reading import Counted, quota_now
from consumption.reading_serializers import QuotaSerializer, UsageStatisticsSerializer
from keys.authentication import ApiKeyAuthentication
from keys.grants import Grant
from keys.models import Scope
from metering.usage import usage_statistics
from quotas.limits import Limit, further_of

#: An API key or a person.
EITHER = (ApiKeyAuthentication, MemberAuthentication)
MOST_DAYS = 366


class QuotaView(APIView):
    authentication_classes = EITHER
    required_scope = Scope.QUOTA_READ

    @extend_schema(
        operation_id="quota_read",
        summary="Quota of this month",
        tags=["consumption"],
        responses={200: QuotaSerializer, **problems(400, 401, 403, 404)},
    )
    def get(self, request: Request, service_id: uuid.UUID) -> Response:
        """Tokens used and left in the current UTC month, and of every other limit in force for this caller."""
        caller = caller_of(request)
        entitlement = entitlement_of(caller, service_id)
        quota = quota_now(
            consumer_id=caller.consumer_id,
            service_id=service_id,
            tier=entitlement.in_force,
            further=_further_limits(request, entitlement),
        )
        document = {
            "service_id": service_id,
            "consumer_id": caller.consumer_id,
            "tier": entitlement.tier.name,
            "used_tokens": quota.used,
            "total_tokens": quota.limit,
            "remaining_tokens": quota.remaining,
            "reset_at": quota.reset_at,
            "exceeded": quota.exceeded,
            "reserved_tokens": quota.reserved,
            "limits": [_told(counted) for counted in quota.others],
        }
        return Response(QuotaSerializer(document).data)


def _further_limits(request: Request, entitlement: Entitlement) -> list[Limit]:
    """The consumer's, the service's, and the key's where a key asks."""
    budgets = ConsumerBudget.objects.filter(consumer_id=entitlement.consumer_id).order_by("id")
    return further_of(
        request.auth.limits if isinstance(request.auth, Grant) else None,
        [budget.value for budget in budgets],
        entitlement.service_id,
        entitlement.in_force,
        entitlement.service.pricing["currency"],
    )


def _told(counted: Counted) -> dict[str, Any]:
    limit = counted.limit
    used, reserved = (
        None if amount is None else limit.tell(amount) for amount in (counted.used, counted.reserved)
    )
    return {
        "name": limit.name,
        "scope": limit.scope,
        "limit": limit.told,
        "used": used,
        "reserved": reserved,
        "reset_at": counted.reset_at,
        "currency": limit.currency or None,
        "soft": limit.soft,
    }


class UsageView(APIView):
    authentication_classes = EITHER
    required_scope = Scope.USAGE_READ
    renderer_classes = (PlainNumberRenderer,)

    @extend_schema(
        operation_id="usage_read",
        summary="Usage over days",
        tags=["consumption"],
        parameters=[
            OpenApiParameter(
                "days",
                {"type": "integer", "minimum": 1, "maximum": MOST_DAYS, "default": 30},
                description="Whole UTC days, today included",
            )
        ],
        responses={200: UsageStatisticsSerializer, **problems(400, 401, 403, 404, 422)},
    )
    def get(self, request: Request, service_id: uuid.UUID) -> Response:
        """Requests, tokens, cost, latency and the share of errors over the last days."""
        caller = caller_of(request)
        service = entitlement_of(caller, service_id).service
        usage = usage_statistics(consumer_id=caller.consumer_id, service_id=service_id, days=_days(request))
        document = {
            "service_id": service_id,
            "consumer_id": caller.consumer_id,
            "period_start": usage.period_start,
            "period_end": usage.period_end,
            "total_requests": usage.total_requests,
            "total_tokens": usage.total_tokens,
            "total_cost": usage.total_cost,
            "avg_latency_ms": usage.avg_latency_ms,
            "error_rate": usage.error_rate,
        }
        total_cost = presented(usage.total_cost, usage.currency or service.pricing["currency"])
        return Response({**UsageStatisticsSerializer(document).data, "total_cost": json_number(total_cost)})


def _days(request: Request) -> int:
    text = request.query_params.get("days", "30")
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MOST_DAYS:
        raise InvalidField(
            f"days must be a whole number from 1 to {MOST_DAYS}",
            errors=[{"field": "days", "code": "out_of_range"}],
        )
    return int(text)
