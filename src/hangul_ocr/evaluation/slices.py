"""Where the points are lost: every way to cut the rows, and what fixing each slice would give.

A slice is worth work when it is worse than the rest *and* frequent: its ``excess`` counts the errors beyond those that
it would have at the rate of all other rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import cv2
import numpy as np
import pandas as pd

from hangul_ocr.evaluation.metrics import wilson_interval

#: Columns that cut an error frame, and what they are called; ``tags`` holds any number of names a row.
DIMENSIONS = {
    "by_length": "length",
    "by_space": "spaces",
    "by_shape": "shape",
    "by_orientation": "orientation",
    "by_size": "size",
    "by_contrast": "contrast",
    "by_blur": "sharpness or grain",
    "by_rarity": "rarest character in training",
    "source": "source",
    "fold": "fold",
    "tags": "tag",
}
_SIZE_EDGES = (0, 16, 24, 32, 48, 96, 10**9)
_SIZE_NAMES = ("under 16 px", "16 to 23 px", "24 to 31 px", "32 to 47 px", "48 to 95 px", "96 px or more")
_QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
_MEASURED_SIDE = 32
_COLUMNS = ["dimension", "slice", "n", "errors", "accuracy", "low", "high", "share_of_errors", "share_low"]
_COLUMNS += ["share_high", "excess", "gain", "gain_low", "gain_high"]


def picture_facts(image: np.ndarray) -> dict[str, float]:
    """Return ``contrast`` and ``sharpness`` (both 0 or more) of a crop (H, W, 3) or (H, W), uint8.

    Contrast is the range of grey from the 5th to the 95th percentile, 1 being black on white. Sharpness is the
    spread of the Laplacian relative to that of the grey itself, so that faint print can be sharp; it is measured at
    one height, since a small crop blown up is a blurred one.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    scale = _MEASURED_SIDE / min(grey.shape)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).astype(np.float32)
    low, high = np.percentile(grey, [5, 95])
    edges = float(cv2.Laplacian(grey, cv2.CV_32F).std())
    return {"contrast": float(high - low) / 255, "sharpness": edges / max(1.0, float(grey.std()))}


def with_slices(frame: pd.DataFrame) -> pd.DataFrame:
    """Return an ``errors.error_frame`` with further columns that cut it, as far as it holds what they are made of.

    ``by_orientation`` and ``by_size`` from ``width,height``, ``by_contrast`` from ``contrast``, ``by_blur`` from
    ``sharpness`` (quarters of the rows).
    """
    frame = frame.copy()
    if {"width", "height"} <= set(frame):
        down = (frame["height"] > 1.1 * frame["width"]) & (frame["length"] > 1)
        frame["by_orientation"] = np.where(down, "written down (세로)", "written across (가로)")
        side = frame[["width", "height"]].min(axis=1)
        frame["by_size"] = pd.cut(side, _SIZE_EDGES, labels=_SIZE_NAMES, right=False)
    for column, fact in (("by_contrast", "contrast"), ("by_blur", "sharpness")):
        if fact in frame and frame[fact].nunique() >= 4:
            frame[column] = pd.qcut(frame[fact].rank(method="first"), 4, labels=_QUARTERS)
    return frame


def memberships(frame: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield ``(dimension, slice, mask)`` for every slice of every dimension in ``frame`` that cuts it at all.

    ``mask`` (N,) tells which rows belong to the slice; slices of ``tags`` may overlap, those of any other may not.
    """
    for column, name in DIMENSIONS.items():
        if column == "tags" and column in frame:
            yield from _tags(frame[column], name)
        elif column in frame and frame[column].nunique() > 1:
            values = frame[column].astype("category")
            for value in values.cat.categories:
                mask = (values == value).to_numpy()
                if mask.any():
                    yield name, str(value), mask


def _tags(tags: pd.Series, name: str) -> Iterator[tuple[str, str, np.ndarray]]:
    sets = [frozenset(tags_of(value)) for value in tags]
    for tag in sorted(frozenset().union(*sets)):
        mask = np.array([tag in row for row in sets], dtype=bool)
        if not mask.all():
            yield name, str(tag), mask


def tags_of(value: object) -> Collection[str]:
    """Return the tags in a cell of the column ``tags``: none where the crop's source has none."""
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


def slice_report(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every slice of an ``errors.error_frame`` by every dimension, those first whose repair would give most.

    Columns: ``dimension,slice,n,errors``, ``accuracy`` with Wilson's interval ``low,high``; ``share_of_errors`` with
    ``share_low,share_high``; ``excess``, the errors above what the rate of all other rows would leave (negative where
    the slice is better than they); and ``gain``, what the overall accuracy would rise if these went, with
    ``gain_low,gain_high`` (Newcombe's interval of a difference, 1998, method 10, times the slice's share).
    """
    correct = frame["correct"].to_numpy(dtype=bool)
    rows = [_slice_row(dimension, name, mask, correct) for dimension, name, mask in memberships(frame)]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.sort_values(["excess", "errors"], ascending=False, kind="stable", ignore_index=True)


def _slice_row(dimension: str, name: str, mask: np.ndarray, correct: np.ndarray) -> dict[str, object]:
    n, total = int(mask.sum()), len(mask)
    errors, all_errors = int((~correct[mask]).sum()), int((~correct).sum())
    low, high = wilson_interval(n - errors, n)
    share_low, share_high = wilson_interval(errors, all_errors)
    difference, least, most = _rate_difference(errors, n, all_errors - errors, total - n)
    return {
        "dimension": dimension,
        "slice": name,
        "n": n,
        "errors": errors,
        "accuracy": 1 - errors / n,
        "low": low,
        "high": high,
        "share_of_errors": errors / max(1, all_errors),
        "share_low": share_low if all_errors else 0.0,
        "share_high": share_high if all_errors else 0.0,
        "excess": difference * n,
        "gain": difference * n / total,
        "gain_low": least * n / total,
        "gain_high": most * n / total,
    }


def _rate_difference(a: int, n_a: int, b: int, n_b: int) -> tuple[float, float, float]:
    """Return a / n_a - b / n_b with its 95 % interval; nothing else to compare with counts as a rate of 0."""
    first, second = a / n_a, b / n_b if n_b else 0.0
    low_a, high_a = wilson_interval(a, n_a)
    low_b, high_b = wilson_interval(b, n_b) if n_b else (0.0, 0.0)
    difference = first - second
    below = ((first - low_a) ** 2 + (high_b - second) ** 2) ** 0.5
    above = ((high_a - first) ** 2 + (second - low_b) ** 2) ** 0.5
    return difference, difference - below, difference + above


def readable(report: pd.DataFrame) -> pd.DataFrame:
    """Return the table of :func:`slice_report` for people: percentages with their intervals as text."""
    shown = report[["dimension", "slice", "n", "errors"]].copy()
    shown["accuracy"] = _percent_cells(report, "accuracy", "low", "high")
    shown["share of all errors"] = _percent_cells(report, "share_of_errors", "share_low", "share_high")
    shown["errors too many"] = report["excess"].round(1)
    shown["points to gain"] = [f"{100 * gain:+.2f}" for gain in report["gain"]]
    return shown


def _percent_cells(table: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    cells: Iterable[tuple[float, float, float]] = zip(table[value], table[low], table[high], strict=True)
    return [f"{100 * v:.1f} % ({100 * a:.1f} to {100 * b:.1f})" for v, a, b in cells]
