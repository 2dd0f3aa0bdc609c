"""Lists of the REST API: a page and where the next one is."""

from rest_framework.pagination import CursorPagination


class CursorPages(CursorPagination):
    """``{"next": URL or null, "previous": URL or null, "results": […]}``; ``?limit=`` up to 200.

    A cursor stays right while rows are added. Subclasses say the order.
    """

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200
