"""The file that is handed in: exactly the template's columns, rows and order, or a refusal that says why.

A log beside the submissions keeps which run, commit and cross-validated score each file came from, with a blank for the
public score, which a person fills in.
"""

from __future__ import annotations

import hashlib
import logging
import math
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from hangul_ocr.data.dacon import Competition, canonical_path
from hangul_ocr.data.sample import first_of
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.hangul import HangulOcrError

LOG = "log.csv"
LOG_COLUMNS = ["time", "run", "commit", "cv", "cv_low", "cv_high", "public_score", "file", "sha256", "note"]
#: Beside the submission: the rows that the former one had otherwise.
CHANGES = "changes.csv"
_BYTE_ORDER_MARK = "\ufeff"
_Z = 1.96  # standard deviations to either side hold 95 %
_log = logging.getLogger(__name__)


def write_submission(predictions: pd.DataFrame, competition: Competition, path: Path) -> Path:
    """Write ``predictions`` into the competition's template, see :func:`filled_template`, and return ``path``.

    The file is UTF-8 with BOM, as the competition's own. Raises ``HangulOcrError`` listing what is wrong, and then
    leaves an earlier file as it was.
    """
    filled = filled_template(predictions, competition, path)
    for warning in submission_warnings(filled, competition.template_text):
        _log.warning("%s: %s", path, warning)
    return write_table(filled, path, encoding="utf-8-sig")


def filled_template(predictions: pd.DataFrame, competition: Competition, path: Path) -> pd.DataFrame:
    """Return the competition's template with ``predictions`` (``img_path,text``, in any order), joined by path.

    Raises ``HangulOcrError`` listing what is wrong with what was to be written to ``path``.
    """
    template, key, text = competition.template, competition.template_key, competition.template_text
    paths = [canonical_path(name) for name in competition.template_paths()]
    problems = _prediction_problems(predictions, paths)
    if not problems:
        by_path = dict(zip(map(canonical_path, predictions["img_path"]), predictions["text"], strict=True))
        filled = template.assign(**{text: [by_path[name] for name in paths]})
        problems = validate_submission(filled, template, key, text)
    if problems:
        raise HangulOcrError(f"{path}: not written: {'; '.join(problems)}; predict the whole test set again")
    return filled


def validate_submission(submission: pd.DataFrame, template: pd.DataFrame, key: str, text: str) -> list[str]:
    """Return what is wrong with ``submission``, one phrase each; an empty list if it can be handed in.

    ``key`` and ``text`` are the template's joining column and the column to fill.
    """
    marked = [name for name in submission.columns if str(name).startswith(_BYTE_ORDER_MARK)]
    if marked:
        return [f"a byte order mark is part of the column name {marked[0][1:]!r}"]
    if list(submission.columns) != list(template.columns):
        return [f"columns are {first_of(submission.columns)}, not {first_of(template.columns)}"]
    problems = _row_problems(list(submission[key]), list(template[key]), key)
    return problems + _text_problems(submission[text], submission[key])


def validate_file(path: Path, competition: Competition) -> list[str]:
    """Return what is wrong with the submission file at ``path``, as :func:`validate_submission` does.

    Raises ``HangulOcrError`` if the competition has no template to hold it against.
    """
    competition.template_paths()
    table = read_table(path)
    if not _is_utf8(path):
        return ["it is in cp949, not UTF-8: DACON and Kaggle would read other letters; save it as `CSV UTF-8`"]
    return validate_submission(table, competition.template, competition.template_key, competition.template_text)


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def submission_warnings(submission: pd.DataFrame, text: str) -> list[str]:
    """Return what is allowed but odd: rows with no text at all."""
    empty = int((submission[text] == "").sum())
    return [f"{empty} of {len(submission)} predictions are empty"] if empty else []


