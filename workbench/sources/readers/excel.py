"""Excel's .xlsx, with the columns' names in the first row of a sheet."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from workbench.errors import Problem, UserError, collected, unknown
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row, require_distinct


def read_excel(file: DataFile) -> Opened:
    """Open a sheet; formulas are read as the values that Excel last computed.

    Raises:
        UserError: no Excel file, or no sheet of that name.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(file.path, read_only=True, data_only=True)
    except Exception as error:  # whatever openpyxl makes of a broken archive or of XML that is none
        raise UserError(f"{file}: not an Excel file of the kind .xlsx: {error}; save it as one, or as CSV") from error
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    for sheet in sheets.values():
        sheet.reset_dimensions()  # other programs write wrong ones
    if file.sheet is not None and file.sheet not in sheets:
        raise unknown(f"sheet of {file}", file.sheet, sheets)
    full = [title for title, sheet in sheets.items() if any(map(_filled, _cells(file, sheet)))]
    if not full:
        raise UserError(f"{file} holds no rows")
    title = file.sheet or full[0]
    others = [other for other in full if other != title]
    beside = f" (not read: {', '.join(map(repr, others))})" if others else ""
    return Opened(f"Excel, sheet {title!r}{beside}", _rows(file, sheets[title]), not others)


def _cells(file: DataFile, sheet: Any) -> Iterator[Sequence[Any]]:
    """The cells of each row.

    Raises:
        UserError: the sheet is broken.
    """
    try:
        yield from sheet.iter_rows(values_only=True)
    except Exception as error:  # whatever openpyxl makes of XML that is none
        raise UserError(f"{file}: sheet {sheet.title!r} can't be read: {error}; save it anew, or as CSV") from error


def _filled(cells: Sequence[Any]) -> bool:
    return any(cell is not None for cell in cells)


def _rows(file: DataFile, sheet: Any) -> Iterator[Row]:
    """Of a sheet; a cell without anything is an empty text, as in CSV."""
    header: list[str] | None = None
    name, problems = Path(file.path).name, []
    for number, cells in enumerate(_cells(file, sheet), 1):
        values = [_value(cell) for cell in cells]
        while values and values[-1] == "":
            values.pop()
        if not values:
            continue
        if header is None:
            header = [str(value).strip() for value in values]
            require_distinct(header, file)
        elif len(values) > len(header):
            problems.append(Problem(f"{name}:{number}", f"{len(values)} cells under a header of {len(header)}"))
        else:
            values += [""] * (len(header) - len(values))
            yield Row(f"{name}:{number}", dict(zip(header, values, strict=True)))
    if problems:
        raise collected(str(file), problems)


def _value(cell: Any) -> Any:
    if cell is None:
        return ""
    if isinstance(cell, datetime) and cell.time() == time():  # Excel has no dates without a time
        cell = cell.date()
    return cell.isoformat() if isinstance(cell, date | time) else cell


READERS = (Reader(name="xlsx", title="Excel", suffixes=(".xlsx", ".xlsm"), read=read_excel, options=("sheet",)),)
