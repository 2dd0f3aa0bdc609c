"""The consumer's own keys over the REST API."""

import uuid
from typing import Any

from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.permissions import SAFE_METHODS, BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.acting import membership_of
from accounts.authentication import MemberAuthentication
from audit.trail import address_of
from catalog.entitlements import listed_service
from catalog.pagination import CursorPages
from common.parsing import StrictJSONParser
from common.problem_schema import problems
from keys.errors import KeyUnknown
from keys.issuing import issue_key, revoke_key
from keys.models import ApiKey
from keys.serializers import KeyRequestSerializer, KeySerializer, NewKeySerializer


class ManagesKeys(BasePermission):
    """Every member sees the keys; owners and developers issue and revoke them."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method in SAFE_METHODS or membership_of(request).manages_keys


class NewestFirst(CursorPages):
    ordering = ("-created_at", "id")


@method_decorator(never_cache, name="dispatch")
class KeysView(ListAPIView[ApiKey]):
    authentication_classes = (MemberAuthentication,)
    permission_classes = (IsAuthenticated, ManagesKeys)
    parser_classes = (StrictJSONParser,)
    pagination_class = NewestFirst
    serializer_class = KeySerializer

    def get_queryset(self) -> QuerySet[ApiKey]:
        return ApiKey.objects.filter(consumer_id=membership_of(self.request).consumer_id)

    @extend_schema(
        operation_id="keys_list",
        summary="List API keys",
        tags=["keys"],
        responses={200: KeySerializer(many=True), **problems(400, 401, 403, 404)},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The consumer's keys, newest first, revoked and expired ones too. Never their secrets."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="keys_create",
        summary="Create an API key",
        tags=["keys"],
        request=KeyRequestSerializer,
        responses={201: NewKeySerializer, **problems(400, 401, 403, 404, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """A new key. Keep `key`: it is not shown again. Needs the role owner or developer."""
        asked = KeyRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        service_id: uuid.UUID | None = asked.validated_data["service_id"]
        membership = membership_of(request)
        key, text = issue_key(
            consumer=membership.consumer,
            service=None if service_id is None else listed_service(service_id),
            tier=asked.validated_data["tier"],
            name=asked.validated_data["name"],
            expires_in_days=asked.validated_data["expires_in_days"],
            actor=membership.user.get_username(),
            address=address_of(request),
        )
        shown = KeySerializer(key).data
        return Response({"id": shown.pop("id"), "key": text, **shown}, status=201)


class KeyView(APIView):
    authentication_classes = (MemberAuthentication,)
    permission_classes = (IsAuthenticated, ManagesKeys)

    @extend_schema(
        operation_id="keys_revoke",
        summary="Revoke an API key",
        tags=["keys"],
        responses={204: None, **problems(400, 401, 403, 404)},
    )
    def delete(self, request: Request, key_id: uuid.UUID) -> Response:
        """It stops working within a second and for good. Revoking it again changes nothing."""
        membership = membership_of(request)
        key = ApiKey.objects.filter(id=key_id, consumer_id=membership.consumer_id).first()
        if key is None:
            raise KeyUnknown
        revoke_key(key=key, actor=membership.user.get_username(), address=address_of(request))
        return Response(status=204)