def log_submission(
    log_path: Path,
    *,
    run: str,
    commit: str,
    cv: float,
    cv_low: float,
    cv_high: float,
    file: Path | str,
    sha256: str,
    note: str = "",
) -> int | None:
    """Append a row to the log; what people typed into it stays, further columns too.

    The same file of the same run is logged once: the number of its row, from 1 below the header, is returned if it was
    there, else None. Raises ``HangulOcrError`` if the log is no log.
    """
    row = {"run": run, "commit": commit, "public_score": "", "file": str(file), "sha256": sha256, "note": note}
    row |= {"cv": f"{cv:.4f}", "cv_low": f"{cv_low:.4f}", "cv_high": f"{cv_high:.4f}"}
    row["time"] = datetime.now(UTC).isoformat(timespec="seconds")
    log = _checked_log(log_path)
    same = ((log["run"] == run) & (log["sha256"] == sha256)).to_numpy()
    if same.any():
        return int(same.argmax()) + 1
    whole = pd.DataFrame([*log.to_dict("records"), row], columns=log.columns, dtype=object)
    write_table(whole.fillna(""), log_path, encoding="utf-8-sig")
    return None


def require_log(log_path: Path) -> None:
    """Raise ``HangulOcrError`` if there is a file at ``log_path`` that is no log of submissions."""
    _checked_log(log_path)


def _checked_log(log_path: Path) -> pd.DataFrame:
    log = read_table(log_path) if log_path.is_file() else pd.DataFrame(columns=LOG_COLUMNS, dtype=object)
    lacking = [name for name in LOG_COLUMNS if name not in log.columns]
    if lacking:
        raise HangulOcrError(f"{log_path}: no log of submissions ({', '.join(lacking)} missing); rename it")
    return log


def read_log(log_path: Path) -> pd.DataFrame:
    """Return the log of submissions with its scores as numbers in 0..1, nan where a cell is empty.

    A public score may be typed as a share or in percent (above 1), with a comma too. Raises ``HangulOcrError`` for one
    that is no number, and if the file is no log.
    """
    log = _checked_log(log_path)
    typed = [_typed_score(log_path, row) for row in log[["run", "public_score"]].to_dict("records")]
    numbers = {name: pd.to_numeric(log[name], errors="coerce") for name in ("cv", "cv_low", "cv_high")}
    return log.assign(**numbers, public_score=pd.Series(typed, index=log.index, dtype=float))


def _typed_score(log_path: Path, row: dict[str, str]) -> float:
    typed = row["public_score"].strip().removesuffix("%").strip().replace(",", ".")
    try:
        score = float(typed or "nan")
    except ValueError:
        score = -1.0
    if score < 0 or score > 100 or math.isinf(score):
        raise HangulOcrError(
            f"{log_path}: the public score {row['public_score']!r} of {row['run']} is none; type it as 0.842"
        )
    return score / 100 if score > 1 else score


def former_submission(path: Path) -> pd.DataFrame | None:
    """Return the submission at ``path``; None if there is none, or none that can be read."""
    try:
        return read_table(path) if path.is_file() else None
    except HangulOcrError:
        return None


def same_rows(before: pd.DataFrame | None, after: pd.DataFrame) -> bool:
    """Tell whether two submissions have the same columns and, row by row, the same cells."""
    if before is None or list(before.columns) != list(after.columns):
        return False
    return before.to_numpy().tolist() == after.to_numpy().tolist()


def changed_rows(
    before: pd.DataFrame | None, after: pd.DataFrame, competition: Competition, predictions: pd.DataFrame
) -> pd.DataFrame | None:
    """Return the rows whose text differs between two submissions, the least confident first.

    Columns: the template's key, ``img_path``, ``before``, ``after``, ``confidence`` (if ``predictions`` have one). None
    if there is none before, or one of other columns or rows (of another competition).
    """
    key, text = competition.template_key, competition.template_text
    if before is None or list(before.columns) != list(after.columns) or list(before[key]) != list(after[key]):
        return None
    paths = competition.template_paths()
    table = pd.DataFrame({key: after[key], "img_path": paths, "before": before[text], "after": after[text]})
    if "confidence" in predictions:
        pairs = zip(map(canonical_path, predictions["img_path"]), predictions["confidence"].astype(float), strict=True)
        sure = dict(pairs)
        table["confidence"] = [sure[canonical_path(path)] for path in paths]
    changed = table.loc[table["before"] != table["after"]]
    return changed.sort_values("confidence", kind="stable") if "confidence" in changed else changed


