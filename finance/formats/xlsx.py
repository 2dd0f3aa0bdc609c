"""XLSX, row by row in constant memory, and a new sheet where one is full."""

import csv
from decimal import Decimal
from pathlib import Path

import xlsxwriter
from xlsxwriter.worksheet import Worksheet

from finance.formats import Progress
from finance.models import ExportJob
from finance.usage_file import KINDS
from finance.usage_file import select as select

SUFFIX = "xlsx"
BY_ROW = True
#: What a sheet can hold (ECMA-376 as every spreadsheet implements it), its head included.
SHEET_ROWS = 1_048_576
#: A spreadsheet keeps 15 digits of a number. What has more is written as text.
DIGITS = 15
_STEP = 4_000


def write(job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    book = xlsxwriter.Workbook(str(target), {**options, "tmpdir": str(target.parent)})
    with copied.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        head = next(rows)
        numeric = [KINDS.get(name) in ("count", "amount") for name in head]
        sheet, line = _sheet(book, head), 1
        for count, row in enumerate(rows, 1):
            if line == SHEET_ROWS:
                sheet, line = _sheet(book, head), 1
            for place, cell in enumerate(row):
                _cell(sheet, line, place, cell, numeric[place])
            line += 1
            if count % _STEP == 0:
                progress(count)
    book.close()


def _sheet(book: xlsxwriter.Workbook, head: list[str]) -> Worksheet:
    sheet = book.add_worksheet()
    for place, name in enumerate(head):
        sheet.write_string(0, place, name)
    return sheet


def _cell(sheet: Worksheet, line: int, place: int, cell: str, is_number: bool) -> None:
    if is_number and cell:
        number = Decimal(cell)
        if len(number.as_tuple().digits) <= DIGITS:
            sheet.write_number(line, place, number)
            return
    sheet.write_string(line, place, cell)
