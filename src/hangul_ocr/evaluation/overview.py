"""Charts that compare: what each alphabet would lose, and several sources of crops side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hangul_ocr.evaluation.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    count_axis,
    drawn,
    headline,
    log_axis,
    new_figure,
    percent_axis,
    sentence_figure,
)
from hangul_ocr.hangul import is_syllable

_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
_LONGEST = 15


@drawn
def alphabet_losses(losses: pd.DataFrame) -> Figure:
    """Draw a table of ``labels.alphabet_losses``: the share of labels that each alphabet cannot write."""
    if losses.empty:
        return sentence_figure("There are no alphabets to compare.")
    figure = new_figure(1.1 + 0.34 * len(losses))
    ax = figure.subplots()
    y = np.arange(len(losses))
    ax.barh(y, losses["share_lost"], color=VERMILLION, height=0.62)
    for i, row in enumerate(losses.itertuples()):
        text = f"{row.rows_lost:,} labels, {100 * row.share_lost:.2f} %" if row.rows_lost else "none"
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, (row.share_lost, i), fontsize=8.5, color=GREY, **place)
    ax.set_yticks(y, [f"{row.Index} ({row.characters:,})" for row in losses.itertuples()])
    ax.set(ylim=(len(losses) - 0.4, -0.6), xlim=(0, max(0.01, 1.45 * losses["share_lost"].max())))
    ax.set_xlabel("labels that it cannot write (in brackets: its characters)")
    percent_axis(ax.xaxis)
    worst = losses.loc[losses["share_lost"].idxmax()]
    headline(figure, f"The wrong alphabet loses {100 * worst['share_lost']:.1f} % of the labels before training begins")
    return figure


def source_table(crops: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each ``source`` of ``crops`` (``source,text,width,height``): what its labels and shapes are."""
    rows = {}
    for source, part in crops.groupby("source", sort=False):
        texts = part["text"].tolist()
        characters = {character for text in texts for character in text}
        rows[source] = {
            "crops": len(part),
            "different labels": len(set(texts)),
            "median length": float(np.median([len(text) for text in texts])),
            "longest": max(map(len, texts)),
            "with a space": np.mean([" " in text for text in texts]),
            "taller than wide": (part["height"] > part["width"]).mean(),
            "median short side": float(part[["width", "height"]].min(axis=1).median()),
            "syllables": sum(map(is_syllable, characters)),
            "other characters": sum(not is_syllable(character) for character in characters),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


@drawn
def sources_compared(crops: pd.DataFrame) -> Figure:
    """Draw label lengths, shapes and sizes of several sources over each other; ``crops`` as in ``source_table``."""
    if crops.empty:
        return sentence_figure("There are no crops to compare.")
    figure = new_figure(3.5)
    lengths, ratios, sizes = figure.subplots(1, 3)
    for i, (source, part) in enumerate(crops.groupby("source", sort=False)):
        colour = _COLOURS[i % len(_COLOURS)]
        shares = np.bincount([min(len(text), _LONGEST) for text in part["text"]], minlength=_LONGEST + 1) / len(part)
        lengths.plot(np.arange(1, _LONGEST + 1), shares[1:], color=colour, marker=".", label=str(source))
        _outline(ratios, part["width"] / part["height"], np.geomspace(0.1, 20, 25), colour)
        _outline(sizes, part[["width", "height"]].min(axis=1), np.geomspace(8, 1024, 22), colour)
    lengths.set(xlabel=f"characters ({_LONGEST}: that or more)", ylabel="share of the source's crops", xlim=(0.5, None))
    count_axis(lengths.xaxis)
    ratios.set(xlabel="width / height")
    ratios.axvline(1, color=GREY, linewidth=0.8)
    sizes.set(xlabel="short side in pixels")
    for ax in (lengths, ratios, sizes):
        percent_axis(ax.yaxis)
        ax.set_ylim(0, None)
    figure.legend(loc="outside lower left", ncols=min(3, crops["source"].nunique()))
    headline(figure, _sources_title(crops))
    return figure


def _outline(ax: Any, values: pd.Series, edges: np.ndarray, colour: str) -> None:
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    ax.stairs(counts / len(values), edges, color=colour, linewidth=1.6)
    log_axis(ax.xaxis, subs=(1, 4) if edges[-1] > 100 else (1, 3))


def _sources_title(crops: pd.DataFrame) -> str:
    table = source_table(crops)
    if len(table) == 1:
        return f"One source: {table.index[0]}, {len(crops):,} crops; name LMDBs to stand beside it"
    spaces = 100 * table["with a space"]
    most, fewest = f"{spaces.idxmax()} ({spaces.max():.0f} % of labels)", f"{spaces.idxmin()} ({spaces.min():.0f} %)"
    return f"Of {len(table)} sources, {most} has most spaces, {fewest} fewest"
