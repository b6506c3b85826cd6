"""Tables as people save them: CSV in UTF-8 (with or without a mark) or cp949, read strictly and written whole."""

from __future__ import annotations

import csv
import errno
import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from hangul_ocr.hangul import HangulOcrError, read_text
from hangul_ocr.workspace import atomic_write_text

# What parts the fields of tables that spreadsheets save: a comma, or where that is the decimal mark a semicolon.
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def read_table(path: Path, separators: Iterable[str] = ",") -> pd.DataFrame:
    """Read a CSV file; every value is a string as written (``NA`` and ``null`` are words).

    Its fields are parted by the one of ``separators`` that its header holds most of.

    Raises ``HangulOcrError`` for a missing or undecodable file, for fields that are parted by something else, and for
    a row with another number of fields than the header: guessing there would move a label to another column.
    """
    text = read_text(path)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    separator = separator_of(header_line, separators)
    _refuse_others(path, header_line, separator)
    rows = _rows(path, text, separator)
    if not rows:
        raise HangulOcrError(f"{path}: the file is empty; put the original file there again")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) != len(header):
        raise HangulOcrError(f"{path}: the header repeats a column ({', '.join(header)}); rename one")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise HangulOcrError(
                f"{path}: line {line} has {len(row)} fields, the header {len(header)}; "
                f"quote values that hold a {SEPARATORS[separator]}"
            )
    return pd.DataFrame([row for _, row in rows[1:]], columns=header, dtype=object)


def write_table(table: pd.DataFrame, path: Path, encoding: str = "utf-8") -> Path:
    """Write ``table`` as CSV without its index, whole or not at all: a failure leaves the former file as it was.

    Raises ``HangulOcrError`` if the disk is full or the folder cannot be written to.
    """
    text = table.to_csv(index=False, lineterminator="\n")
    try:
        # A lone surrogate (a damaged label among those left out) must not cost the whole table.
        atomic_write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"), encoding)
    except OSError as error:
        problem = "the disk is full" if error.errno in FULL_DISK else f"cannot be written ({error.strerror})"
        raise HangulOcrError(f"{path}: {problem}; make room or check the folder, then run this step again") from None
    return path


def separator_of(header: str, separators: Iterable[str] = SEPARATORS) -> str:
    """Return the one of ``separators`` that a table's first line holds most of; the first of them if it holds none."""
    return max(separators, key=header.count)


def _refuse_others(path: Path, header: str, separator: str) -> None:
    """Raise ``HangulOcrError`` if a table's fields are parted by what is not read there: it would be one column."""
    other = separator_of(header, SEPARATORS)
    if separator not in header and other in header:
        raise HangulOcrError(
            f"{path}: its columns are parted by a {SEPARATORS[other]} ({header.strip()[:80]}); save it as CSV with "
            f"a {SEPARATORS[separator]} between them, or put the original file there again"
        )


def fields_of(line: str, separator: str = ",") -> list[str]:
    """Return the fields of a line of a table; none if it is no whole row of CSV.

    No text has a line break: a row of several lines is one whose quotation mark is not closed, and it would take the
    following rows for its label.
    """
    try:
        fields = next(csv.reader([f"{line}\n"], delimiter=separator), [])
    except csv.Error:
        return []
    return [] if any("\n" in field for field in fields) else fields


def _rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of each row that holds anything; Excel leaves rows of commas at the end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            if any(row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise HangulOcrError(
            f"{path}: line {reader.line_num} is not CSV ({error}); check its quotation marks"
        ) from None
    return rows
