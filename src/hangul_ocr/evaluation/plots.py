"""Charts of the data and of the errors. Every function returns a matplotlib figure and touches no window and no file.

``save_figure(figure, path)`` writes one; in a notebook the figure as a cell's last line is enough. With nothing to
draw, a figure says so in a sentence. Those that show crops themselves are in ``pictures`` and are offered here too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hangul_ocr.evaluation.calibration import (
    accuracy_coverage,
    calibration_error,
    cross_calibrated,
    fit_temperature,
    reliability_bins,
)
from hangul_ocr.evaluation.comparison import BETTER, WORSE, Comparison, verdict
from hangul_ocr.evaluation.errors import JamoConfusions, character_counts, shape_of
from hangul_ocr.evaluation.metrics import wilson_interval
from hangul_ocr.evaluation.pictures import alignment, alignment_map, centres_wall, gallery, image_wall, versus
from hangul_ocr.evaluation.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    count_axis,
    drawn,
    fit,
    headline,
    log_axis,
    new_figure,
    number_axis,
    percent_axis,
    save_figure,
    sentence_axes,
    sentence_figure,
    shown,
    use_korean_font,
)
from hangul_ocr.hangul import FINALS, INITIALS, MEDIALS

__all__ = [
    "accuracy_by",
    "alignment",
    "alignment_map",
    "centres_wall",
    "changes",
    "character_frequencies",
    "confusion_pairs",
    "cv_vs_leaderboard",
    "edit_kinds",
    "ensemble_comparison",
    "gallery",
    "image_wall",
    "jamo_confusion",
    "label_lengths",
    "learning_curves",
    "order_effects",
    "reliability",
    "save_figure",
    "shapes",
    "slice_gains",
    "syllable_confusion",
    "use_korean_font",
    "versus",
]

_CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
_SHAPE_COLOURS = {"wide": BLUE, "tall": VERMILLION, "square": GREEN}
_BAR = 0.3
_PANEL_POINTS = 175  # about the side of a panel of jamo


@drawn
def label_lengths(texts: Sequence[str]) -> Figure:
    """Draw how many labels have which length (characters, spaces included)."""
    if not len(texts):
        return sentence_figure("There are no labels to count.")
    lengths = np.array([len(text) for text in texts])
    counts = np.bincount(lengths)
    figure = new_figure(3.0)
    ax = figure.subplots()
    bars = ax.bar(np.arange(len(counts)), counts, color=BLUE, width=0.8)
    ax.bar_label(
        bars,
        [_share(count / len(texts)) if 1000 * count >= len(texts) else "" for count in counts],
        fontsize=8,
        color=GREY,
        padding=2,
    )
    ax.set(
        xlabel="characters in a label, spaces included",
        ylabel="labels",
        xlim=(0.3 - (lengths.min() == 0), max(5, lengths.max()) + 0.7),
    )
    count_axis(ax.xaxis)
    count_axis(ax.yaxis)
    longest = lengths.max()
    headline(figure, f"Label length: median {np.median(lengths):g}, longest {longest} characters")
    return figure


@drawn
def character_frequencies(texts: Sequence[str], top: int = 40) -> Figure:
    """Draw the most frequent characters as bars, and beside them how fast the rest gets rare (rank against count)."""
    counts = character_counts(texts).most_common()
    if not counts:
        return sentence_figure("The labels hold no characters to count.")
    figure = new_figure(3.6)
    head, tail = figure.subplots(1, 2, width_ratios=(1.9, 1))
    _frequency_head(head, counts[:top])
    _frequency_tail(tail, np.array([count for _, count in counts]))
    return figure


@drawn
def shapes(widths: Sequence[float], heights: Sequence[float]) -> Figure:
    """Draw the sizes of the crops in pixels, and how many are how much wider than tall."""
    sizes = pd.DataFrame({"width": np.asarray(widths, float), "height": np.asarray(heights, float)})
    sizes = sizes[(sizes["width"] > 0) & (sizes["height"] > 0)]
    if sizes.empty:
        return sentence_figure("There are no crop sizes to draw.")
    kinds = np.array([shape_of(w, h) for w, h in zip(sizes["width"], sizes["height"], strict=True)])
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    _size_scatter(left, sizes, kinds)
    _aspect_histogram(right, (sizes["width"] / sizes["height"]).to_numpy())
    tall = float(np.mean(kinds == "tall"))
    found = f"{_share(tall)} of the {len(kinds):,} crops are taller than wide: their text may run down"
    headline(figure, found if tall else "No crop is taller than wide")
    return figure


@drawn
def order_effects(shares: pd.DataFrame) -> Figure:
    """Draw how shares (0..1, a column each) change along the file: flat lines mean that the rows were mixed."""
    if shares.empty:
        return sentence_figure("There are no rows to follow.")
    figure = new_figure(3.0)
    ax = figure.subplots()
    for column, colour in zip(shares.columns, _cycle(shares.shape[1]), strict=True):
        ax.plot(shares.index, shares[column], color=colour, linewidth=1.8, label=str(column))
        ax.axhline(shares[column].mean(), color=colour, linewidth=0.8, linestyle=":")
    ax.set(
        xlabel="row of train.csv", ylabel="share of the rows around it", ylim=(0, None), xlim=(0, shares.index.max())
    )
    percent_axis(ax.yaxis)
    number_axis(ax.xaxis)
    ax.legend(loc="upper left", ncols=shares.shape[1])
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1])
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend
    drifts = (shares.max() - shares.min()).sort_values(ascending=False)
    headline(figure, f"Along the file, rows {drifts.index[0]} vary by {100 * drifts.iloc[0]:.0f} points")
    return figure


@drawn
def learning_curves(metrics: Mapping[Hashable, pd.DataFrame] | Sequence[pd.DataFrame] | pd.DataFrame) -> Figure:
    """Draw loss and validation accuracy against the crops seen, a colour for each fold.

    ``metrics`` is one table, a list, or a mapping fold -> table, with any of ``step, crops, seconds, train_loss,
    valid_loss, valid_accuracy``; empty cells are skipped.
    """
    tables = {name: _numeric(table) for name, table in _by_name(metrics).items()}
    tables = {name: table for name, table in tables.items() if not table.empty}
    if not tables:
        return sentence_figure("No training step has been recorded yet.")
    across = next((c for c in ("crops", "step", "seconds") if all(c in t for t in tables.values())), None)
    figure = new_figure(3.4)
    loss, accuracy = figure.subplots(1, 2)
    for (name, table), colour in zip(tables.items(), _cycle(len(tables)), strict=True):
        x = table[across] if across else table.index.to_series()
        _line(loss, x, table, "train_loss", colour, {"linewidth": 1, "alpha": 0.55})
        _line(loss, x, table, "valid_loss", colour, {"marker": "o", "markersize": 3})
        _line(accuracy, x, table, "valid_accuracy", colour, {"marker": "o", "markersize": 3, "label": str(name)})
    _finish_loss(loss, across or "row")
    _finish_accuracy(accuracy, across or "row", tables)
    return figure


@drawn
def accuracy_by(slice_table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw a table of ``errors.slice_table``: accuracy with its interval, n, and the share of all errors."""
    if slice_table.empty:
        return sentence_figure("There are no rows to slice.")
    table = slice_table.reset_index(drop=True)
    figure = new_figure(1.15 + _BAR * len(table))
    ax = figure.subplots()
    y = np.arange(len(table))
    ax.barh(y, table["accuracy"], color=SKY, height=0.68)
    _interval_bars(ax, y, table["accuracy"], table["low"], table["high"])
    labels = [f"{shown_name(name)}  (n = {n:,})" for name, n in zip(table["slice"], table["n"], strict=True)]
    ax.set_yticks(y, labels)
    for i, (high, share) in enumerate(zip(table["high"], table["share_of_errors"], strict=True)):
        ax.text(
            max(high, table["accuracy"][i]) + 0.012,
            i,
            f"{_share(share)} of errors",
            va="center",
            fontsize=8,
            color=GREY,
        )
    ax.set(ylim=(len(table) - 0.4, -0.6), xlim=(0, 1.2), xlabel="accuracy, with 95 % interval")
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.spines["bottom"].set_bounds(0, 1)
    percent_axis(ax.xaxis)
    headline(figure, title or _slice_title(table, slice_table.attrs.get("by")))
    return figure


