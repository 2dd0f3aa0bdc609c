"""Pages of tables that are too large to be counted."""

from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts up to a bound, no further than somebody would leaf: to count millions of rows takes too long."""

    bound = 10_000

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # lists are what the stub knows
        return rows.order_by()[: self.bound].count()
