"""What the database itself refuses about closed months, to raw SQL too.

A closed month's partition of the ledger gets triggers of its own, so rows of open months pay nothing. Rollups by hour
and by day and quota periods are one table each: their triggers compare a row's time with the end of the last closed
month, written into the trigger as a constant, which costs a comparison a row and no question.
"""

import datetime as dt

from django.db import connection
from psycopg2 import sql

from common import clock

#: SQLSTATE of every refusal.
REFUSED = "MC001"
_FUNCTION = "refuse_change_of_closed_month"
#: Table → what dates its rows.
_SUMS = {"usage_rollups": "hour", "usage_daily_rollups": "day", "quota_periods": "month"}
_OF_ROWS = "BEFORE INSERT OR UPDATE OR DELETE"


def guard_partition(name: str) -> None:
    """No row of this partition comes, changes or goes any more."""
    _trigger("closed_month", f"{_OF_ROWS} ON {{table}} FOR EACH ROW", name)
    _trigger("closed_month_emptied", "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT", name)


def guard_sums(end: dt.datetime) -> None:
    """Nor does a sum of a time before ``end``."""
    for table, column in _SUMS.items():
        value = end.isoformat() if column == "hour" else f"{clock.month_of(end):%Y-%m-%d}"
        for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            closed = " OR ".join(f"{row}.{column} < {{end}}" for row in rows)
            _trigger(
                f"closed_months_{event.lower()}",
                f"BEFORE {event} ON {{table}} FOR EACH ROW WHEN ({closed})",
                table,
                end=value,
            )
        _trigger("closed_months_emptied", "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT", table)


def _trigger(name: str, when: str, table: str, **constants: str) -> None:
    names = {"name": sql.Identifier(name), "table": sql.Identifier(table)}
    literals = {key: sql.Literal(value) for key, value in constants.items()}
    made = f"CREATE OR REPLACE TRIGGER {{name}} {when} EXECUTE FUNCTION {_FUNCTION}()"
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(made).format(**names, **literals))
        # A session that replays changes (session_replication_role = replica) is bound too.
        cursor.execute(sql.SQL("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}").format(**names))
