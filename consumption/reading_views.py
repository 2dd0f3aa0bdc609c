"""What a consumer reads of its own consumption: the quota of this month, and usage over days."""

import uuid

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.acting import caller_of
from accounts.authentication import MemberAuthentication
from catalog.listing import entitlement_of
from common.problem_schema import problems
from consumption.quota_reading import quota_now
from consumption.reading_serializers import QuotaSerializer
from keys.authentication import ApiKeyAuthentication

#: An API key or a person.
EITHER = (ApiKeyAuthentication, MemberAuthentication)


class QuotaView(APIView):
    authentication_classes = EITHER

    @extend_schema(
        operation_id="quota_read",
        summary="Quota of this month",
        tags=["consumption"],
        responses={200: QuotaSerializer, **problems(400, 401, 403, 404)},
    )
    def get(self, request: Request, service_id: uuid.UUID) -> Response:
        """Tokens used and left in the current UTC month, of the tier in force for this caller."""
        caller = caller_of(request)
        tier = entitlement_of(caller, service_id).tier
        quota = quota_now(consumer_id=caller.consumer_id, service_id=service_id, limit=tier.tokens_per_month)
        document = {
            "service_id": service_id,
            "consumer_id": caller.consumer_id,
            "tier": tier.name,
            "used_tokens": quota.used,
            "total_tokens": quota.limit,
            "remaining_tokens": quota.remaining,
            "reset_at": quota.reset_at,
            "exceeded": quota.exceeded,
        }
        return Response(QuotaSerializer(document).data)
