"""Two runs on the same crops: what got better, what got worse, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from hangul_ocr.evaluation.metrics import PairedTest, accuracy_interval, exact_matches, paired_test
from hangul_ocr.hangul import HangulOcrError, normalise

BETTER, WORSE, BOTH_RIGHT, BOTH_WRONG = "better", "worse", "both right", "both wrong"
OUTCOMES = (BETTER, WORSE, BOTH_RIGHT, BOTH_WRONG)


@dataclass(frozen=True)
class Comparison:
    """Two runs' readings of the crops that both have.

    ``rows`` holds ``img_path,text,first,second``, where known ``first_confidence,second_confidence`` and ``group``, and
    ``outcome`` (of ``OUTCOMES``, as seen from the second run); ``names`` are the runs', and ``left_aside`` counts the
    crops that only one of them has.
    """

    names: tuple[str, str]
    rows: pd.DataFrame
    test: PairedTest
    left_aside: int = 0

    def picked(self, outcome: str) -> pd.DataFrame:
        """Return the rows with this outcome, the surest of the run that is wrong (else of the second) first."""
        rows = self.rows[self.rows["outcome"] == outcome]
        column = "first_confidence" if outcome == BETTER else "second_confidence"
        return rows.sort_values(column, ascending=False, kind="stable") if column in rows else rows


def compare_runs(
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str] = ("first", "second"),
    group_of: Mapping[str, object] | None = None,
) -> Comparison:
    """Compare two tables ``img_path,text,prediction`` (and ``confidence``), joined by path.

    ``group_of`` tells the photograph of a path: its crops are then tested as one; a path that it lacks is one of its
    own. Raises ``HangulOcrError`` if they have no crop in common, repeat one, lack a column, or differ in a label.
    """
    for name, table in zip(names, (first, second), strict=True):
        _require_table(name, table)
    tables = [_renamed(first, "first"), _renamed(second, "second")]
    joined = tables[0].merge(tables[1], on="img_path", how="inner", validate="one_to_one")
    if joined.empty:
        raise HangulOcrError(f"{names[0]} and {names[1]} have no crop in common; compare runs of one competition")
    _require_same_labels(joined, names)
    joined = joined.rename(columns={"first_text": "text"}).drop(columns="second_text")
    texts, a, b = (joined[column].tolist() for column in ("text", "first", "second"))
    joined["outcome"] = _outcomes(exact_matches(texts, a), exact_matches(texts, b))
    if group_of is not None:
        joined["group"] = [group_of.get(path, path) for path in joined["img_path"]]
    left_aside = len(first) + len(second) - 2 * len(joined)
    return Comparison(names, joined, paired_test(texts, a, b, _groups(joined)), left_aside)


def _groups(rows: pd.DataFrame) -> list[object] | None:
    return rows["group"].tolist() if "group" in rows else None


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """Return accuracies with intervals, the crops that changed, and the p-value, as text in two columns."""
    rows, groups = comparison.rows, _groups(comparison.rows)
    counts = rows["outcome"].value_counts()
    cells = {"crops compared": f"{len(rows):,}"}
    for name, own in zip(comparison.names, (WORSE, BETTER), strict=True):
        right = rows["outcome"].isin([BOTH_RIGHT, own]).to_numpy()
        low, high = accuracy_interval(right, groups)
        cells[f"accuracy of {name}"] = f"{100 * right.mean():.2f} % ({100 * low:.2f} to {100 * high:.2f})"
    cells |= {f"{outcome}": f"{counts.get(outcome, 0):,}" for outcome in OUTCOMES}
    how = "McNemar, exact" if groups is None else "exact, photographs kept whole"
    cells[f"p-value ({how})"] = f"{comparison.test.p_value:.3g}"
    if comparison.left_aside:
        cells["crops that only one has, left aside"] = f"{comparison.left_aside:,}"
    return pd.DataFrame({"": cells})


def verdict(comparison: Comparison) -> str:
    """Return in one sentence whether the second run is better than the first."""
    better, worse = comparison.test.only_second, comparison.test.only_first
    first, second = comparison.names
    counts = f"{better:,} crops got better, {worse:,} worse"
    if comparison.test.p_value >= 0.05:
        return f"{counts}: that may be chance (p = {comparison.test.p_value:.2g})"
    side = "better" if better > worse else "worse"
    return f"{counts}: {second} is {side} than {first} (p = {comparison.test.p_value:.2g})"


def _outcomes(first: pd.Series, second: pd.Series) -> list[str]:
    names = {(True, True): BOTH_RIGHT, (False, False): BOTH_WRONG, (False, True): BETTER, (True, False): WORSE}
    return [names[bool(a), bool(b)] for a, b in zip(first, second, strict=True)]


def _renamed(table: pd.DataFrame, side: str) -> pd.DataFrame:
    columns = {"text": f"{side}_text", "prediction": side, "confidence": f"{side}_confidence"}
    kept = table[["img_path", *(name for name in columns if name in table)]].rename(columns=columns)
    for name in (f"{side}_text", side):
        kept[name] = [normalise(str(value)) for value in kept[name]]
    return kept


def _require_table(name: str, table: pd.DataFrame) -> None:
    lacking = [column for column in ("img_path", "text", "prediction") if column not in table]
    if lacking:
        raise HangulOcrError(f"{name}: no column {lacking[0]} (found: {', '.join(map(str, table.columns))}); add it")
    repeated = table.loc[table["img_path"].duplicated(), "img_path"]
    if len(repeated):
        raise HangulOcrError(f"{name}: {repeated.iloc[0]} stands there more than once; keep one row for each crop")


def _require_same_labels(joined: pd.DataFrame, names: tuple[str, str]) -> None:
    differing = joined[joined["first_text"] != joined["second_text"]]
    if len(differing):
        row = differing.iloc[0]
        raise HangulOcrError(
            f"{names[0]} and {names[1]} have other labels for {len(differing):,} crops (first {row['img_path']}: "
            f"“{row['first_text']}” and “{row['second_text']}”); compare runs over the same labels"
        )
