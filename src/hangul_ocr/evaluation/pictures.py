"""Figures that show crops: walls, galleries of errors, and where the recogniser looked.

Each is laid out on one blank sheet measured in inches, so that every crop keeps its proportions and text and picture
never run into each other. Crops are uint8 arrays (height, width, 3) or (height, width).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hangul_ocr.evaluation.alignment import Alignment
from hangul_ocr.evaluation.errors import MATCH, Op, align
from hangul_ocr.evaluation.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    RIGHT,
    WIDTH,
    WRONG,
    drawn,
    fit,
    headline,
    new_figure,
    sentence_figure,
    shown,
)

_MARGIN, _GAP, _TITLE = 0.12, 0.14, 0.42
_POINT = 1 / 72
_LEAST = 8.0  # points: a caption that would be smaller is broken where it can be
Box = tuple[float, float, float, float]  # left, top, width, height in inches


@drawn
def image_wall(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    correct: Sequence[bool] | None = None,
    columns: int = 6,
    title: str | None = None,
    nothing: str = "There are no crops to show.",
) -> Figure:
    """Draw crops in a grid with their captions; with ``correct``, wrong ones are framed and captioned in vermillion.

    Where there are no crops the figure says ``nothing``.
    """
    if not len(images):
        return sentence_figure(nothing)
    sheet, boxes = _wall(len(images), columns, 0.72, 0.3, title or _wall_title(len(images), correct))
    for i, (image, caption, box) in enumerate(zip(images, captions, boxes, strict=True)):
        colour = _colour(correct, i)
        _picture(sheet, image, box, None if correct is None else colour)
        _caption(sheet, caption, box, colour)
    return sheet.figure


@drawn
def gallery(
    images: Sequence[np.ndarray],
    texts: Sequence[str],
    predictions: Sequence[str],
    confidences: Sequence[float] | None = None,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw crops with label and prediction aligned under each other, differing characters coloured.

    Rows are drawn in the order given (``errors.worst_predictions`` gives the worst first).
    """
    if not len(images):
        return sentence_figure("There are no wrong predictions to show.")
    title = (
        title or "Label above, prediction and its confidence below: what differs is coloured (· is a missing character)"
    )
    sheet, boxes = _wall(len(images), columns, 0.85, 0.62 + _GAP, title)
    for i, (image, text, prediction, box) in enumerate(zip(images, texts, predictions, boxes, strict=True)):
        _picture(sheet, image, box, None)
        confidence = None if confidences is None else float(confidences[i])
        left, top, width, height = box
        _aligned_lines(sheet, align(text, prediction), left - _GAP / 2, top + height + 0.08, width, confidence)
    return sheet.figure


