"""What went wrong: labels and predictions aligned character by character, counted by syllable, jamo and kind of row.

The table everything starts from is an out-of-fold (or scored) table with ``img_path,text,prediction`` and, where known,
``confidence,fold,width,height,source``. :func:`error_frame` adds what the rest of this module and the plots read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from hangul_ocr.evaluation.metrics import edit_distances, exact_matches, wilson_interval, without_spaces
from hangul_ocr.hangul import (
    N_FINAL,
    N_INITIAL,
    N_MEDIAL,
    HangulOcrError,
    decompose,
    is_placeholder,
    is_syllable,
    normalise,
)

MATCH, SUBSTITUTE, INSERT, DELETE = "match", "substitute", "insert", "delete"
ERROR_KINDS = ("correct", "spacing", "substitution", "insertion", "deletion", "mixed", "empty")
SLOTS = ("initial", "medial", "final")

_LENGTH_EDGES = (-1, 1, 2, 3, 4, 5, 6, 8, 10**9)
_LENGTH_NAMES = ("1", "2", "3", "4", "5", "6", "7 to 8", "9 or more")
_RARITY_EDGES = (-1, 0, 2, 9, 99, 10**12)
_RARITY_NAMES = ("never seen", "1 or 2 times", "3 to 9 times", "10 to 99 times", "100 times or more")
_CONFIDENCE_EDGES = (-0.001, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_CONFIDENCE_NAMES = ("0 to 0.5", "0.5 to 0.7", "0.7 to 0.8", "0.8 to 0.9", "0.9 to 0.95", "0.95 to 0.99", "over 0.99")


@dataclass(frozen=True)
class Op:
    """One column of an alignment. ``expected`` is empty for an insertion, ``predicted`` for a deletion.

    The indices are positions in label and prediction; for the empty side, where the character would have stood.
    """

    kind: str
    expected: str
    predicted: str
    expected_index: int
    predicted_index: int


@dataclass(frozen=True)
class JamoConfusions:
    """How syllables that stand opposite each other agree, slot by slot.

    ``initial`` (19 x 19), ``medial`` (21 x 21) and ``final`` (28 x 28, index 0 = none) count expected jamo (rows)
    against predicted jamo (columns), right ones on the diagonal. ``wrong_slots`` counts the wrong syllables by which of
    their slots are wrong, such as ``"initial"`` or ``"medial + final"``.
    """

    initial: np.ndarray
    medial: np.ndarray
    final: np.ndarray
    wrong_slots: dict[str, int]


def align(text: str, prediction: str) -> list[Op]:
    """Align label and prediction (NFC) character by character with the fewest edits, in reading order."""
    text, prediction = normalise(text), normalise(prediction)
    ops: list[Op] = []
    for code in Levenshtein.opcodes(text, prediction):
        ops += _ops_of(code.tag, text, prediction, code.src_start, code.src_end, code.dest_start, code.dest_end)
    return ops


def confused_pairs(texts: Sequence[str], predictions: Sequence[str], top: int | None = 30) -> pd.DataFrame:
    """Return the characters most often read as another: ``expected,predicted,count,occurrences,rate``.

    ``occurrences`` counts the expected character in all labels and ``rate`` is count / occurrences.
    """
    counts = Counter((op.expected, op.predicted) for op in _all_ops(texts, predictions) if op.kind == SUBSTITUTE)
    occurrences = character_counts(texts)
    rows = [
        (expected, predicted, count, occurrences[expected], count / occurrences[expected])
        for (expected, predicted), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return pd.DataFrame(rows[:top], columns=["expected", "predicted", "count", "occurrences", "rate"])


def inserted_and_deleted(texts: Sequence[str], predictions: Sequence[str], top: int | None = 30) -> pd.DataFrame:
    """Return the characters most often written though absent, or missed: ``character,inserted,deleted,occurrences``."""
    inserted: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    for op in _all_ops(texts, predictions):
        inserted.update([op.predicted] if op.kind == INSERT else [])
        deleted.update([op.expected] if op.kind == DELETE else [])
    occurrences = character_counts(texts)
    characters = sorted(inserted.keys() | deleted.keys(), key=lambda c: (-inserted[c] - deleted[c], c))[:top]
    rows = [(c, inserted[c], deleted[c], occurrences[c]) for c in characters]
    return pd.DataFrame(rows, columns=["character", "inserted", "deleted", "occurrences"])


def jamo_confusions(texts: Sequence[str], predictions: Sequence[str]) -> JamoConfusions:
    """Count which of initial, medial and final went wrong where one syllable stands opposite another."""
    matrices = [np.zeros((n, n), dtype=np.int64) for n in (N_INITIAL, N_MEDIAL, N_FINAL)]
    wrong: Counter[str] = Counter()
    for op in _all_ops(texts, predictions):
        if not (is_syllable(op.expected) and is_syllable(op.predicted)):
            continue
        slots = list(zip(decompose(op.expected), decompose(op.predicted), strict=True))
        for matrix, (expected, predicted) in zip(matrices, slots, strict=True):
            matrix[expected, predicted] += 1
        wrong[" + ".join(name for name, (a, b) in zip(SLOTS, slots, strict=True) if a != b)] += 1
    del wrong[""]
    return JamoConfusions(*matrices, wrong_slots=dict(wrong.most_common()))


def error_kind(text: str, prediction: str) -> str:
    """Return one of ``ERROR_KINDS``: what sort of edits turn the prediction into the label.

    ``spacing`` is a row wrong only in its spaces, ``empty`` one where nothing was read.
    """
    text, prediction = normalise(text), normalise(prediction)
    if text == prediction:
        return "correct"
    if not without_spaces(prediction):
        return "empty"
    if without_spaces(text) == without_spaces(prediction):
        return "spacing"
    kinds = {op.kind for op in align(text, prediction)} - {MATCH}
    names = {SUBSTITUTE: "substitution", INSERT: "insertion", DELETE: "deletion"}
    return names[kinds.pop()] if len(kinds) == 1 else "mixed"


def error_frame(oof: pd.DataFrame, training: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return ``oof`` with the columns the analysis reads; it must hold ``text`` and ``prediction``.

    Added: ``correct``, ``n_edits``, ``error_kind``, ``length`` (characters, spaces included), ``has_space``, and the
    slices ``by_length``, ``by_space``, and where their columns are there ``by_confidence``, ``by_shape``
    (``width,height``), ``by_rarity`` (see :func:`training_frequency`).
    Raises ``HangulOcrError`` for a missing column.
    """
    _require(oof, "text", "prediction")
    frame = oof.reset_index(drop=True).copy()
    for column in ("text", "prediction"):
        frame[column] = [normalise(str(value)) for value in frame[column]]
    texts, predictions = frame["text"].tolist(), frame["prediction"].tolist()
    frame["correct"] = exact_matches(texts, predictions)
    frame["n_edits"] = edit_distances(texts, predictions)
    frame["error_kind"] = [error_kind(a, b) for a, b in zip(texts, predictions, strict=True)]
    frame["length"] = [len(text) for text in texts]
    frame["has_space"] = [" " in text for text in texts]
    for column in {"confidence", "width", "height"} & set(frame.columns):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return _with_slices(frame, training)


