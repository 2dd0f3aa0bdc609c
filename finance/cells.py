"""Text that a spreadsheet must not run, and the way back.

A cell that begins like a formula gets an apostrophe in front, and so does one that begins with an apostrophe: so
``original`` gives back exactly what ``harmless`` was given. Numbers do not pass through here.
"""

#: A spreadsheet takes a cell that begins so for a formula; the last one makes the way back unambiguous.
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(STARTS) else text


def original(cell: str) -> str:
    """What ``harmless`` was given."""
    return cell.removeprefix("'")


# A comparison of numbers: one of texts, for every cell of ten million rows, is a tenth of the whole.
_STARTS_SQL = ", ".join(str(ord(start)) for start in STARTS)


def harmless_sql(expression: str) -> str:
    """``harmless`` as an SQL expression; NULL becomes an empty text."""
    runs = f"ascii({expression}) IN ({_STARTS_SQL})"
    return f"CASE WHEN {runs} THEN '''' || ({expression}) ELSE coalesce({expression}, '') END"
