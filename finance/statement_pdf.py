"""A statement as PDF. Nothing is fetched: the font comes out of a package, and there is neither a link nor an image.

Names are anybody's. A character that the font lacks, or that is there to steer text, is written as its code point
(``[U+6F22]``), so nothing vanishes and no two names look alike that are not.
"""

import tempfile
import unicodedata
from functools import cache
from pathlib import Path

import pymupdf_fonts
from django.conf import settings
from fontTools.ttLib import TTFont
from fpdf import FPDF
from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace

from common.money import grouped, minor_units, plain
from finance.statements import Account, PricedLines, Statement

_FONT = "FiraGO"
_SIZE, _SMALL = 8.5, 7.5
_GREY, _LINES = 105, 190
#: Millimetres from line to line, by point of the font's size.
_LEADING = 0.46
#: Widths of what, quantity, rate, amount.
_COLUMNS = (68, 34, 36, 42)
#: From here on letters are joined, or run from right to left: what a shaping engine is for, at ten times the cost.
_SHAPED = "\u0590"


class _Page(FPDF):
    """A4, with the statement's own name at every foot."""

    def __init__(self, foot: str) -> None:
        super().__init__(format="A4")
        self._foot = foot
        for style, file in _fonts().items():
            self.add_font(_FONT, style, file)
        self.set_auto_page_break(auto=True, margin=18)
        self.set_margins(15, 15)
        self.set_draw_color(_LINES)
        self.set_line_width(0.1)
        self.add_page()

    def footer(self) -> None:
        self.set_y(-14)
        self.write_small(f"{self._foot} · page {self.page_no()} of {{nb}}", align="C")

    def write_small(self, text: str, *, align: str = "L") -> None:
        self.set_font(_FONT, size=_SMALL)
        self.set_text_color(_GREY)
        self.multi_cell(0, _SMALL * _LEADING, text=text, align=align, new_x="LMARGIN", new_y="NEXT")
        self.set_text_color(0)

    def write_line(self, text: str, *, size: float = _SIZE, bold: bool = False) -> None:
        self.set_font(_FONT, "B" if bold else "", size)
        self.multi_cell(0, size * _LEADING, text=text, align="L", new_x="LMARGIN", new_y="NEXT")


def render(statement: Statement) -> bytes:
    """The whole file."""
    page = _Page(f"{statement.consumer_id} · {statement.month:%Y-%m}")
    page.set_title(f"Statement {statement.month:%Y-%m}")
    page.set_author(settings.INVOICE_ISSUER)
    page.set_lang("en")
    page.set_creation_date(statement.made_at)
    _head(page, statement)
    for account in statement.accounts:
        for part in account.parts:
            _part(page, part, account.currency)
        _total(page, account)
    if not statement.accounts:
        page.write_line("Nothing was used in this month.")
    page.ln(4)
    page.write_small(
        "Amounts are exact; only what is payable is rounded, half up, to the currency's smallest unit. "
        "[U+…] stands for a character that this file's font does not have."
    )
    return bytes(page.output())


def printable(text: str) -> str:
    """Text in which every character can be seen, each that cannot as its code point."""
    return "".join(char if _can_be_seen(char) else f"[U+{ord(char):04X}]" for char in text)


def _can_be_seen(char: str) -> bool:
    return ord(char) in _characters() and (char == " " or unicodedata.category(char)[0] not in "CZ")


def _head(page: _Page, statement: Statement) -> None:
    consumer, issuer = printable(statement.consumer), printable(settings.INVOICE_ISSUER)
    _shape_if_needed(page, consumer + issuer)
    page.write_small(issuer)
    page.write_line(f"Statement {statement.month:%B %Y}", size=16, bold=True)
    page.ln(1)
    page.write_line(consumer, size=11)
    page.write_small(f"Consumer {statement.consumer_id}")
    state = "Final: the month is closed." if statement.is_final else "Provisional: the month is open."
    page.write_small(f"{state} Made {statement.made_at:%Y-%m-%d %H:%M} UTC. The month is that of UTC.")
    page.ln(3)


def _part(page: _Page, part: PricedLines, currency: str) -> None:
    service = printable(part.service)
    _shape_if_needed(page, service)
    if page.will_page_break(30):
        page.add_page()
    page.write_line(service, size=10, bold=True)
    page.write_small(part.price + (f", since {part.since:%Y-%m-%d}" if part.since else ""))
    rows = [("", "Quantity", f"Rate ({currency})", f"Amount ({currency})")]
    for line in part.lines:
        charge = line.charge
        counted = (grouped(charge.quantity), plain(charge.rate)) if line.has_quantity else ("", "")
        rows.append((line.what, *counted, grouped(charge.amount)))
    _table(page, [*rows, ("Together", "", "", grouped(part.amount))])


def _total(page: _Page, account: Account) -> None:
    payable = f"{account.payable:,.{minor_units(account.currency)}f} {account.currency}"
    if page.will_page_break(40):
        page.add_page()
    page.write_line(f"Total in {account.currency}", size=10, bold=True)
    rows = [
        ("", "", "", f"Amount ({account.currency})"),
        ("Recorded in the ledger", "", "", grouped(account.recorded)),
        ("Given back or added by the month's prices", "", "", grouped(account.added)),
        ("Rounding to what is payable", "", "", grouped(account.rounding)),
        ("Payable", "", "", payable),
    ]
    _table(page, rows)


def _table(page: _Page, rows: list[tuple[str, str, str, str]]) -> None:
    """The first row is the head, on every page again; the last is bold."""
    page.set_text_shaping(False)
    page.set_font(_FONT, size=_SIZE)
    with page.table(
        col_widths=_COLUMNS,
        text_align=("LEFT", "RIGHT", "RIGHT", "RIGHT"),
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        headings_style=FontFace(emphasis="BOLD", color=_GREY),
        line_height=5,
        padding=0.6,
    ) as table:
        for place, cells in enumerate(rows):
            style = FontFace(emphasis="BOLD") if place == len(rows) - 1 else None
            row = table.row(style=style)
            for cell in cells:
                row.cell(cell)
    page.ln(4)


def _shape_if_needed(page: _Page, text: str) -> None:
    page.set_text_shaping(any(char >= _SHAPED for char in text))


@cache
def _fonts() -> dict[str, Path]:
    """The font's files by style. They lie in a folder of this process, since fpdf2 reads files alone."""
    folder = _folder()
    files = {}
    for style, name in (("", "figo"), ("B", "figbo")):
        files[style] = Path(folder.name) / f"{name}.ttf"
        files[style].write_bytes(pymupdf_fonts.fontbuffers[name]())
    return files


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="fonts-")


@cache
def _characters() -> frozenset[int]:
    """What both styles have."""
    found: list[frozenset[int]] = []
    for file in _fonts().values():
        with TTFont(file, lazy=True) as font:
            found.append(frozenset(font.getBestCmap()))
    return found[0].intersection(*found[1:])
