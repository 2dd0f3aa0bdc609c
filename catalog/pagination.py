"""Lists of the REST API: a page and where the next one is."""

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView

from common.errors import InvalidField


class CursorPages(CursorPagination):
    """``{"next": URL or null, "previous": URL or null, "results": […]}``; ``?limit=`` up to 200.

    A cursor stays right while rows are added. Subclasses say the order.
    """

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200

    def get_page_size(self, request: Request) -> int:
        """Raises ``InvalidField`` for what is no number of rows; more than the most is the most."""
        text = request.query_params.get(self.page_size_query_param, str(self.page_size))
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
            raise InvalidField(
                "limit must be a whole number from 1", errors=[{"field": "limit", "code": "invalid"}]
            )
        return min(int(text), self.max_page_size)

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        """As the documentation has them: DRF does not say that a page is not empty."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == self.page_size_query_param:
                parameter["schema"] = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
        return parameters

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: APIView | None = None
    ) -> list[Any] | None:
        """A cursor that somebody made up may hold what is no value of the column."""
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValidationError, ValueError) as error:
            raise NotFound from error
