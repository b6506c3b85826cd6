"""The pages and pictures of errors that notebook and command line share: a run's report, two runs' differences."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.evaluation import errors, plots
from hangul_ocr.evaluation.calibration import calibration_table
from hangul_ocr.evaluation.comparison import BETTER, WORSE, Comparison
from hangul_ocr.evaluation.metrics import Scores, score
from hangul_ocr.evaluation.report import MEGABYTE, Report, Section, by_interest, crop_uri, render
from hangul_ocr.evaluation.slices import slice_report
from hangul_ocr.evaluation.style import png_bytes
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.results import UNREADABLE, crop_or_none, oof_errors
from hangul_ocr.steps import Prepared
from hangul_ocr.suspects import with_suspicion
from hangul_ocr.training.kfold import Run
from hangul_ocr.workspace import atomic_write_text

SHOWN_CHANGES = 18
#: About what template, script, table and the font's part take; and what a row holds beside its picture.
_PAGE_BYTES, _ROW_BYTES = 300_000, 700
_CHART_DPI = 140


@dataclass(frozen=True)
class WrittenReport:
    """Where a report lies, how large it is, and which crops it shows."""

    path: Path
    megabytes: float
    coverage: str


def read_errors(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Return a run's out-of-fold predictions as an error frame with slices, and how suspicious each label is.

    Raises ``HangulOcrError`` as :func:`results.oof_errors` does.
    """
    return with_suspicion(oof_errors(run, prepared.train, prepared.folds), run)


def write_report(run: Run, prepared: Prepared, path: Path, max_megabytes: float = 20) -> WrittenReport:
    """Write the errors of ``run`` as one HTML file, whole or not at all; at most ``max_megabytes`` long.

    Raises ``HangulOcrError`` if the folder cannot be written, which is tried first, or if ``oof.csv`` does not hold
    every row that it should.
    """
    _require_writable(path)
    frame = read_errors(run, prepared)
    name = f"{run.folder.name} on {prepared.competition.name}"
    return write_page(error_report(frame, prepared.train, name, max_megabytes), path, max_megabytes)


def write_page(report: Report, path: Path, max_megabytes: float = 20) -> WrittenReport:
    """Write a report as one HTML file, whole or not at all; at most ``max_megabytes`` long.

    Raises ``HangulOcrError`` if the folder cannot be written.
    """
    report, page = _fitted(report, max_megabytes)
    try:
        atomic_write_text(path, page)
    except OSError as error:
        raise _unwritable(path, error) from None
    return WrittenReport(path, len(page.encode()) / MEGABYTE, report.coverage)


def error_report(frame: pd.DataFrame, crops: LmdbReader, name: str, max_megabytes: float = 20) -> Report:
    """Return the report of an error frame whose crops lie in a store; ``name`` says what was read by whom."""
    sections = _sections(frame)
    charts = sum(len(png) for section in sections for png, _ in section.pictures)
    room = max_megabytes * MEGABYTE - charts * 4 / 3 - _PAGE_BYTES
    pictures = _crops_within(by_interest(frame), crops, room)
    groups = frame["group"].tolist() if "group" in frame else None
    scores = score(frame["text"].tolist(), frame["prediction"].tolist(), groups)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return Report(
        title=f"Error report: {name}",
        subtitle=f"오답 분석 · {len(frame):,} crops, each read by a model that had never seen it · {today}",
        frame=frame,
        crops=pictures,
        cards=_cards(frame, scores),
        sections=sections,
        coverage=_coverage(frame, pictures, max_megabytes),
        footer="Works without a network: pictures, styles and script are inside this file. Hangul is drawn in the "
        "system's font, or else in a part of NanumGothic (© NAVER Corporation, SIL Open Font License 1.1). "
        "Made by hangul-ocr.",
    )


def comparison_pictures(compared: Comparison, crops: LmdbReader) -> dict[str, Figure]:
    """Return pictures of two runs' differences by name: ``changes``, and the crops ``better`` and ``worse``."""
    found = {"changes": plots.changes(compared)}
    for outcome in (BETTER, WORSE):
        rows = compared.picked(outcome)
        shown = rows.head(SHOWN_CHANGES)
        title = f"{len(rows):,} crops that {compared.names[1]} reads {outcome} than {compared.names[0]}"
        title += f", the surest {len(shown)} of them" if len(shown) < len(rows) else ""
        images = [_crop(crops, key) for key in shown["img_path"]]
        texts, first, second = (shown[column].tolist() for column in ("text", "first", "second"))
        found[outcome] = plots.versus(images, texts, first, second, compared.names, title=title)
    return found


def _crop(crops: LmdbReader, key: str) -> np.ndarray:
    image = crop_or_none(crops, key)
    return UNREADABLE if image is None else image