def slice_table(frame: pd.DataFrame, by: str, natural_order: bool = False) -> pd.DataFrame:
    """Return accuracy by the values of column ``by`` of an :func:`error_frame`, greatest gain first.

    Columns: ``slice``, ``n``, ``errors``, ``accuracy`` with its Wilson interval ``low``, ``high``, ``share_of_errors``,
    and ``gain``: how much the overall accuracy would rise if every row of the slice were right. ``natural_order`` keeps
    the order of the bins (or the alphabet) instead.
    """
    _require(frame, by, "correct")
    grouped = frame.groupby(by, observed=True, sort=True)["correct"].agg(["size", "sum"]).reset_index()
    table = pd.DataFrame({"slice": grouped[by].astype(str), "n": grouped["size"].astype(int)})
    table["errors"] = table["n"] - grouped["sum"].astype(int)
    table["accuracy"] = 1 - table["errors"] / table["n"]
    intervals = [wilson_interval(n - errors, n) for n, errors in zip(table["n"], table["errors"], strict=True)]
    table["low"], table["high"] = [low for low, _ in intervals], [high for _, high in intervals]
    table["share_of_errors"] = table["errors"] / max(1, int(table["errors"].sum()))
    table["gain"] = table["errors"] / max(1, len(frame))
    table.attrs["by"] = by
    if natural_order:
        return table
    return table.sort_values(["errors", "accuracy"], ascending=[False, True], kind="stable", ignore_index=True)


def slices(frame: pd.DataFrame) -> list[str]:
    """Return the columns of an :func:`error_frame` that cut it into more than one slice."""
    names = ("by_length", "by_shape", "by_space", "by_rarity", "by_confidence", "source")
    return [name for name in names if name in frame and frame[name].nunique() > 1]