@drawn
def confusion_pairs(pairs: pd.DataFrame, top: int = 24) -> Figure:
    """Draw the table of ``errors.confused_pairs``: the characters most often read as another."""
    if pairs.empty:
        return sentence_figure("No character was read as another.")
    table = pairs.head(top)
    n_columns = 2 if len(table) > 8 else 1
    per_column = max(4, -(-len(table) // n_columns))
    figure = new_figure(1.1 + 0.27 * per_column)
    columns = np.atleast_1d(figure.subplots(1, n_columns, sharex=True))
    for i, ax in enumerate(columns):
        _pair_bars(ax, table.iloc[i * per_column : (i + 1) * per_column], per_column)
    worst = table.iloc[0]
    headline(
        figure,
        f"Most confused: {shown(worst['expected'])} read as {shown(worst['predicted'])} ({_times(worst['count'])}, "
        f"{_share(worst['rate'])} of all {shown(worst['expected'])})",
    )
    return figure


@drawn
def jamo_confusion(confusions: JamoConfusions) -> Figure:
    """Draw which jamo is taken for which, for initial, medial and final; the right ones (diagonal) are left out."""
    names = {"initial": INITIALS, "medial": MEDIALS, "final": ("–", *FINALS[1:])}
    matrices = {slot: getattr(confusions, slot) for slot in names}
    if not any(_off_diagonal(matrix).sum() for matrix in matrices.values()):
        return sentence_figure("No syllable was read as another, so no jamo is confused.")
    figure = new_figure(3.5)
    total = sum(confusions.wrong_slots.values())
    for ax, (slot, labels) in zip(figure.subplots(1, 3), names.items(), strict=True):
        _jamo_panel(ax, slot, labels, matrices[slot])
    slots = ", ".join(f"{name} {_share(count / total)}" for name, count in _top(confusions.wrong_slots, 3))
    headline(figure, f"Which jamo go wrong in {total:,} misread syllables: {slots}")
    return figure


@drawn
def slice_gains(report: pd.DataFrame, top: int = 16) -> Figure:
    """Draw the head of ``slices.slice_report``: what the overall accuracy would gain if a slice were like the rest."""
    table = report[report["excess"] > 0].head(top).reset_index(drop=True)
    if table.empty:
        return sentence_figure("No slice is worse than the rest: there is nothing to sort.")
    figure = new_figure(1.2 + _BAR * len(table))
    ax = figure.subplots()
    y = np.arange(len(table))
    ax.barh(y, table["gain"], color=SKY, height=0.68)
    _interval_bars(ax, y, table["gain"], table["gain_low"], table["gain_high"])
    names = zip(table["dimension"], table["slice"], table["n"], strict=True)
    ax.set_yticks(y, [f"{shown_name(dimension)}: {shown_name(name)}  (n = {n:,})" for dimension, name, n in names])
    reach = float(table["gain_high"].max())
    for i, row in table.iterrows():
        text = f"{_share(row['accuracy'])} right, {_share(row['share_of_errors'])} of errors"
        ax.text(max(row["gain_high"], row["gain"]) + 0.02 * reach, i, text, va="center", fontsize=8, color=GREY)
    ax.axvline(0, color=GREY, linewidth=0.8)
    least = min(0.0, 1.05 * float(table["gain_low"].min()))
    ax.set(ylim=(len(table) - 0.4, -0.6), xlim=(least, 1.5 * reach))
    ax.set_xlabel("points of accuracy to gain if the slice were as good as all other crops, with 95 % interval")
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    ax.set_xticks([tick for tick in ax.get_xticks() if least <= tick <= reach])
    best = table.iloc[0]
    headline(
        figure,
        f"Most to gain: {best['dimension']} “{shown_name(best['slice'])}”, {100 * best['gain']:.1f} points "
        f"({best['excess']:.0f} errors more than the rest would make)",
    )
    return figure


@drawn
def syllable_confusion(pairs: pd.DataFrame, top: int = 26) -> Figure:
    """Draw the ``top`` characters most confused as a heat map: label down the side, reading across.

    ``pairs`` is the whole table of ``errors.confused_pairs``. Characters taken for each other stand side by side.
    """
    if pairs.empty:
        return sentence_figure("No character was read as another, so there is no map.")
    characters = _alike_together(pairs, top)
    known = pairs[pairs["expected"].isin(characters) & pairs["predicted"].isin(characters)]
    square = {"index": characters, "columns": characters, "fill_value": 0}
    rates = known.pivot(index="expected", columns="predicted", values="rate").reindex(**square).fillna(0).to_numpy()
    counts = (
        known.pivot(index="expected", columns="predicted", values="count").reindex(**square).fillna(0).to_numpy(int)
    )
    figure = new_figure(1.0 + 0.2 * max(9, len(characters)))
    ax = figure.subplots()
    _rate_cells(ax, rates, counts)
    names = [shown(character) for character in characters]
    ax.set_xticks(range(len(names)), names, fontsize=10)
    ax.set_yticks(range(len(names)), names, fontsize=10)
    ax.tick_params(length=0)
    ax.spines[:].set(visible=True, color=PALE)
    ax.set(xlabel="read as (number: times; shade: share of the label's character)", ylabel="in the label")
    share = known["count"].sum() / pairs["count"].sum()
    headline(
        figure, f"The {len(names)} characters most confused, those alike together: {_share(share)} of all confusions"
    )
    return figure


@drawn
def edit_kinds(kinds: pd.DataFrame, edits: pd.DataFrame, confusions: JamoConfusions, top: int = 12) -> Figure:
    """Draw in which way rows are wrong, which slots of misread syllables, and what is missed or made up.

    The tables are ``errors.kind_table``'s and the whole of ``errors.inserted_and_deleted``'s (``top=None``).
    """
    if kinds.empty:
        return sentence_figure("Every row is right: there is no kind of error to count.")
    figure = new_figure(3.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _count_bars(left, kinds["error_kind"].tolist(), kinds["n"].tolist(), "rows wrong by")
    slots = _top(confusions.wrong_slots, 7)
    if slots:
        _count_bars(middle, [name for name, _ in slots], [count for _, count in slots], "syllables wrong in their")
    else:
        sentence_axes(middle, "No syllable was\nread as another.")
    _edit_bars(right, edits, top)
    worst = kinds.iloc[0]
    headline(figure, f"In which way: {worst['error_kind']} is {_share(worst['share_of_errors'])} of the wrong rows")
    return figure


@drawn
def reliability(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = 10, folds: Sequence[object] | None = None
) -> Figure:
    """Draw whether the confidence means what it says, and the accuracy over the most confident part of the rows.

    Beside the confidences as given stand those after a temperature, fitted for each of ``folds`` on all others.
    """
    table = pd.DataFrame({"confidence": np.asarray(confidences, float), "correct": np.asarray(correct, bool)})
    table["fold"] = np.arange(len(table)) % 5 if folds is None else np.asarray(folds)
    table = table.dropna(subset=["confidence"])
    if table.empty:
        return sentence_figure("There are no confidences to judge.")
    table["after"] = cross_calibrated(table["confidence"], table["correct"], table["fold"])
    figure = new_figure(3.9)
    left, right = figure.subplots(1, 2)
    _calibration_panel(left, table, bins)
    _coverage_panel(right, table)
    before, after = (calibration_error(table[name], table["correct"], bins) for name in ("confidence", "after"))
    headline(
        figure,
        f"Confidence is off by {100 * before:.1f} points on average, by {100 * after:.1f} after a temperature of "
        f"{fit_temperature(table['confidence'], table['correct']):.2f}",
    )
    return figure


@drawn
def changes(comparison: Comparison) -> Figure:
    """Draw how many crops a second run reads better and worse than a first, by the length of their labels."""
    rows = comparison.rows[comparison.rows["outcome"].isin([BETTER, WORSE])]
    if rows.empty:
        return sentence_figure("The two runs have the same crops right and the same wrong.")
    lengths = rows["text"].str.len().clip(upper=9)
    counts = pd.crosstab(lengths, rows["outcome"]).reindex(columns=[BETTER, WORSE], fill_value=0)
    figure = new_figure(3.0)
    ax = figure.subplots()
    for outcome, sign, colour in ((BETTER, 1, BLUE), (WORSE, -1, VERMILLION)):
        bars = ax.bar(counts.index, sign * counts[outcome], color=colour, width=0.7, label=outcome)
        ax.bar_label(bars, [str(n) if n else "" for n in counts[outcome]], fontsize=8, color=GREY, padding=2)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xticks(counts.index, [f"{n}" if n < 9 else "9 or more" for n in counts.index])
    ax.set(xlabel="characters in the label", ylabel="crops worse | better")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    ax.margins(y=0.15)
    ax.legend(loc="upper right")
    headline(figure, verdict(comparison)[:1].upper() + verdict(comparison)[1:])
    return figure


@drawn
def cv_vs_leaderboard(log: pd.DataFrame, cv: str = "cv", public: str = "public_score", name: str = "run") -> Figure:
    """Draw the public score of each submission against its cross-validated accuracy, both in 0..1.

    Rows whose public score is still blank are counted, not drawn. ``cv_low,cv_high`` are optional.
    """
    if not {cv, public} <= set(log.columns):
        return sentence_figure(f"The log of submissions has no columns {cv} and {public} yet.")
    table = log.assign(_cv=pd.to_numeric(log[cv], errors="coerce"), _public=pd.to_numeric(log[public], errors="coerce"))
    known = table.dropna(subset=["_cv", "_public"]).reset_index(drop=True)
    if known.empty:
        return sentence_figure(
            f"None of the {len(log)} submissions has a public score yet: fill in {public} in the log."
        )
    names = known.get(name, known.index)
    figure = new_figure(4.2)
    ax, key = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _diagonal(ax, known)
    ax.scatter(known["_cv"], known["_public"], s=120, color=BLUE, zorder=3)
    ax.set(xlabel="cross-validated accuracy", ylabel="public score", aspect="equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.locator_params(nbins=6)
    _numbered_key(ax, key, known, [shown_name(value) for value in names])
    headline(figure, _leaderboard_title(known, len(table)))
    return figure


@drawn
def ensemble_comparison(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw the accuracy of single models and ensembles on one scale.

    ``table`` has ``name, accuracy`` and optionally ``low, high`` (interval) and ``kind`` (``member`` or ``ensemble``).
    """
    if table.empty:
        return sentence_figure("There are no models to compare.")
    ordered = table.sort_values("accuracy", kind="stable", ascending=False).reset_index(drop=True)
    kinds = ordered["kind"].astype(str) if "kind" in ordered else pd.Series("member", index=ordered.index)
    colours = [VERMILLION if kind == "ensemble" else BLUE for kind in kinds]
    figure = new_figure(1.15 + _BAR * len(ordered))
    ax = figure.subplots()
    y = np.arange(len(ordered))
    if {"low", "high"} <= set(ordered.columns):
        ax.hlines(y, ordered["low"], ordered["high"], colors=colours, linewidth=2, alpha=0.6)
    ax.scatter(ordered["accuracy"], y, s=44, color=colours, zorder=3)
    for i, value in enumerate(ordered["accuracy"]):
        ax.annotate(f"{100 * value:.2f} %", (value, i), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(y, ordered["name"].astype(str))
    ax.set(ylim=(len(ordered) - 0.4, -0.8), xlabel="accuracy, with 95 % interval where known")
    ax.margins(x=0.08)
    percent_axis(ax.xaxis)
    headline(figure, title or _ensemble_title(ordered, kinds))
    return figure


def shown_name(name: object) -> str:
    """Return a slice's or model's name as a figure shows it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(name))


def _frequency_head(ax: Any, head: Sequence[tuple[str, int]]) -> None:
    ax.bar(range(len(head)), [count for _, count in head], color=BLUE, width=0.8)
    ax.set_xticks(range(len(head)), [shown(c) for c, _ in head], fontsize=8)
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.7, len(head) - 0.3), ylabel="occurrences")
    count_axis(ax.yaxis)
    ax.set_title(f"The {len(head)} most frequent characters (␣ is the space)")


def _frequency_tail(ax: Any, counts: np.ndarray) -> None:
    ax.plot(np.arange(1, len(counts) + 1), counts, color=BLUE, linewidth=1.6, marker="." if len(counts) < 9 else "")
    for axis in (ax.xaxis, ax.yaxis):
        log_axis(axis, subs=(1,))
    ax.axhline(10, color=ORANGE, linewidth=1, linestyle="--")
    ax.set(xlabel="rank of the character", ylabel="occurrences")
    rare, once = int((counts < 10).sum()), int((counts == 1).sum())
    ax.text(
        0.04, 0.05, f"{once:,} occur once\n{rare:,} under ten times", transform=ax.transAxes, fontsize=8.5, color=INK
    )
    ax.set_title(f"{_share(rare / len(counts))} of {len(counts):,} characters are rare")


def _size_scatter(ax: Any, sizes: pd.DataFrame, kinds: np.ndarray) -> None:
    for kind, colour in _SHAPE_COLOURS.items():
        rows = sizes[kinds == kind]
        if len(rows):
            label = f"{kind} ({len(rows):,})"
            ax.scatter(
                rows["width"], rows["height"], s=7, color=colour, alpha=0.35, linewidths=0, label=label, rasterized=True
            )
    ax.set(xlabel="width in pixels", ylabel="height in pixels")
    for axis in (ax.xaxis, ax.yaxis):
        log_axis(axis)
    legend = ax.legend(
        loc="upper left", bbox_to_anchor=(0, 1.14), ncols=3, markerscale=2, handletextpad=0.1, columnspacing=1
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def _aspect_histogram(ax: Any, aspects: np.ndarray) -> None:
    low, high = min(0.5, aspects.min()), max(2.0, aspects.max())
    edges = np.geomspace(low, high * 1.0001, 41)
    counts, _ = np.histogram(aspects, edges)
    colours = [VERMILLION if right <= 1 else BLUE for right in edges[1:]]
    ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set(xlabel="width / height (1 is square)", ylabel="crops")
    log_axis(ax.xaxis)
    count_axis(ax.yaxis)


def _by_name(metrics: Mapping[Hashable, pd.DataFrame] | Sequence[pd.DataFrame] | pd.DataFrame) -> dict[Hashable, Any]:
    if isinstance(metrics, pd.DataFrame):
        return (
            {f"fold {fold}": rows for fold, rows in metrics.groupby("fold")} if "fold" in metrics else {"run": metrics}
        )
    if isinstance(metrics, Mapping):
        return {f"fold {name}" if isinstance(name, int) else name: table for name, table in metrics.items()}
    return {f"fold {i}": table for i, table in enumerate(metrics)}


def _numeric(table: pd.DataFrame) -> pd.DataFrame:
    numbers = table.apply(pd.to_numeric, errors="coerce").reset_index(drop=True)
    return numbers.replace([np.inf, -np.inf], np.nan)


def _cycle(n: int) -> list[str]:
    return [_CYCLE[i % len(_CYCLE)] for i in range(n)]


def _line(ax: Any, x: pd.Series, table: pd.DataFrame, column: str, colour: str, style: dict[str, Any]) -> None:
    if column in table and table[column].notna().any():
        known = table[column].notna()
        # A line of one point would be invisible.
        style = {"marker": "."} | style if known.sum() == 1 else style
        ax.plot(x[known], table.loc[known, column], color=colour, **style)


def _finish_loss(ax: Any, across: str) -> None:
    if not ax.lines:
        return sentence_axes(ax, "No loss was recorded.")
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    if values.min() > 0:
        # Fine-tuning moves so little that the axis would have a single number.
        log_axis(ax.yaxis, (1, 2, 5) if values.max() > 8 * values.min() else (1, 1.5, 2, 3, 4, 5, 7))
    ax.set(xlabel=_across_name(across), ylabel="loss")
    count_axis(ax.xaxis)
    ax.grid(axis="y")
    ax.set_title("Loss: validation (dots) should follow training (thin)")
    return None


def _finish_accuracy(ax: Any, across: str, tables: Mapping[Hashable, pd.DataFrame]) -> None:
    if not ax.lines:
        return sentence_axes(ax, "No validation accuracy was recorded.")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    least = min(float(np.min(line.get_ydata())) for line in ax.lines)
    lowest = 0.8 if least > 0.85 else 0.0  # lines, not bars: weights that read well from the start would all lie on top
    ax.set(xlabel=_across_name(across), ylabel="validation accuracy", ylim=(lowest, 1 + 0.02 * (1 - lowest)))
    number_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.grid(axis="y")
    if len(ax.lines) > 1:
        ax.legend(loc="lower right")
    best = [table["valid_accuracy"].max() for table in tables.values() if "valid_accuracy" in table]
    low, high = np.nanmin(best), np.nanmax(best)
    ax.set_title(f"Best accuracy {_share(high)}" if low == high else f"Best accuracy {_share(low)} to {_share(high)}")
    return None


def _across_name(across: str) -> str:
    return {"crops": "crops seen", "step": "optimiser step", "seconds": "seconds"}.get(across, across)


def _interval_bars(ax: Any, y: np.ndarray, values: pd.Series, low: pd.Series, high: pd.Series) -> None:
    reach = np.maximum(0, np.vstack([values - low, high - values]))
    ax.errorbar(values, y, xerr=reach, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)


def _slice_title(table: pd.DataFrame, by: str | None) -> str:
    """Name the slice with the most errors above those at the rate of all other rows, as :func:`slice_gains` ranks."""
    name, total, wrong = (by or "slice").removeprefix("by_"), table["n"].sum(), table["errors"].sum()
    if not wrong:
        return f"Accuracy by {name}: every row is right"
    excess = table["errors"] - table["n"] * (wrong - table["errors"]) / (total - table["n"]).clip(lower=1)
    worst = shown_name(table.loc[excess.idxmax(), "slice"])
    gain = 100 * excess.max() / total
    return f"Accuracy by {name}: if “{worst}” were as good as the rest, {gain:.1f} points would be gained"


def _pair_bars(ax: Any, rows: pd.DataFrame, slots: int) -> None:
    y = np.arange(len(rows))
    ax.barh(y, rows["count"], color=SKY, height=0.7)
    ax.set_yticks(
        y, [f"{shown(a)} → {shown(b)}" for a, b in zip(rows["expected"], rows["predicted"], strict=True)], fontsize=11
    )
    for i, (count, rate) in enumerate(zip(rows["count"], rows["rate"], strict=True)):
        ax.annotate(
            f"{count} ({_share(rate)})",
            (count, i),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY,
        )
    ax.set(ylim=(slots - 0.4, -0.6), xlabel="times (share of all occurrences)")
    ax.margins(x=0.22)
    count_axis(ax.xaxis)
    ax.tick_params(axis="y", length=0)


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.eye(len(matrix), dtype=bool), 0, matrix)


def _jamo_panel(ax: Any, slot: str, labels: Sequence[str], matrix: np.ndarray) -> None:
    wrong = _off_diagonal(matrix)
    if not wrong.sum():
        return sentence_axes(ax, f"No {slot} is confused.")
    seen = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    wrong, labels = wrong[np.ix_(seen, seen)], [labels[i] for i in seen]
    masked = np.ma.masked_equal(wrong, 0)
    ax.imshow(masked, cmap="YlOrBr", vmin=0, vmax=wrong.max(), interpolation="nearest")
    ax.plot([-0.5, len(labels) - 0.5], [-0.5, len(labels) - 0.5], color=PALE, linewidth=0.8, zorder=0)
    size = min(9.0, max(6.5, _PANEL_POINTS / len(labels)))
    ax.set_xticks(range(len(labels)), labels, fontsize=size)
    ax.set_yticks(range(len(labels)), labels, fontsize=size)
    ax.tick_params(length=0)
    ax.set(xlabel="read as", ylabel="in the label")
    ax.spines[:].set(visible=True, color=PALE)
    _count_cells(ax, wrong, size)
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    ax.set_title(f"{slot}: {labels[row]} as {labels[column]} {_times(wrong.max())}", fontsize=10)
    return None


def _count_cells(ax: Any, wrong: np.ndarray, size: float, top: int = 8) -> None:
    """Write the counts of the heaviest cells into them."""
    for index in np.argsort(wrong, axis=None)[::-1][:top]:
        row, column = np.unravel_index(index, wrong.shape)
        if count := wrong[row, column]:
            colour = "white" if count > 0.6 * wrong.max() else INK
            ax.text(column, row, str(count), ha="center", va="center", fontsize=size - 1.5, color=colour)


def _alike_together(pairs: pd.DataFrame, most: int) -> list[str]:
    """Return up to ``most`` characters of the heaviest pairs, each family of confused ones in a row."""
    families: list[list[str]] = []
    for expected, predicted in zip(pairs["expected"], pairs["predicted"], strict=True):
        own = [family for family in families if expected in family or predicted in family]
        joined = list(dict.fromkeys([c for family in own for c in family] + [expected, predicted]))
        rest = [family for family in families if family not in own]
        if sum(map(len, rest)) + len(joined) > most:
            break
        place = families.index(own[0]) if own else len(families)
        families = [*rest[:place], joined, *rest[place:]]
    return [character for family in families for character in family]


def _rate_cells(ax: Any, rates: np.ndarray, counts: np.ndarray) -> None:
    """Shade cells by rate and write their counts into them."""
    ax.imshow(np.ma.masked_equal(rates, 0), cmap="YlOrBr", vmin=0, vmax=rates.max(), aspect="equal")
    ax.plot([-0.5, len(rates) - 0.5], [-0.5, len(rates) - 0.5], color=PALE, linewidth=0.8, zorder=0)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if rates[row, column] > 0.6 * rates.max() else INK
        ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)


def _count_bars(ax: Any, names: Sequence[str], counts: Sequence[int], title: str) -> None:
    y = np.arange(len(names))
    ax.bar_label(ax.barh(y, counts, color=SKY, height=0.7), fontsize=8, color=GREY, padding=3)
    ax.set_yticks(y, ["all three" if name.count("+") == 2 else name for name in names])
    ax.set(ylim=(max(5, len(names)) - 0.4, -0.6))
    ax.set_title(title, fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.2)
    count_axis(ax.xaxis)
    ax.locator_params(axis="x", nbins=4)


def _edit_bars(ax: Any, edits: pd.DataFrame, top: int) -> None:
    """Draw for each character how often it was missed (to the left) and made up (to the right); spaces in words."""
    spaces = edits.loc[edits["character"] == " ", ["deleted", "inserted"]].sum()
    edits = edits[edits["character"] != " "].head(top)
    if edits.empty and not spaces.sum():
        return sentence_axes(ax, "No character was\nmissed or made up.")
    y = np.arange(len(edits))
    for column, sign, colour in (("deleted", -1, VERMILLION), ("inserted", 1, BLUE)):
        bars = ax.barh(y, sign * edits[column], color=colour, height=0.7)
        ax.bar_label(bars, [str(n) if n else "" for n in edits[column]], fontsize=7.5, color=GREY, padding=2)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(y, [shown(c) for c in edits["character"]], fontsize=10)
    ax.set(ylim=(max(5, len(edits)) - 0.4, -0.6))
    ax.set_title(f"spaces: {spaces['deleted']} missed, {spaces['inserted']} made up; others:", fontsize=10)
    ax.set_xlabel("← missed    made up →", fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.2)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    return None


def _calibration_panel(ax: Any, table: pd.DataFrame, bins: int) -> None:
    """Draw accuracy by confidence, as given and after the temperature, over a strip of how many rows a bin has."""
    rows = reliability_bins(table["confidence"], table["correct"], bins)
    after = reliability_bins(table["after"], table["correct"], bins)
    strip = {"color": PALE, "zorder": 0, "label": "share of rows"}
    ax.bar((rows["low"] + rows["high"]) / 2, rows["n"] / rows["n"].sum(), 0.94 / bins, **strip)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    bounds = np.array([wilson_interval(int(r), int(n)) for r, n in zip(rows["right"], rows["n"], strict=True)])
    reach = np.maximum(0, np.vstack([rows["accuracy"] - bounds[:, 0], bounds[:, 1] - rows["accuracy"]]))
    style = {"fmt": "o", "color": BLUE, "markersize": 5, "capsize": 2.5, "label": "accuracy"}
    ax.errorbar(rows["confidence"], rows["accuracy"], yerr=reach, **style)
    style = {"marker": "x", "color": VERMILLION, "linewidth": 0.8, "markersize": 5, "label": "after the temperature"}
    ax.plot(after["confidence"], after["accuracy"], **style)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy, with 95 % interval")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.legend(loc="upper left")
    ax.set_title("Dots under the dashed line: too sure of itself")


def _coverage_panel(ax: Any, table: pd.DataFrame) -> None:
    curve = accuracy_coverage(table["confidence"], table["correct"])
    marker = "." if len(curve) < 9 else ""
    ax.plot(curve["coverage"], curve["accuracy"], color=BLUE, linewidth=1.8, marker=marker)
    ax.set(
        xlim=(0, 1),
        ylim=(max(0.0, curve["accuracy"].min() - 0.1), 1.01),
        xlabel="share of rows kept, the surest first",
        ylabel="accuracy of those kept",
    )
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.grid(axis="y")
    half = curve.loc[curve["coverage"] >= 0.5, "accuracy"].iloc[0]
    ax.set_title(f"The surest half is {_share(half)} right, all rows {_share(curve['accuracy'].iloc[-1])}")


def _diagonal(ax: Any, known: pd.DataFrame) -> None:
    values = known[["_cv", "_public"]].to_numpy()
    low, high = values.min(), values.max()
    room = max(0.01, 0.18 * (high - low))
    ax.plot([low - room, high + room], [low - room, high + room], color=GREY, linewidth=1, linestyle="--")
    if {"cv_low", "cv_high"} <= set(known.columns):
        ends = known[["cv_low", "cv_high"]].apply(pd.to_numeric, errors="coerce")
        ax.hlines(known["_public"], ends["cv_low"], ends["cv_high"], color=BLUE, alpha=0.4, linewidth=2)


def _numbered_key(ax: Any, key: Any, known: pd.DataFrame, names: Sequence[str], most: int = 16) -> None:
    """Number the points and name them beside the chart, where names cannot cover each other; the newest if many."""
    key.set_axis_off()
    for i, (x, y) in enumerate(zip(known["_cv"], known["_public"], strict=True)):
        ax.annotate(str(i + 1), (x, y), ha="center", va="center", fontsize=8, color="white", zorder=4)
    for line, i in enumerate(range(max(0, len(known) - most), len(known))):
        scores = f"CV {100 * known['_cv'][i]:.1f} %, public {100 * known['_public'][i]:.1f} %"
        place = {"transform": key.transAxes, "va": "top", "fontsize": 9}
        key.text(0.0, 0.98 - 0.062 * line, f"{i + 1}", ha="right", color=BLUE, fontweight="bold", **place)
        fit(key.text(0.03, 0.98 - 0.062 * line, f"{names[i]}: {scores}", **place), 3.6)


def _leaderboard_title(known: pd.DataFrame, n: int) -> str:
    gap = float((known["_public"] - known["_cv"]).mean())
    waiting = f"; {n - len(known)} without a score yet" if n > len(known) else ""
    side = "above" if gap >= 0 else "below"
    return f"The public score lies {100 * abs(gap):.1f} points {side} the CV on average{waiting}"


def _ensemble_title(ordered: pd.DataFrame, kinds: pd.Series) -> str:
    members, ensembles = ordered.loc[kinds != "ensemble", "accuracy"], ordered.loc[kinds == "ensemble", "accuracy"]
    if members.empty or ensembles.empty:
        return f"Best: {ordered['name'].iloc[0]}"
    gain = 100 * (ensembles.max() - members.max())
    verb = "gains" if gain >= 0 else "loses"
    return f"The best ensemble {verb} {abs(gain):.2f} points over the best single model"


def _share(share: float) -> str:
    """Return a share as a percentage with as many digits as matter."""
    percent = 100 * float(share)
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _top(counts: Mapping[str, int], n: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])[:n]