def _crops_within(keys: Sequence[str], crops: LmdbReader, room: float) -> dict[str, str]:
    """Return the first crops of ``keys`` as data URIs, as many as ``room`` bytes hold; empty for no image."""
    found: dict[str, str] = {}
    for key in keys:
        image = crop_or_none(crops, key)
        uri = "" if image is None else crop_uri(image)
        room -= len(uri) + _ROW_BYTES
        if room < 0:
            break
        found[key] = uri
    return found


def _fitted(report: Report, max_megabytes: float) -> tuple[Report, str]:
    """Return the report and its page with as many crops less as it takes: what rows and font weigh is an estimate."""
    page = render(report)
    while (excess := len(page.encode()) - max_megabytes * MEGABYTE) > 0 and report.crops:
        shown = dict(report.crops)
        while excess > 0 and shown:
            excess -= len(shown.popitem()[1]) + _ROW_BYTES
        report = replace(report, crops=shown, coverage=_coverage(report.frame, shown, max_megabytes))
        page = render(report)
    return report, page


def _coverage(frame: pd.DataFrame, shown: dict[str, str], max_megabytes: float) -> str:
    lost = sum(not uri for uri in shown.values())
    wrong = set(frame.loc[~frame["correct"], "img_path"])
    n_wrong = len(wrong & shown.keys())
    if len(shown) == len(frame):
        line = f"All {len(frame):,} crops are here, {len(wrong):,} of them read wrongly."
    else:
        line = (
            f"{len(shown):,} of {len(frame):,} crops are here: {n_wrong:,} of the {len(wrong):,} wrong, surest first, "
            f"then the least sure of the right; the others would make the file larger than {max_megabytes:g} MB "
            "(--max-megabytes). Tables and charts count all."
        )
    return line + (f" {lost:,} pictures cannot be decoded." if lost else "")


def _cards(frame: pd.DataFrame, scores: Scores) -> list[tuple[str, str]]:
    low, high = scores.intervals["exact"]
    wrong = frame[~frame["correct"]]
    cards = [
        (f"{100 * scores.exact:.1f} %", f"exact match (95 %: {100 * low:.1f} to {100 * high:.1f})"),
        (f"{len(wrong):,}", f"of {len(frame):,} crops are wrong"),
        (f"{100 * scores.cer:.1f} %", "character error rate"),
        (f"{100 * (wrong['error_kind'] == 'spacing').mean() if len(wrong) else 0:.0f} %", "of the errors are spaces"),
    ]
    if "confidence" in frame:
        table = calibration_table(frame["confidence"], frame["correct"], frame.get("fold"))
        before, after = (100 * value for value in table["calibration error"])
        what = f"points of calibration error, before and after a {table.index[1]}"
        cards.append((f"{before:.1f} → {after:.1f}", what))
    return cards


def _sections(frame: pd.DataFrame) -> list[Section]:
    texts, predictions = frame["text"].tolist(), frame["prediction"].tolist()
    pairs, jamo = errors.confused_pairs(texts, predictions, None), errors.jamo_confusions(texts, predictions)
    edits = errors.inserted_and_deleted(texts, predictions, None)
    confusions = [
        (plots.edit_kinds(errors.kind_table(frame), edits, jamo), "Wrong rows by kind, syllables by slot, edits"),
        (plots.syllable_confusion(pairs), "Syllables: label down the side, reading across"),
        (plots.jamo_confusion(jamo), "Jamo: initial, medial and final (초성·중성·종성)"),
    ]
    gains = [(plots.slice_gains(slice_report(frame)), "What each slice would give")]
    sections = [
        Section("gains", "What to fix first", "무엇부터 고칠까", _drawn(gains)),
        Section("confusions", "Confusions", "혼동 글자와 자모", _drawn(confusions)),
    ]
    if "confidence" in frame:
        trust = [(plots.reliability(frame["confidence"], frame["correct"], folds=frame.get("fold")), "Reliability")]
        sections.append(Section("calibration", "Confidence", "신뢰도", _drawn(trust)))
    return sections


def _drawn(figures: Sequence[tuple[Figure, str]]) -> list[tuple[bytes, str]]:
    return [(png_bytes(figure, _CHART_DPI), caption) for figure, caption in figures]


def _require_writable(path: Path) -> None:
    """Try to write beside ``path`` before any work is done, and leave nothing there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        os.unlink(aside)
    except OSError as error:
        raise _unwritable(path, error) from None
    if path.is_dir():
        raise HangulOcrError(f"{path}: is a folder; name a file such as {path / 'report.html'}")


def _unwritable(path: Path, error: OSError) -> HangulOcrError:
    reason = f"{path.parent} is a file, no folder" if path.parent.is_file() else error.strerror
    return HangulOcrError(f"{path}: cannot be written ({reason}); free space, or name another file with --out")
