"""Which rows of an error frame to look at: views, search, filters and orders that notebook and report share."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hangul_ocr.evaluation.errors import suspicious_labels, worst_predictions
from hangul_ocr.evaluation.slices import tags_of
from hangul_ocr.hangul import HangulOcrError, normalise

WORST, CONFIDENT_WRONG, UNCERTAIN_RIGHT, SUSPECTS, EVERYTHING = (
    "worst",
    "most confident wrong",
    "most uncertain right",
    "suspected label errors",
    "all crops",
)
VIEWS = (WORST, CONFIDENT_WRONG, UNCERTAIN_RIGHT, SUSPECTS, EVERYTHING)
#: Orders besides the view's own: name -> (column, ascending).
ORDERS = {
    "as the view ranks them": ("", True),
    "surest first": ("confidence", False),
    "least sure first": ("confidence", True),
    "most wrong characters first": ("n_edits", False),
    "longest label first": ("length", False),
    "by label": ("text", True),
    "by path": ("img_path", True),
}


def view(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of an ``errors.error_frame`` that a view of ``VIEWS`` holds, in its order.

    Without confidences the views that rank by them are empty. Raises ``HangulOcrError`` for an unknown name.
    """
    if name not in VIEWS:
        raise HangulOcrError(f"view {name!r} is unknown; choose one of {', '.join(VIEWS)}")
    if name == EVERYTHING:
        return frame
    if name == WORST:
        return worst_predictions(frame, None)
    if "confidence" not in frame:
        return frame.iloc[:0]
    if name == SUSPECTS:
        return _suspects(frame)
    rows = frame[frame["correct"] == (name == UNCERTAIN_RIGHT)].dropna(subset=["confidence"])
    return rows.sort_values("confidence", ascending=name == UNCERTAIN_RIGHT, kind="stable")


def _suspects(frame: pd.DataFrame, top: int = 50) -> pd.DataFrame:
    """Return the labels most doubtful by ``suspicion`` (of ``labels.rank_suspects``), or by confidence without it."""
    if "suspicion" not in frame:
        return suspicious_labels(frame, top)
    return frame.dropna(subset=["suspicion"]).sort_values("suspicion", ascending=False, kind="stable").head(top)


def search(frame: pd.DataFrame, query: str) -> pd.DataFrame:
    """Return the rows whose label, prediction or path holds ``query``; spaces around it and its case do not matter."""
    query = normalise(query).strip().casefold()
    if not query:
        return frame
    columns = [column for column in ("text", "prediction", "img_path") if column in frame]
    found = [frame[c].map(lambda value: query in normalise(str(value)).casefold()).astype(bool) for c in columns]
    return frame[pd.concat(found, axis=1).any(axis=1)]


def filtered(frame: pd.DataFrame, values: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows that have, in each column named, the value given (as text); an empty value filters nothing.

    Of ``tags``, of which a row may have any number, it is one of them.
    """
    for column, value in values.items():
        if value and column == "tags":
            frame = frame[[value in map(str, tags_of(row)) for row in frame[column]]]
        elif value:
            frame = frame[frame[column].astype(str) == value]
    return frame


def ordered(frame: pd.DataFrame, order: str) -> pd.DataFrame:
    """Return the rows in one of ``ORDERS``; rows without the value come last. ``HangulOcrError`` for another name."""
    if order not in ORDERS:
        raise HangulOcrError(f"order {order!r} is unknown; choose one of {', '.join(ORDERS)}")
    column, ascending = ORDERS[order]
    return frame.sort_values(column, ascending=ascending, kind="stable") if column in frame else frame


def choices(frame: pd.DataFrame, most: int = 30) -> dict[str, list[str]]:
    """Return for each column worth filtering by its values as text, in their order."""
    columns = ("error_kind", "by_length", "by_orientation", "by_shape", "by_size", "by_rarity", "source", "fold")
    found = {}
    for column in columns:
        if column in frame and 1 < frame[column].nunique() <= most:
            values = frame[column].astype("category").cat
            found[column] = [str(v) for v in values.categories if (frame[column] == v).any()]
    tags = sorted({str(tag) for row in frame.get("tags", ()) for tag in tags_of(row)})
    return found | ({"tags": tags} if tags else {})