def kind_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many rows of an :func:`error_frame` are wrong in which way: ``error_kind,n,share_of_errors``."""
    counts = frame.loc[~frame["correct"], "error_kind"].value_counts()
    table = pd.DataFrame({"error_kind": counts.index.astype(str), "n": counts.to_numpy()})
    return table.assign(share_of_errors=table["n"] / max(1, int(table["n"].sum())))


def worst_predictions(frame: pd.DataFrame, top: int | None = 24) -> pd.DataFrame:
    """Return the wrong rows of an :func:`error_frame`, furthest from their label first, then the surest."""
    wrong = frame.loc[~frame["correct"]].copy()
    longer = [max(1, len(text), len(read)) for text, read in zip(wrong["text"], wrong["prediction"], strict=True)]
    wrong["_distance"] = wrong["n_edits"] / np.array(longer, dtype=float)
    wrong["_sure"] = wrong.get("confidence", 0.0)
    ordered = wrong.sort_values(["_distance", "_sure"], ascending=False, kind="stable")
    return ordered.drop(columns=["_distance", "_sure"]).head(len(wrong) if top is None else top)


def suspicious_labels(frame: pd.DataFrame, top: int | None = 50) -> pd.DataFrame:
    """Return the rows where a confident prediction contradicts the label, most confident first: look at these labels.

    The column ``reason`` says how they differ: ``placeholder`` (the label is XXX or the like), or the error kind.
    """
    _require(frame, "confidence", "correct")
    wrong = frame.loc[~frame["correct"] & frame["confidence"].notna() & (frame["prediction"] != "")].copy()
    wrong["reason"] = [
        "placeholder" if is_placeholder(text) else kind
        for text, kind in zip(wrong["text"], wrong["error_kind"], strict=True)
    ]
    ordered = wrong.sort_values(["confidence", "n_edits"], ascending=[False, True], kind="stable")
    return ordered.head(len(wrong) if top is None else top)


def character_counts(texts: Iterable[str]) -> Counter[str]:
    """Return how often each character occurs in ``texts`` (NFC)."""
    return Counter(character for text in texts for character in normalise(text))


def rarest_frequency(texts: Iterable[str], counts: Counter[str]) -> list[int]:
    """Return for each text how often its rarest character (spaces aside) occurs in ``counts``; 0 is never."""
    return [min((counts[c] for c in without_spaces(normalise(text))), default=0) for text in texts]


def training_frequency(frame: pd.DataFrame, training: pd.DataFrame | None = None) -> pd.Series:
    """Return how often the rarest character of each row's label was seen in training.

    Counted in ``training`` (column ``text``); with a column ``fold`` there, a row's own fold is left out. By default
    ``frame`` itself is that table, which is right only if it holds the rows of all folds.
    """
    training = frame if training is None else training
    total = character_counts(training["text"])
    if "fold" not in training:
        return pd.Series(rarest_frequency(frame["text"], total), index=frame.index)
    _require(frame, "fold")
    own = {fold: character_counts(rows["text"]) for fold, rows in training.groupby("fold")}
    frequency = pd.Series(0, index=frame.index)
    for fold, rows in frame.groupby("fold"):
        others = total.copy()
        others.subtract(own.get(fold, Counter()))
        frequency.loc[rows.index] = rarest_frequency(rows["text"], others)
    return frequency


def shape_of(width: float, height: float) -> str:
    """Return ``wide``, ``square`` (sides within 10 %) or ``tall``; ``unknown`` for sizes that are missing."""
    if not (width > 0 and height > 0):
        return "unknown"
    ratio = width / height
    return "square" if 1 / 1.1 <= ratio <= 1.1 else ("wide" if ratio > 1 else "tall")


def _ops_of(tag: str, text: str, prediction: str, a: int, a_end: int, b: int, b_end: int) -> list[Op]:
    if tag == "delete":
        return [Op(DELETE, text[i], "", i, b) for i in range(a, a_end)]
    if tag == "insert":
        return [Op(INSERT, "", prediction[j], a, j) for j in range(b, b_end)]
    kind = MATCH if tag == "equal" else SUBSTITUTE
    return [Op(kind, text[i], prediction[j], i, j) for i, j in zip(range(a, a_end), range(b, b_end), strict=True)]


def _all_ops(texts: Sequence[str], predictions: Sequence[str]) -> Iterable[Op]:
    for text, prediction in zip(texts, predictions, strict=True):
        yield from align(text, prediction)


def _with_slices(frame: pd.DataFrame, training: pd.DataFrame | None) -> pd.DataFrame:
    frame["by_length"] = pd.cut(frame["length"], _LENGTH_EDGES, labels=_LENGTH_NAMES)
    frame["by_space"] = np.where(frame["has_space"], "with a space", "without a space")
    if "confidence" in frame:
        frame["by_confidence"] = pd.cut(frame["confidence"].clip(0, 1), _CONFIDENCE_EDGES, labels=_CONFIDENCE_NAMES)
    if {"width", "height"} <= set(frame.columns):
        frame["by_shape"] = [shape_of(w, h) for w, h in zip(frame["width"], frame["height"], strict=True)]
    if training is not None or "fold" in frame:
        frequency = training_frequency(frame, training)
        frame["by_rarity"] = pd.cut(frequency, _RARITY_EDGES, labels=_RARITY_NAMES)
    return frame


def _require(frame: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        found = ", ".join(map(str, frame.columns))
        raise HangulOcrError(f"the table has no column {', '.join(missing)} (found: {found}): add it or name it so")
