"""Tables as people save them: CSV in UTF-8 (with or without a mark) or cp949, read strictly and written whole."""

from __future__ import annotations

import csv
import errno
import io
from pathlib import Path

import pandas as pd

from hangul_ocr.hangul import HangulOcrError, read_text
from hangul_ocr.workspace import atomic_write_text

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file; every value is a string as written (``NA`` and ``null`` are words).

    Raises ``HangulOcrError`` for a missing or undecodable file, and for a row with another number of fields than the
    header: guessing there would move a label to another column.
    """
    rows = _rows(path, read_text(path))
    if not rows:
        raise HangulOcrError(f"{path}: the file is empty; put the original file there again")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) != len(header):
        raise HangulOcrError(f"{path}: the header repeats a column ({', '.join(header)}); rename one")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise HangulOcrError(
                f"{path}: line {line} has {len(row)} fields, the header {len(header)}; quote values that hold a comma"
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


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of each row that holds anything; Excel leaves rows of commas at the end."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