def say_changes(changes: pd.DataFrame | None, path: Path, most: int = 5) -> None:
    """Print how many rows of the submission at ``path`` are new, and the surest of them; None if there was none."""
    if changes is None:
        print(f"{path.name}: the first one, or of other rows than the former; nothing to compare it with")
        return
    print(f"{path.name}: {len(changes):,} rows differ from the former one" + (", the surest:" if len(changes) else ""))
    for row in changes.iloc[::-1].head(most).to_dict("records"):
        sure = f"  {100 * row['confidence']:.0f} %" if "confidence" in row else ""
        print(f"  {next(iter(row.values()))}  {row['before']!r} -> {row['after']!r}{sure}")


def leaderboard_table(log: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return the submissions of :func:`read_log` that have a public score: both scores and what lies between them.

    ``rows`` is the number of test rows behind the public score, whose own chance error counts as well as that of
    cross-validation. Columns: ``CV, %``, ``95 % interval``, ``public, %``, ``gap`` (points), ``chance allows`` (the gap
    that 95 of 100 equal scores stay within), ``more than chance``; the run as index.
    """
    known = 100 * log[["cv", "cv_low", "cv_high", "public_score"]].dropna()
    cv, low, high, public = (known[name] for name in known.columns)
    reach = (((high - low) / 2) ** 2 + _Z**2 * public * (100 - public) / max(1, rows)) ** 0.5
    columns = {
        "CV, %": cv.round(2),
        "95 % interval": [f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True)],
        "public, %": public.round(2),
        "gap": (public - cv).round(2),
        "chance allows": reach.round(2),
        "more than chance": ((public - cv).abs() > reach).map({True: "yes", False: "no"}),
    }
    return pd.DataFrame(columns).set_index(pd.Index(log.loc[known.index, "run"], name="run"))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _prediction_problems(predictions: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Compare the predictions' paths with the template's, whatever their order."""
    lacking = [name for name in ("img_path", "text") if name not in predictions.columns]
    if lacking:
        return [f"the predictions have no column {lacking[0]!r}"]
    nulls = int(predictions["img_path"].isna().sum())
    if nulls:
        return [f"{nulls} predictions have no img_path"]
    given = [canonical_path(name) for name in predictions["img_path"]]
    return _difference(given, list(wanted), "img_path")


def _row_problems(given: list[object], wanted: list[object], key: str) -> list[str]:
    problems = _difference(given, wanted, key)
    if not problems and given != wanted:
        first = next(i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b)
        problems = [f"rows are in another order than the template's, from row {first + 1} ({given[first]!r})"]
    return problems


def _difference(given: list[object], wanted: list[object], key: str) -> list[str]:
    """Return phrases for missing, extra and repeated keys, naming a few of each."""
    repeated = [name for name, count in pd.Series(given, dtype=object).value_counts().items() if count > 1]
    have, want = set(given), set(wanted)
    missing = [name for name in wanted if name not in have]
    extra = [name for name in given if name not in want]
    found = ((missing, "missing"), (extra, "not in the template"), (repeated, "repeated"))
    return [f"{len(names)} {key} {what} ({first_of(names)})" for names, what in found if names]


def _text_problems(texts: pd.Series, keys: pd.Series) -> list[str]:
    """Return phrases for texts that are null, no string, not NFC, or begin with a byte order mark."""
    checks = (
        ("are null", texts.isna()),
        ("are no text", texts.map(lambda value: not isinstance(value, str)) & texts.notna()),
        ("are not in NFC", texts.map(lambda value: isinstance(value, str) and not _is_nfc(value))),
        ("hold a byte order mark", texts.map(lambda value: isinstance(value, str) and _BYTE_ORDER_MARK in value)),
    )
    return [f"{int(bad.sum())} texts {what} ({first_of(keys[bad])})" for what, bad in checks if bad.any()]


def _is_nfc(value: str) -> bool:
    return unicodedata.is_normalized("NFC", value)
