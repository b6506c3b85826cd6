"""Does the confidence mean what it says, and how to make it: calibration error, temperature, accuracy by coverage.

One number, the temperature, divides the log probability of every string that was read, in the manner of Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017. (They divide the logits of all classes; of a string only its own
probability is kept, and that is a product over its characters, so that long strings are doubted too much.) It changes
no reading and no order of readings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

BINS = 10
_EDGE = 1e-6
# Twice finer than anything a reliability diagram shows; wide enough for a network that is absurdly sure.
_TEMPERATURES = np.geomspace(0.05, 20, 601)


def reliability_bins(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> pd.DataFrame:
    """Return for each bin of confidence that holds rows: ``low,high,n,confidence`` (mean), ``accuracy,right``."""
    table = _known(confidences, correct)
    edges = np.linspace(0, 1, bins + 1)
    number = np.clip(np.digitize(table["confidence"], edges[1:-1]), 0, bins - 1)
    rows = table.groupby(number).agg(n=("correct", "size"), confidence=("confidence", "mean"), right=("correct", "sum"))
    return rows.assign(low=edges[rows.index], high=edges[rows.index + 1], accuracy=rows["right"] / rows["n"])


def calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """Return the expected calibration error in 0..1: the mean gap of confidence and accuracy; nan for no rows."""
    rows = reliability_bins(confidences, correct, bins)
    if rows.empty:
        return float("nan")
    return float((rows["n"] * (rows["confidence"] - rows["accuracy"]).abs()).sum() / rows["n"].sum())


def fit_temperature(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the temperature under which the confidences explain best (likelihood) which rows are right; 1 for none."""
    table = _known(confidences, correct)
    if table.empty:
        return 1.0
    confidences, right = table["confidence"].to_numpy(), table["correct"].to_numpy()
    losses = [_log_loss(tempered(confidences, temperature), right) for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def tempered(confidences: Sequence[float], temperature: float) -> np.ndarray:
    """Return the confidences (N,) after their logarithms are divided by ``temperature``; above 1 makes them surer."""
    return np.clip(np.asarray(confidences, dtype=float), 0, 1) ** (1 / temperature)


def cross_calibrated(
    confidences: Sequence[float], correct: Sequence[bool], folds: Sequence[object] | None = None
) -> np.ndarray:
    """Return tempered confidences (N,), each by a temperature fitted on the rows of all *other* folds.

    So the calibration error after is as honest as the one before. Without ``folds`` the rows are dealt into five.
    """
    confidences, correct = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=bool)
    folds = np.arange(len(correct)) % 5 if folds is None else np.asarray(folds)
    if len(set(folds.tolist())) < 2:
        folds = np.arange(len(correct)) % 5
    result = np.array(confidences)
    for fold in set(folds.tolist()):
        own = folds == fold
        result[own] = tempered(confidences[own], fit_temperature(confidences[~own], correct[~own]))
    return result


def calibration_table(
    confidences: Sequence[float], correct: Sequence[bool], folds: Sequence[object] | None = None
) -> pd.DataFrame:
    """Return calibration error, log loss and Brier score before and after the temperature (cross-fitted)."""
    known = _known(confidences, correct)
    after = cross_calibrated(confidences, correct, folds)
    rows = {
        "as given": _judged(confidences, correct),
        f"temperature {fit_temperature(known['confidence'], known['correct']):.2f}": _judged(after, correct),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _judged(confidences: Sequence[float], correct: Sequence[bool]) -> dict[str, float]:
    table = _known(confidences, correct)
    p, right = table["confidence"].to_numpy(), table["correct"].to_numpy()
    return {
        "calibration error": calibration_error(confidences, correct),
        "log loss": _log_loss(p, right) if len(p) else float("nan"),
        "Brier score": float(((p - right) ** 2).mean()) if len(p) else float("nan"),
    }


def accuracy_coverage(confidences: Sequence[float], correct: Sequence[bool]) -> pd.DataFrame:
    """Return ``coverage,accuracy,confidence`` when only rows of at least that confidence are kept, surest first.

    Rows of equal confidence are kept together: no threshold could part them.
    """
    table = _known(confidences, correct).sort_values("confidence", ascending=False, kind="stable")
    kept = np.arange(1, len(table) + 1)
    curve = pd.DataFrame({"coverage": kept / max(1, len(table)), "accuracy": table["correct"].cumsum() / kept})
    curve["confidence"] = table["confidence"].to_numpy()
    return curve.drop_duplicates("confidence", keep="last").reset_index(drop=True)


def coverage_at(
    confidences: Sequence[float], correct: Sequence[bool], wanted: Sequence[float] = (0.9, 0.95, 0.98, 0.99, 0.995)
) -> pd.DataFrame:
    """Return how many rows could be kept unread by people at each ``wanted`` accuracy, and from which confidence on."""
    curve = accuracy_coverage(confidences, correct)
    rows = []
    for accuracy in wanted:
        enough = curve[curve["accuracy"] >= accuracy]
        best = enough.iloc[-1] if len(enough) else None
        share, least = (0.0, float("nan")) if best is None else (best["coverage"], best["confidence"])
        rows.append({"accuracy wanted": accuracy, "share of rows kept": share, "confidence from": least})
    return pd.DataFrame(rows)


def _known(confidences: Sequence[float], correct: Sequence[bool]) -> pd.DataFrame:
    table = pd.DataFrame({"confidence": np.asarray(confidences, float), "correct": np.asarray(correct, bool)})
    return table.dropna().reset_index(drop=True)


def _log_loss(confidences: np.ndarray, correct: np.ndarray) -> float:
    p = np.clip(confidences, _EDGE, 1 - _EDGE)
    return float(-np.log(np.where(correct, p, 1 - p)).mean())
