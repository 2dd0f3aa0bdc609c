"""What Django answers by itself, as problem documents: nobody who speaks JSON is sent HTML."""

from django.http import HttpRequest, HttpResponse, JsonResponse

from common.errors import Malformed, NotFound, Problem
from common.ids import uuid7
from consumption.problems import MEDIA_TYPE


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem_response(Malformed())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem_response(NotFound())


def server_error(request: HttpRequest) -> HttpResponse:
    return problem_response(Problem())


def problem_response(problem: Problem) -> HttpResponse:
    """A problem document outside of any view."""
    request_id = str(uuid7())
    return JsonResponse(
        problem.document(request_id),
        status=problem.status,
        content_type=MEDIA_TYPE,
        headers={"X-Request-Id": request_id},
    )
