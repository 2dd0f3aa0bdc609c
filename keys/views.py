"""The consumer's own keys over the REST API."""

import datetime as dt
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
from catalog.rendering import PlainNumberRenderer
from common.parsing import StrictJSONParser
from common.problem_schema import problems
from keys.errors import KeyUnknown
from keys.issuing import change_key, issue_key, revoke_key, rotate_key
from keys.models import ApiKey
from keys.serializers import (
    KeyChangeSerializer,
    KeyRequestSerializer,
    KeySerializer,
    KeyWithHistorySerializer,
    NewKeySerializer,
    RotationSerializer,
)


class ManagesKeys(BasePermission):
    """Every member sees the keys; owners and developers issue, change, rotate and revoke them.

    Of a key that is named, it is asked once the key is found: one of another consumer is absent to every role.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        return "key_id" in view.kwargs or self.has_object_permission(request, view, None)

    def has_object_permission(self, request: Request, view: APIView, obj: object) -> bool:
        return request.method in SAFE_METHODS or membership_of(request).manages_keys


class NewestFirst(CursorPages):
    ordering = ("-created_at", "id")


class OfKeys(APIView):
    """What all views of keys have in common."""

    authentication_classes = (MemberAuthentication,)
    permission_classes = (IsAuthenticated, ManagesKeys)
    parser_classes = (StrictJSONParser,)
    renderer_classes = (PlainNumberRenderer,)

    def keys(self) -> QuerySet[ApiKey]:
        """The keys of the consumer that the caller acts for."""
        return ApiKey.objects.filter(consumer_id=membership_of(self.request).consumer_id)

    def key(self, key_id: uuid.UUID) -> ApiKey:
        """One of them. Raises ``KeyUnknown``, and then what ``ManagesKeys`` refuses."""
        key = self.keys().filter(id=key_id).first()
        if key is None:
            raise KeyUnknown
        self.check_object_permissions(self.request, key)
        return key

    def who(self) -> dict[str, Any]:
        """Whom the audit trail names."""
        actor = membership_of(self.request).user.get_username()
        return {"actor": actor, "address": address_of(self.request)}


@method_decorator(never_cache, name="dispatch")
class KeysView(OfKeys, ListAPIView[ApiKey]):
    pagination_class = NewestFirst
    serializer_class = KeySerializer

    def get_queryset(self) -> QuerySet[ApiKey]:
        return self.keys()

    @extend_schema(
        operation_id="keys_list",
        summary="List API keys",
        tags=["keys"],
        responses={200: KeySerializer(many=True), **problems(400, 401, 403, 404, 422)},
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
        key, text = issue_key(
            consumer=membership_of(request).consumer,
            service=None if service_id is None else listed_service(service_id),
            tier=asked.validated_data["tier"],
            environment=asked.validated_data["environment"],
            expires_in_days=asked.validated_data["expires_in_days"],
            options=asked.options(),
            **self.who(),
        )
        return _shown_once(key, text)


@method_decorator(never_cache, name="dispatch")
class KeyView(OfKeys):
    @extend_schema(
        operation_id="keys_read",
        summary="One API key",
        tags=["keys"],
        responses={200: KeyWithHistorySerializer, **problems(400, 401, 403, 404)},
    )
    def get(self, request: Request, key_id: uuid.UUID) -> Response:
        """A key, and in `history` the keys that rotation made before and after it."""
        return Response(KeyWithHistorySerializer(self.key(key_id)).data)

    @extend_schema(
        operation_id="keys_change",
        summary="Change an API key",
        tags=["keys"],
        request=KeyChangeSerializer,
        responses={200: KeySerializer, **problems(400, 401, 403, 404, 409, 413, 415, 422)},
    )
    def patch(self, request: Request, key_id: uuid.UUID) -> Response:
        """Name, scopes, networks, limits and metadata; what is not named stays. Holds everywhere within a second.

        Consumer, service, tier and environment of a key never change.
        """
        key = self.key(key_id)
        asked = KeyChangeSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        return Response(KeySerializer(change_key(key=key, changes=asked.options(), **self.who())).data)

    @extend_schema(
        operation_id="keys_revoke",
        summary="Revoke an API key",
        tags=["keys"],
        responses={204: None, **problems(400, 401, 403, 404)},
    )
    def delete(self, request: Request, key_id: uuid.UUID) -> Response:
        """It stops working within a second and for good. Revoking it again changes nothing."""
        revoke_key(key=self.key(key_id), **self.who())
        return Response(status=204)


@method_decorator(never_cache, name="dispatch")
class RotateKeyView(OfKeys):
    @extend_schema(
        operation_id="keys_rotate",
        summary="Rotate an API key",
        tags=["keys"],
        request=RotationSerializer,
        responses={201: NewKeySerializer, **problems(400, 401, 403, 404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, key_id: uuid.UUID) -> Response:
        """A new key that may do what the old one may. Both work until the overlap has passed or one is revoked."""
        key = self.key(key_id)
        asked = RotationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        overlap = dt.timedelta(seconds=asked.validated_data["overlap_seconds"])
        return _shown_once(*rotate_key(key=key, overlap=overlap, **self.who()))


def _shown_once(key: ApiKey, text: str) -> Response:
    shown = KeySerializer(key).data
    return Response({"id": shown.pop("id"), "key": text, **shown}, status=201)
