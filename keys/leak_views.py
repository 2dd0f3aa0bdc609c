"""Where keys that were found in public are reported."""

from typing import Any

from django.core.exceptions import RequestDataTooBig
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit.trail import address_of
from common.errors import TooLarge
from common.parsing import StrictJSONParser, strict_json
from common.problem_schema import problems
from keys.leaks import Finding, handle, verify_signature

IDENTIFIER, SIGNATURE = "Github-Public-Key-Identifier", "Github-Public-Key-Signature"
#: Tokens of one report: each may cost 20 ms of Argon2.
MOST_FINDINGS = 100
MOST_BYTES = 256 * 1024


class FindingSerializer(serializers.Serializer[Any]):
    """Fields that are not known are passed over: the reporter may add some."""

    token = serializers.CharField(max_length=1000, trim_whitespace=False)
    type = serializers.CharField(max_length=200, allow_blank=True)
    url = serializers.CharField(
        max_length=4000, required=False, allow_blank=True, allow_null=True, default=""
    )
    source = serializers.CharField(  # type: ignore[assignment]  # a field of the report, not the base's option
        max_length=200, required=False, allow_blank=True, allow_null=True
    )


class VerdictSerializer(serializers.Serializer[Any]):
    token_hash = serializers.CharField(help_text="SHA-256 of the token, in Base64")
    token_type = serializers.CharField(source="finding.type")
    label = serializers.CharField(  # type: ignore[assignment]  # a field of the answer, not the base's option
        help_text="`true_positive` or `false_positive`"
    )


class LeaksView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    parser_classes = (StrictJSONParser,)

    @extend_schema(
        operation_id="leaks_report",
        summary="Report keys that were found in public",
        tags=["keys"],
        auth=[],
        parameters=[
            OpenApiParameter(name, str, OpenApiParameter.HEADER, required=True)
            for name in (IDENTIFIER, SIGNATURE)
        ],
        request=FindingSerializer(many=True),
        responses={200: VerdictSerializer(many=True), **problems(400, 403, 413, 422)},
    )
    def post(self, request: Request) -> Response:
        """In the shape of GitHub's secret scanning partner programme. Keys are revoked and their owners told."""
        body = _raw(request)
        verify_signature(
            body=body,
            identifier=request.headers.get(IDENTIFIER, ""),
            signature=request.headers.get(SIGNATURE, ""),
        )
        report = FindingSerializer(data=strict_json(body), many=True, max_length=MOST_FINDINGS)  # type: ignore[call-arg]
        report.is_valid(raise_exception=True)
        findings = [Finding(row["token"], row["type"], row["url"] or "") for row in report.validated_data]
        return Response(VerdictSerializer(handle(findings, address=address_of(request)), many=True).data)


def _raw(request: Request) -> bytes:
    """The body as it came: that is what was signed."""
    try:
        body = request._request.body
    except RequestDataTooBig as error:
        raise TooLarge from error
    if len(body) > MOST_BYTES:
        raise TooLarge
    return body