@drawn
def versus(
    images: Sequence[np.ndarray],
    texts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    names: tuple[str, str],
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw crops with the label and what two runs read below each other, characters that differ coloured."""
    if not len(images):
        return sentence_figure(title or "There is no crop on which these two differ in this way.")
    sheet, boxes = _wall(len(images), columns, 0.8, 0.82 + _GAP, title or f"{names[0]} against {names[1]}")
    for image, text, a, b, box in zip(images, texts, first, second, boxes, strict=True):
        _picture(sheet, image, box, None)
        left, top, width, height = box
        for line, (name, read) in enumerate([("label", text), (names[0], a), (names[1], b)]):
            _named_line(sheet, name, align(text, read), (left, top + height + 0.17 + 0.25 * line, width))
    return sheet.figure


@drawn
def centres_wall(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    centres: Sequence[np.ndarray],
    columns: int = 4,
    title: str = "Where the renderer put each character: this is what alignment supervision teaches",
) -> Figure:
    """Draw crops in a grid with a numbered dot on each character; ``centres`` (n, 2) are x and y in 0..1 of a crop."""
    if not len(images):
        return sentence_figure("There are no crops to show.")
    sheet, boxes = _wall(len(images), columns, 1.1, 0.3, title)
    for image, caption, places, box in zip(images, captions, centres, boxes, strict=True):
        x, y, width, height = _picture(sheet, image, box, None)
        _numbered_dots(sheet, np.asarray(places) * (width, height) + (x, y))
        _caption(sheet, caption, box, INK)
    return sheet.figure


@drawn
def suspects_wall(images: Sequence[np.ndarray], suspects: pd.DataFrame, columns: int = 4) -> Figure:
    """Draw crops of suspicious labels over the label, what the model reads, and how sure it is of either.

    ``suspects`` is a table of ``labels.rank_suspects``, a row for each crop.
    """
    if not len(images):
        return sentence_figure("The model contradicts no label.")
    title = f"{len(images)} labels that the model contradicts most: which of the two is on the crop?"
    sheet, boxes = _wall(len(images), columns, 0.85, 0.82, title)
    for image, row, box in zip(images, suspects.itertuples(), boxes, strict=True):
        left, top, width, height = box
        _picture(sheet, image, box, None)
        _aligned_lines(sheet, align(row.text, row.suggestion), left - _GAP / 2, top + height + 0.08, width, None)
        bound = "" if row.label_rank != "" and row.label_probability >= 0.0001 else "under "
        odds = f"read {_percent(row.confidence)}, label {bound}{_percent(row.label_probability)}"
        sheet.text(left + width / 2, top + height + 0.76, odds, ha="center", va="center", fontsize=7.5, color=GREY)
    return sheet.figure


@drawn
def groups_wall(
    groups: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[str]], names: Sequence[str], columns: int = 8
) -> Figure:
    """Draw groups of crops, each under its name, at most ``columns`` of its crops with their labels.

    Small groups stand two on a line.
    """
    if not len(groups):
        return sentence_figure("No two crops belong together.")
    beside = 2 if max(map(len, groups)) <= columns // 2 else 1
    across, width = columns // beside, (WIDTH - 2 * _MARGIN) / columns
    sheet = _sheet(_TITLE + 1.45 * math.ceil(len(groups) / beside) + _MARGIN)
    _title(sheet, f"The {len(groups)} largest groups of crops that belong together: each stays in one fold")
    for i, (images, texts, name) in enumerate(zip(groups, captions, names, strict=True)):
        left, top = _MARGIN + i % beside * across * width, _TITLE + i // beside * 1.45
        fit(sheet.text(left, top + 0.1, name, va="center", fontsize=9, color=GREY), across * width - _GAP)
        for j, (image, text) in enumerate(list(zip(images, texts, strict=True))[:across]):
            box = (left + j * width + _GAP / 2, top + 0.24, width - _GAP, 0.72)
            _picture(sheet, image, box, None)
            _caption(sheet, text, box, INK)
    return sheet.figure


def _percent(share: float) -> str:
    if share < 0.0001:
        return "0.01 %"
    return f"{100 * share:.2g} %" if share < 0.01 else f"{100 * share:.0f} %"


def _numbered_dots(sheet: Any, points: np.ndarray) -> None:
    sheet.scatter(points[:, 0], points[:, 1], s=70, color=WRONG, edgecolors="white", linewidths=0.8, zorder=3)
    for number, (x, y) in enumerate(points, start=1):
        style = {"fontsize": 6.5, "fontweight": "bold", "color": "white"}
        sheet.text(x, y, str(number), ha="center", va="center_baseline", zorder=4, **style)


@drawn
def alignment(
    image: np.ndarray,
    text: str,
    posteriors: np.ndarray,
    characters: str,
    reads_down: bool | None = None,
) -> Figure:
    """Draw over a crop when (and so where) a CTC recogniser wrote each character.

    ``posteriors`` (times, classes) are probabilities with class 0 the blank and class i the character
    ``characters[i - 1]`` (``Alphabet.characters``). A crop taller than wide is taken to read downwards and
    is laid on its side, unless ``reads_down`` says otherwise. ``text`` is the label.
    """
    if not len(posteriors):
        return sentence_figure("The recogniser gave no time steps for this crop.")
    down = image.shape[0] > image.shape[1] if reads_down is None else reads_down
    spikes = ctc_spikes(posteriors)
    read = "".join(characters[class_ - 1] for class_, *_ in spikes)
    figure = new_figure(3.7)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1), gridspec_kw={"hspace": 0.02})
    _crop_in_time(above, np.rot90(image) if down else image, len(posteriors))
    _posterior_curves(below, posteriors, spikes)
    wrong = {op.predicted_index for op in align(text, read) if op.predicted and op.kind != MATCH}
    for i, (class_, first, last, peak) in enumerate(spikes):
        _mark_spike(above, below, characters[class_ - 1], (first, last, peak), WRONG if i in wrong else RIGHT)
    verdict = "as labelled" if read == text else f"but the label is “{shown(text)}”"
    headline(figure, f"Read “{shown(read)}”, {verdict}" + ("; the crop is laid on its side" if down else ""))
    return figure


@drawn
def alignment_map(image: np.ndarray, text: str, found: Alignment) -> Figure:
    """Draw over a crop (upright, also if its text runs down) from which part of it each character was read.

    Every character tints the crop where its weight lies; the map beside it has a line for each. ``text`` is the label:
    characters that differ from it are vermillion.
    """
    if not found.read or not found.weights.size:
        return sentence_figure(f"Nothing was read in this crop; its label is “{shown(text)}”.")
    colours = _character_colours(text, found.read)
    figure = _map_down(image, found, colours) if found.down else _map_across(image, found, colours)
    verdict = "as labelled" if found.read == text else f"but the label is “{shown(text)}”"
    what = "probability of each time step" if found.method == "CTC" else "where the decoder looked"
    headline(figure, f"{found.method}: read “{shown(found.read)}”, {verdict} ({what})")
    return figure


def ctc_spikes(posteriors: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return ``(class, first step, last step, peak step)`` of each character on the greedy CTC path."""
    path = np.asarray(posteriors).argmax(axis=1)
    edges = np.flatnonzero(np.diff(path)) + 1
    runs = zip([0, *edges], [*edges, len(path)], strict=True)
    return [
        (int(path[a]), int(a), int(b - 1), int(a + np.argmax(posteriors[a:b, path[a]])))
        for a, b in runs
        if path[a] != 0
    ]


def shown_caption(caption: str) -> str:
    """Return a caption on one line, anything unprintable replaced."""
    return "".join(c if c.isprintable() else (" " if c.isspace() else "\ufffd") for c in caption)


def _sheet(height: float) -> Any:
    """Return blank axes that cover a figure of ``height`` inches, with coordinates in inches from the top left."""
    figure = new_figure(height, layout=None)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.set_axis_off()
    return ax


def _wall(count: int, columns: int, picture: float, text: float, title: str) -> tuple[Any, list[Box]]:
    """Return a titled sheet and the boxes of ``count`` pictures ``picture`` inches high with ``text`` inches below."""
    columns = min(columns, count)
    width, height = (WIDTH - 2 * _MARGIN) / columns, picture + text + _GAP
    sheet = _sheet(_TITLE + math.ceil(count / columns) * height + _MARGIN)
    _title(sheet, title)
    corners = [(_MARGIN + i % columns * width + _GAP / 2, _TITLE + i // columns * height) for i in range(count)]
    return sheet, [(left, top, width - _GAP, picture) for left, top in corners]


def _title(sheet: Any, title: str) -> None:
    fit(sheet.text(_MARGIN, 0.2, title, va="center", fontsize=12, fontweight="bold"), WIDTH - 2 * _MARGIN)


def _wall_title(n: int, correct: Sequence[bool] | None) -> str:
    if correct is None:
        return f"{n} crops and their labels"
    right = int(np.sum(correct))
    wrong = n - right
    return f"{right} of these {n} are read correctly (blue), {wrong} {'is' if wrong == 1 else 'are'} not (vermillion)"


def _colour(correct: Sequence[bool] | None, i: int) -> str:
    return INK if correct is None else (RIGHT if correct[i] else WRONG)


def _picture(sheet: Any, image: np.ndarray, box: Box, frame: str | None) -> Box:
    """Draw a crop as large as the box allows, centred; return the box that it fills."""
    left, top, width, height = box
    rows, columns = image.shape[:2]
    scale = min(width / columns, height / rows)
    w, h = columns * scale, rows * scale
    x, y = left + (width - w) / 2, top + (height - h) / 2
    limits = sheet.get_xlim(), sheet.get_ylim()
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}
    sheet.imshow(image, extent=(x, x + w, y + h, y), aspect="auto", interpolation="antialiased", **grey)
    sheet.set(xlim=limits[0], ylim=limits[1])
    edge = {"edgecolor": frame, "linewidth": 2.0} if frame else {"edgecolor": PALE, "linewidth": 0.6}
    sheet.add_patch(Rectangle((x, y), w, h, fill=False, **edge))
    return x, y, w, h


def _ems(text: str) -> float:
    """Return about how wide ``text`` is in units of the font's size."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else (0.34 if c == " " else 0.62) for c in text)


def _fitted(sheet: Any, text: str, x: float, y: float, width: float, colour: str) -> None:
    """Write one centred line, smaller or cut short where ``width`` (inches) asks for it."""
    size = min(11.0, max(6.0, width / _POINT / max(_ems(text), 1)))
    while _ems(text) * size * _POINT > width and len(text) > 2:
        text = text[:-2] + "…"
    sheet.text(x, y, text, ha="center", va="center", fontsize=size, color=colour)


def _caption(sheet: Any, caption: str, box: Box, colour: str) -> None:
    """Write a caption below its picture; a long ``before → after`` in two lines: what comes after must be seen."""
    left, top, width, height = box
    text, middle, room = shown_caption(caption), left + width / 2, width + _GAP / 2
    before, arrow, after = text.rpartition(" → ")
    if arrow and _ems(text) * _LEAST * _POINT > room:
        _fitted(sheet, before, middle, top + height + 0.12, room, colour)
        _fitted(sheet, f"→ {after}", middle, top + height + 0.28, room, colour)
    else:
        _fitted(sheet, text, middle, top + height + 0.17, room, colour)


def _aligned_lines(sheet: Any, ops: list[Op], left: float, top: float, width: float, confidence: float | None) -> None:
    """Write label and prediction in columns of one character each, the prediction after its confidence."""
    name_width = 0.4
    pitch = min(0.2, (width - name_width) / max(len(ops), 1))
    names = ("label", "read" if confidence is None else f"{100 * confidence:.0f} %")
    for name, y in zip(names, (top + 0.13, top + 0.41), strict=True):
        sheet.text(left + name_width - 0.06, y, name, ha="right", va="center", fontsize=7.5, color=GREY)
    for i, op in enumerate(ops):
        _aligned_column(sheet, op, left + name_width + (i + 0.5) * pitch, top, pitch)


def _aligned_column(sheet: Any, op: Op, x: float, top: float, pitch: float) -> None:
    size = min(12.0, 0.82 * pitch / _POINT)
    wrong = op.kind != MATCH
    if wrong:
        box = Rectangle((x - pitch / 2, top + 0.27), pitch, 0.28, facecolor=WRONG, alpha=0.16, linewidth=0)
        sheet.add_patch(box)
    for character, y, colour in ((op.expected, top + 0.13, BLUE), (op.predicted, top + 0.41, WRONG)):
        space_matters = wrong and character.isspace()
        glyph = "·" if not character else (shown(character) if space_matters or not character.isspace() else " ")
        weight = "bold" if wrong and character else "normal"
        colour = GREY if not character else (colour if wrong else INK)
        sheet.text(x, y, glyph, ha="center", va="center", fontsize=size, color=colour, fontweight=weight)


def _crop_in_time(ax: Any, image: np.ndarray, times: int) -> None:
    """Stretch a crop over the time axis, one step being one unit wide, step t centred on t."""
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}
    ax.imshow(image, extent=(-0.5, times - 0.5, 0, 1), aspect="auto", **grey)
    ax.set_yticks([])
    ax.tick_params(bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def _posterior_curves(ax: Any, posteriors: np.ndarray, spikes: list[tuple[int, int, int, int]]) -> None:
    steps = np.arange(len(posteriors))
    ax.plot(steps, posteriors[:, 0], color=GREY, linewidth=1, linestyle=":")
    for class_ in {class_ for class_, *_ in spikes}:
        ax.plot(steps, posteriors[:, class_], color=INK, linewidth=1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(
        ylim=(0, 1.05),
        xlim=(-0.5, len(posteriors) - 0.5),
        xlabel="time step (line: probability of the character, dotted: of the blank)",
        ylabel="probability",
    )
    ax.set_yticks([0, 0.5, 1])


def _mark_spike(above: Any, below: Any, character: str, span: tuple[int, int, int], colour: str) -> None:
    first, last, peak = span
    above.axvspan(first - 0.5, last + 0.5, color=colour, alpha=0.22, linewidth=0)
    above.axvline(peak, color=colour, linewidth=1.2)
    above.text(peak, 1.03, shown(character), ha="center", va="bottom", fontsize=13, color=colour, fontweight="bold")
    below.axvspan(first - 0.5, last + 0.5, color=colour, alpha=0.18, linewidth=0)
    below.axvline(peak, color=colour, linewidth=1.2, alpha=0.5)


def _named_line(sheet: Any, name: str, ops: list[Op], place: tuple[float, float, float]) -> None:
    """Write ``name`` small, then what was read in cells of one character, what differs from the label coloured."""
    left, y, width = place
    name_width = 0.27 * width
    fit(sheet.text(left, y, shown_caption(name), va="center", fontsize=7.5, color=GREY), name_width - 0.05)
    pitch = min(0.2, (width - name_width) / max(len(ops), 1))
    for i, op in enumerate(ops):
        wrong = op.kind != MATCH
        glyph = (shown(op.predicted) if wrong or not op.predicted.isspace() else " ") or "·"
        style = {"fontsize": min(12.0, 0.82 * pitch / _POINT), "fontweight": "bold" if wrong else "normal"}
        x = left + name_width + (i + 0.5) * pitch
        sheet.text(x, y, glyph, ha="center", va="center", color=WRONG if wrong else INK, **style)


def _character_colours(text: str, read: str, right: tuple[str, str] = (BLUE, GREEN)) -> list[str]:
    """Return a colour for each character of ``read``: vermillion if the label has another, else ``right`` in turn."""
    wrong = {op.predicted_index for op in align(text, read) if op.predicted and op.kind != MATCH}
    return [WRONG if i in wrong else right[i % 2] for i in range(len(read))]


def _tint(colours: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Return (T, 4): over each time step the characters' colours mixed by their weights, opaque where they are sure."""
    shares = weights / np.maximum(weights.sum(axis=0), 1e-9)
    sure = np.clip(weights / max(float(weights.max()), 1e-9), 0, 1).max(axis=0)
    return np.column_stack([shares.T @ np.array([to_rgb(colour) for colour in colours]), 0.6 * sure])


def _map_across(image: np.ndarray, found: Alignment, colours: Sequence[str]) -> Figure:
    """Lay the crop over a map with a line for each character, both as wide as its proportions ask."""
    steps, ratio = found.weights.shape[1], image.shape[1] / image.shape[0]
    width = min(WIDTH - 1.0, max(2.6, 1.5 * ratio))
    crop, rows = min(2.6, width / ratio), 0.26 * len(found.read)
    figure = new_figure(0.42 + 0.3 + crop + 0.12 + rows + 0.5, layout=None)
    total = figure.get_figheight()
    place = (0.8 / WIDTH, width / WIDTH)
    above = figure.add_axes((place[0], 1 - (0.72 + crop) / total, place[1], crop / total))
    below = figure.add_axes((place[0], 0.5 / total, place[1], rows / total))
    _tinted_crop(above, image, (0, steps, 0, 1), _tint(colours, found.weights)[None])
    places = _apart(found.places() * steps, 0.24 * steps / width)
    for x, character, colour in zip(places, found.read, colours, strict=True):
        above.text(x, 1.04, shown(character), ha="center", va="bottom", fontsize=14, color=colour, fontweight="bold")
    _weight_map(below, found.weights, (0, steps, len(found.read), 0))
    below.set_yticks(np.arange(len(found.read)) + 0.5, [shown(c) for c in found.read], fontsize=11)
    _colour_ticks(below.get_yticklabels(), colours)
    below.set(xlabel="time step, from left to right")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _map_down(image: np.ndarray, found: Alignment, colours: Sequence[str]) -> Figure:
    """Stand the crop beside a map with a column for each character, time running down in both."""
    steps, ratio = found.weights.shape[1], image.shape[1] / image.shape[0]
    height = min(4.6, max(2.8, 0.5 * len(found.read)))
    width, columns = height * ratio, 0.34 * len(found.read)
    figure = new_figure(height + 1.0, layout=None)
    total = figure.get_figheight()
    span = (0.25 / total, height / total)
    left = figure.add_axes((0.75 / WIDTH, span[0], width / WIDTH, span[1]))
    right = figure.add_axes(((1.5 + width) / WIDTH, span[0], columns / WIDTH, span[1]))
    _tinted_crop(left, image, (0, 1, steps, 0), _tint(colours, found.weights)[:, None])
    places = _apart(found.places() * steps, 0.24 * steps / height)
    for y, character, colour in zip(places, found.read, colours, strict=True):
        left.text(1.06, y, shown(character), ha="left", va="center", fontsize=14, color=colour, fontweight="bold")
    _weight_map(right, found.weights.T, (0, len(found.read), steps, 0))
    right.xaxis.tick_top()
    right.set_xticks(np.arange(len(found.read)) + 0.5, [shown(c) for c in found.read], fontsize=11)
    _colour_ticks(right.get_xticklabels(), colours)
    right.set(ylabel="time step, from top to bottom")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _apart(places: np.ndarray, least: float) -> np.ndarray:
    """Return rising ``places`` moved apart until neighbours are ``least`` away, about where they were."""
    forward, backward = np.array(places, dtype=float), np.array(places, dtype=float)
    for i in range(1, len(places)):
        forward[i] = max(forward[i], forward[i - 1] + least)
        backward[-i - 1] = min(backward[-i - 1], backward[-i] - least)
    return (forward + backward) / 2


def _tinted_crop(ax: Any, image: np.ndarray, extent: Box, tint: np.ndarray) -> None:
    grey = image if image.ndim == 2 else image.mean(axis=2)
    ax.imshow(grey, extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=255)
    ax.imshow(tint, extent=extent, aspect="auto", interpolation="nearest")
    ax.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=PALE)


def _weight_map(ax: Any, weights: np.ndarray, extent: Box) -> None:
    ax.imshow(weights, extent=extent, aspect="auto", cmap="Greys", vmin=0, vmax=max(float(weights.max()), 1e-9))
    ax.tick_params(length=0)
    ax.spines[:].set(visible=True, color=PALE)


def _colour_ticks(labels: Sequence[Any], colours: Sequence[str]) -> None:
    for label, colour in zip(labels, colours, strict=True):
        label.set(color=colour, fontweight="bold")
