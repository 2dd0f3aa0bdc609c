"""Lists of the REST API: a page and where the next one is."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView


class CursorPages(CursorPagination):
    """``{"next": URL or null, "previous": URL or null, "results": […]}``; ``?limit=`` up to 200.

    A cursor stays right while rows are added. Subclasses say the order.
    """

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: APIView | None = None
    ) -> list[Any] | None:
        """A cursor that somebody made up may hold what is no value of the column."""
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValidationError, ValueError) as error:
            raise NotFound from error
