"""How good are these predictions: the competition's score, its relatives, and how sure one may be of each.

Everything here works on two equally long lists of strings, the labels and what was read. Both sides are brought to NFC
first, so that a label typed on macOS equals the same word typed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from statistics import NormalDist

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein
from scipy.stats import binom

from hangul_ocr.hangul import HangulOcrError, normalise, to_jaso

WILDCARD = "□"
BOOTSTRAP_REPEATS = 1000
METRIC_NAMES = {
    "exact": "exact match (the competition's score)",
    "exact_without_spaces": "exact match without spaces",
    "cer": "character error rate",
    "one_minus_ned": "1-NED",
    "jaso_one_minus_ned": "jaso 1-NED",
}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """The scores of ``n`` predictions, all in 0..1 (CER may exceed 1), with 95 % intervals by field name."""

    n: int
    exact: float
    exact_without_spaces: float
    cer: float
    one_minus_ned: float
    jaso_one_minus_ned: float
    intervals: dict[str, Interval]

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-serialisable dict of all fields."""
        return asdict(self)


@dataclass(frozen=True)
class PairedTest:
    """The rows that only the first or only the second of two lists has right, and the two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def without_spaces(text: str) -> str:
    """Return ``text`` without any white space."""
    return "".join(text.split())


def exact_matches(texts: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Return a boolean array (N): where prediction and label agree in NFC, spaces included (the competition's rule)."""
    texts, predictions = _paired(texts, predictions)
    return np.array([a == b for a, b in zip(texts, predictions, strict=True)], dtype=bool)


