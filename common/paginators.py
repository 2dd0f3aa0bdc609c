"""Pages of tables that are too large to be counted."""

from typing import Any

from django.core.paginator import Paginator
from django.db import OperationalError, connections, transaction
from django.db.models import QuerySet
from django.utils.functional import cached_property
from psycopg2.errors import QueryCanceled


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts up to a bound, no further than somebody would leaf, and no longer than somebody would wait.

    Rows of two filters that no index has together may be looked for in millions before there are as many as the bound.
    """

    bound = 10_000
    #: Milliseconds that counting may take.
    patience = 300

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # lists are what the stub knows
        try:
            with transaction.atomic(using=rows.db), connections[rows.db].cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = %s", [self.patience])
                found = rows.order_by()[: self.bound].count()
                # Within a transaction of the caller's it would outlive this one.
                cursor.execute("SET LOCAL statement_timeout = DEFAULT")
                return found
        except OperationalError as error:
            if not isinstance(error.__cause__, QueryCanceled):
                raise
        shown = len(rows[: self.per_page + 1])
        return shown if shown <= self.per_page else self.bound
