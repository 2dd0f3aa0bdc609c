"""Services over the REST API. The gateway's routes let API keys in as well as people."""

import uuid
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.acting import caller_of
from accounts.authentication import MemberAuthentication
from catalog.entitlements import listed_service
from catalog.errors import NotEntitled
from catalog.listing import apply_tier_of, entitlements_of
from catalog.models import Entitlement
from catalog.pagination import CursorPages
from catalog.rendering import PlainNumberRenderer
from catalog.serializers import OfferSerializer
from common.problem_schema import problems


class ByName(CursorPages):
    ordering = ("name", "version", "id")


class ServicesView(ListAPIView[Entitlement]):
    authentication_classes = (MemberAuthentication,)
    required_scope = "consume"  # of an API key: an app that this one does not know
    renderer_classes = (PlainNumberRenderer,)
    pagination_class = ByName
    serializer_class = OfferSerializer

    def get_queryset(self) -> QuerySet[Entitlement]:
        return entitlements_of(caller_of(self.request))

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        apply_tier_of(caller_of(self.request), page or ())
        return page

    @extend_schema(
        operation_id="services_list",
        summary="List services",
        tags=["services"],
        responses={200: OfferSerializer(many=True), **problems(400, 401, 403, 404, 422)},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The services that the consumer is entitled to, with price and limits."""
        return super().get(request, *args, **kwargs)


class ServiceView(APIView):
    authentication_classes = (MemberAuthentication,)
    required_scope = "consume"  # of an API key: an app that this one does not know
    renderer_classes = (PlainNumberRenderer,)

    @extend_schema(
        operation_id="services_read",
        summary="One service",
        tags=["services"],
        responses={200: OfferSerializer, **problems(400, 401, 403, 404)},
    )
    def get(self, request: Request, service_id: uuid.UUID) -> Response:
        """A service that the consumer is entitled to, with price and limits."""
        caller = caller_of(request)
        entitlement = entitlements_of(caller).filter(service_id=service_id).first()
        if entitlement is None:
            listed_service(service_id)  # raises for one that nobody may know of
            raise NotEntitled
        apply_tier_of(caller, [entitlement])
        return Response(OfferSerializer(entitlement).data)