def exact_matches_without_spaces(texts: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Return a boolean array (N): agreement with spaces removed, a ``□`` in a label being any character or none.

    That is the word accuracy of K-STR-Bench; case is kept.
    """
    pairs = _without_spaces(texts, predictions)
    return np.array([_jaso_distance(a, b)[0] == 0 for a, b in pairs], dtype=bool)


def edit_distances(texts: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Return the Levenshtein distance of each pair in characters, as an integer array (N)."""
    texts, predictions = _paired(texts, predictions)
    return np.array([Levenshtein.distance(a, b) for a, b in zip(texts, predictions, strict=True)], dtype=np.int64)


def normalised_similarities(texts: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Return 1 - distance / longer length for each pair, a float array (N); two empty strings are equal (1)."""
    texts, predictions = _paired(texts, predictions)
    similar = Levenshtein.normalized_similarity
    return np.array([similar(a, b) for a, b in zip(texts, predictions, strict=True)], dtype=float)


def one_minus_ned(texts: Sequence[str], predictions: Sequence[str]) -> float:
    """Return the mean of :func:`normalised_similarities` (1-NED; nan for no rows)."""
    return _mean(normalised_similarities(texts, predictions))


def jaso_similarities(texts: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Return 1 - normalised edit distance over jaso units for each pair, a float array (N).

    The protocol of K-STR-Bench: spaces removed, case kept, a ``□`` in a label stands for zero or one character and
    takes whichever reading of it is nearest to the prediction.
    """
    pairs = (_jaso_distance(a, b) for a, b in _without_spaces(texts, predictions))
    return np.array([1 - distance / longest if longest else 1.0 for distance, longest in pairs], dtype=float)


def jaso_one_minus_ned(texts: Sequence[str], predictions: Sequence[str]) -> float:
    """Return the mean of :func:`jaso_similarities` (nan for no rows)."""
    return _mean(jaso_similarities(texts, predictions))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (E. B. Wilson, 1927); (0, 1) when ``n`` is 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    reach = z / scale * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - reach), min(1.0, centre + reach)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    groups: Sequence[object] | None = None,
    confidence: float = 0.95,
    repeats: int = BOOTSTRAP_REPEATS,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of ``sum(values) / sum(weights)`` (the mean without ``weights``).

    With ``groups`` (one a row) whole groups are drawn, since crops of one photograph are right or wrong together.
    (nan, nan) for no rows.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    if not len(values):
        return float("nan"), float("nan")
    if groups is not None:
        values, weights = _summed_by_group(groups, values, weights)
    ratios = _resampled_ratios(values, weights, repeats, np.random.default_rng(seed))
    low, high = np.nanquantile(ratios, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def accuracy_interval(right: Sequence[bool] | np.ndarray, groups: Sequence[object] | None = None) -> Interval:
    """Return the 95 % interval of a share of right rows: Wilson's, or with ``groups`` a bootstrap over them.

    Rows that are all right (or all wrong) leave a bootstrap nothing to vary; then it is Wilson's over the groups.
    """
    right = np.asarray(right, dtype=bool)
    if groups is None or not len(right):
        return wilson_interval(int(right.sum()), len(right))
    if right.all() == right.any():
        count = len(set(groups))
        return wilson_interval(count if right.all() else 0, count)
    return bootstrap_interval(right, groups=groups)


def paired_test(
    texts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    groups: Sequence[object] | None = None,
) -> PairedTest:
    """Test whether two lists of predictions for the same rows differ in exact matches (exact, two-sided).

    The lists change places for each group (one a row) as a whole, since crops of one photograph are right or wrong
    together; without ``groups`` for each row, which is McNemar's test.
    """
    first_right, second_right = exact_matches(texts, first), exact_matches(texts, second)
    gained = second_right.astype(int) - first_right
    sums = gained if groups is None else _summed_by_group(groups, gained, gained)[0]
    return PairedTest(int((gained < 0).sum()), int((gained > 0).sum()), _flip_test(sums.astype(int)))


def score(texts: Sequence[str], predictions: Sequence[str], groups: Sequence[object] | None = None) -> Scores:
    """Return all scores of ``predictions`` against ``texts`` with 95 % intervals.

    Proportions get Wilson's interval, the others a bootstrap. With ``groups`` each is a bootstrap over groups.
    """
    texts, predictions = _paired(texts, predictions)
    rows = _row_values(texts, predictions)
    values = {name: _ratio(value, weight) for name, (value, weight) in rows.items()}
    intervals = {name: _interval(name, value, weight, groups) for name, (value, weight) in rows.items()}
    return Scores(n=len(texts), intervals=intervals, **values)


def scores_table(named: Scores | Mapping[str, Scores], decimals: int = 2) -> pd.DataFrame:
    """Return a table to show: a row for each metric, a column for each entry of ``named``, cells in percent.

    ``print(scores_table(scores).to_string())`` shows it in a terminal.
    """
    named = {"score": named} if isinstance(named, Scores) else named
    columns = {name: [_cell(scores, metric, decimals) for metric in METRIC_NAMES] for name, scores in named.items()}
    table = pd.DataFrame(columns, index=list(METRIC_NAMES.values()))
    table.loc["rows"] = [f"{scores.n:,}" for scores in named.values()]
    return table


def join_answers(predictions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Join by ``img_path``: the answers' rows and order, with ``prediction`` (and ``confidence``).

    Both tables hold ``img_path`` and ``text``. ``./test/1.png`` and ``test/1.png`` are one path. Raises
    ``HangulOcrError`` naming paths that are missing, left over or repeated.
    """
    for name, table in (("predictions", predictions), ("answers", answers)):
        _require_columns(name, table)
    predicted = predictions.assign(_key=predictions["img_path"].map(_path_key))
    expected = answers.assign(_key=answers["img_path"].map(_path_key))
    _check_paths(predicted, expected)
    extra = [column for column in ("confidence",) if column in predicted]
    right = predicted[["_key", "text", *extra]].rename(columns={"text": "prediction"})
    left = expected.drop(columns=[c for c in ("prediction", *extra) if c in expected])
    return left.merge(right, on="_key", how="left", validate="one_to_one").drop(columns="_key")


def _paired(texts: Sequence[str], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(texts) != len(predictions):
        raise ValueError(f"{len(texts)} texts, but {len(predictions)} predictions")
    return [normalise(t) for t in texts], [normalise(p) for p in predictions]


def _without_spaces(texts: Sequence[str], predictions: Sequence[str]) -> list[tuple[str, str]]:
    texts, predictions = _paired(texts, predictions)
    return [(without_spaces(a), without_spaces(b)) for a, b in zip(texts, predictions, strict=True)]


def _jaso_distance(text: str, prediction: str) -> tuple[int, int]:
    """Return the jaso edit distance and the longer side's number of units, wildcards resolved."""
    if WILDCARD in text:
        return _wildcard_distance(text, prediction)
    a, b = to_jaso(text), to_jaso(prediction)
    return Levenshtein.distance(a, b), max(len(a), len(b))


def _wildcard_distance(text: str, prediction: str) -> tuple[int, int]:
    """Return distance and longer length when each ``□`` may be nothing or one whole character of the prediction.

    The usual dynamic programme row by row over the label's units; a cell holds (distance, -units of the resolved
    label), so that of equally near readings of the label the longest wins.
    """
    units = [to_jaso(character) for character in prediction]
    flat = [unit for character in units for unit in character]
    ends = np.cumsum([len(character) for character in units]).tolist()
    starts_by_end = dict(zip(ends, [0, *ends], strict=False))
    row = [(j, 0) for j in range(len(flat) + 1)]
    for unit in to_jaso(text):
        row = _wildcard_row(row, starts_by_end) if unit == WILDCARD else _unit_row(row, unit, flat)
    distance, resolved = row[-1]
    return distance, max(-resolved, len(flat))


def _wildcard_row(row: list[tuple[int, int]], starts_by_end: dict[int, int]) -> list[tuple[int, int]]:
    """Return the next row for a ``□``: nothing, the whole character that ends here, or units left over."""
    best: list[tuple[int, int]] = []
    for j, (distance, units) in enumerate(row):
        options = [(distance, units)]
        if j in starts_by_end:
            before = row[starts_by_end[j]]
            options.append((before[0], before[1] - (j - starts_by_end[j])))
        if best:
            options.append((best[-1][0] + 1, best[-1][1]))
        best.append(min(options))
    return best


def _unit_row(row: list[tuple[int, int]], unit: str, flat: list[str]) -> list[tuple[int, int]]:
    """Return the next row of the edit-distance table for one ordinary unit of the label."""
    best = [(row[0][0] + 1, row[0][1] - 1)]
    for j, other in enumerate(flat, start=1):
        deleted = (row[j][0] + 1, row[j][1] - 1)
        swapped = (row[j - 1][0] + (unit != other), row[j - 1][1] - 1)
        inserted = (best[-1][0] + 1, best[-1][1])
        best.append(min(deleted, swapped, inserted))
    return best


def _lengths(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(normalise(text)) for text in texts], dtype=float)


def _ratio(values: np.ndarray, weights: np.ndarray) -> float:
    total = float(np.sum(weights))
    return float(np.sum(values)) / total if total else float("nan")


def _mean(values: np.ndarray) -> float:
    return _ratio(values, np.ones(len(values)))


def _summed_by_group(
    groups: Sequence[object], values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    numbers = pd.factorize(np.asarray(groups, dtype=object))[0]
    if len(numbers) != len(values):
        raise ValueError(f"{len(numbers)} groups, but {len(values)} values")
    return np.bincount(numbers, weights=values), np.bincount(numbers, weights=weights)


def _resampled_ratios(values: np.ndarray, weights: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    ratios = np.full(repeats, np.nan)
    for i in range(repeats):
        drawn = rng.integers(0, len(values), len(values))
        ratios[i] = _ratio(values[drawn], weights[drawn])
    return ratios


def _flip_test(differences: np.ndarray) -> float:
    """Return which share of all ways to flip the signs of whole numbers brings their sum as far from nought (exact)."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of each sum, from the lowest to the highest
    for size, count in zip(sizes, counts, strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    reach = abs(int(differences.sum()))
    return float(min(1.0, 2 * chances[: len(chances) // 2 - reach + 1].sum())) if reach else 1.0


def _row_values(texts: list[str], predictions: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each metric the (value, weight) arrays whose sums' ratio is the metric."""
    ones = np.ones(len(texts))
    functions: dict[str, Callable[[Sequence[str], Sequence[str]], np.ndarray]] = {
        "exact": exact_matches,
        "exact_without_spaces": exact_matches_without_spaces,
        "one_minus_ned": normalised_similarities,
        "jaso_one_minus_ned": jaso_similarities,
    }
    rows = {name: (function(texts, predictions).astype(float), ones) for name, function in functions.items()}
    return {**rows, "cer": (edit_distances(texts, predictions).astype(float), _lengths(texts))}


def _interval(name: str, values: np.ndarray, weights: np.ndarray, groups: Sequence[object] | None) -> Interval:
    if name.startswith("exact"):
        return accuracy_interval(values, groups)
    return bootstrap_interval(values, weights, groups)


def _cell(scores: Scores, metric: str, decimals: int) -> str:
    low, high = scores.intervals[metric]
    return f"{100 * getattr(scores, metric):.{decimals}f} % ({100 * low:.{decimals}f} to {100 * high:.{decimals}f})"


def _path_key(path: str) -> str:
    return PurePosixPath(normalise(str(path)).replace("\\", "/")).as_posix()


def _require_columns(name: str, table: pd.DataFrame) -> None:
    missing = [column for column in ("img_path", "text") if column not in table]
    if missing:
        raise HangulOcrError(
            f"the {name} have no column {', '.join(missing)} (found: {', '.join(map(str, table.columns))}): "
            "name the columns img_path and text"
        )


def _check_paths(predicted: pd.DataFrame, expected: pd.DataFrame) -> None:
    for name, table in (("predictions", predicted), ("answers", expected)):
        repeated = table.loc[table["_key"].duplicated(), "img_path"]
        _refuse(repeated, f"img_path repeated in the {name}", "keep one row for each image")
    missing = expected.loc[~expected["_key"].isin(predicted["_key"]), "img_path"]
    _refuse(missing, "img_path without a prediction", "predict every image of the answers")
    extra = predicted.loc[~predicted["_key"].isin(expected["_key"]), "img_path"]
    _refuse(extra, "predictions that the answers do not name", "score against the answers of the same images")


def _refuse(paths: pd.Series, what: str, remedy: str) -> None:
    if len(paths):
        shown = ", ".join(map(str, paths[:5])) + (", ..." if len(paths) > 5 else "")
        raise HangulOcrError(f"{len(paths)} {what}: {shown}; {remedy}")
