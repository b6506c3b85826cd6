"""From characters to one alpha mask: cached glyph bitmaps, laid out in a row or an upright column.

Coordinates are pixels of the mask, x to the right and y down. A glyph is drawn once for each face and size and then
copied: FreeType is the slowest part of a renderer that does not do so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hangul_ocr.synthesis.fonts import FontFace


@dataclass(frozen=True, slots=True)
class Glyph:
    """One character's ink: ``alpha`` (h, w) uint8, its offset from the pen on the baseline, and the pen's advance."""

    alpha: np.ndarray
    left: int
    top: int
    advance: float


@dataclass(frozen=True, slots=True)
class Face:
    """What the layout needs of a face at one size: its font, and how high above the baseline Hangul is centred."""

    font: ImageFont.FreeTypeFont
    middle: float


@dataclass(frozen=True, slots=True)
class Placed:
    """A glyph with its top left corner in a layout."""

    glyph: Glyph
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A text laid out: glyphs, ``centres`` (n, 2) of all characters, spaces too, and the ink's box (x0, y0, x1, y1)."""

    placed: list[Placed]
    centres: np.ndarray
    box: tuple[int, int, int, int]


class GlyphCache:
    """Draws glyphs and keeps the latest, of ``limit`` pixels together (a byte each, and some 400 beside each glyph).

    At 48 pixels an em a glyph has about 1,500, at 96 four times as many.
    """

    def __init__(self, faces: Sequence[FontFace], limit: int = 250_000_000) -> None:
        self.faces = list(faces)
        self.limit, self._kept = limit, 0
        self._glyphs: OrderedDict[tuple[int, int, str], Glyph] = OrderedDict()
        self._fonts: dict[tuple[int, int], Face] = {}

    def face(self, number: int, size: int) -> Face:
        """Return the loaded face ``number`` at ``size`` pixels an em."""
        if (found := self._fonts.get((number, size))) is None:
            font = self.faces[number].load(size)
            _, top, _, bottom = font.getbbox("맑", anchor="ls")
            found = self._fonts[number, size] = Face(font, (top + bottom) / 2)
        return found

    def get(self, number: int, size: int, character: str) -> Glyph:
        """Return one glyph of face ``number``, from the cache where it is there."""
        key = (number, size, character)
        if (glyph := self._glyphs.get(key)) is not None:
            self._glyphs.move_to_end(key)
            return glyph
        glyph = self._glyphs[key] = draw_glyph(self.face(number, size).font, character)
        self._kept += glyph.alpha.size
        while self._kept > self.limit:
            self._kept -= self._glyphs.popitem(last=False)[1].alpha.size
        return glyph


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> Glyph:
    """Draw one character; a space gives a bitmap without pixels."""
    left, top, right, bottom = (round(value) for value in font.getbbox(character, anchor="ls"))
    advance = font.getlength(character)
    if character.isspace() or right <= left or bottom <= top:
        return Glyph(np.zeros((0, 0), np.uint8), 0, 0, advance)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return _trimmed(np.asarray(image), left, top, advance)


def _trimmed(alpha: np.ndarray, left: int, top: int, advance: float) -> Glyph:
    """Cut the empty border away: Pillow's box counts the advance as width."""
    rows, columns = np.flatnonzero(alpha.max(1)), np.flatnonzero(alpha.max(0))
    if not len(rows):
        return Glyph(np.zeros((0, 0), np.uint8), 0, 0, advance)
    ink = np.ascontiguousarray(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return Glyph(ink, left + int(columns[0]), top + int(rows[0]), advance)


def lay_row(glyphs: Sequence[Glyph], middle: float, spacing: float, space: float, lift: np.ndarray) -> Layout:
    """Lay a row from left to right: ``spacing`` pixels between glyphs, ``space`` times the font's width for a space.

    ``lift`` (n,) moves each glyph up or down by so many pixels.
    """
    pen, placed, centres = 0.0, [], []
    for glyph, dy in zip(glyphs, lift.tolist(), strict=True):
        width = glyph.advance
        if glyph.alpha.size:
            placed.append(Placed(glyph, round(pen) + glyph.left, round(dy) + glyph.top))
        else:
            # Where letters stand apart, a space must still be wider than what lies between them.
            width = width * space + max(0.0, spacing)
        centres.append((pen + width / 2, middle + dy))
        pen += width + spacing
    return _layout(placed, centres)


def lay_column(glyphs: Sequence[Glyph], middle: float, size: int, spacing: float, space: float) -> Layout:
    """Lay upright glyphs from top to bottom, each centred in the column; a space is half an em times ``space``."""
    pen, placed, centres = 0.0, [], []
    for glyph in glyphs:
        height = size * 0.92 if glyph.alpha.size else size * 0.45 * space + max(0.0, spacing) / 2
        if glyph.alpha.size:
            y = round(pen + height / 2 - middle) + glyph.top
            placed.append(Placed(glyph, -glyph.alpha.shape[1] // 2, y))
        centres.append((0.0, pen + height / 2))
        pen += height + spacing
    return _layout(placed, centres)


def stack(first: Layout, second: Layout, gap: float, align: float) -> Layout:
    """Return two rows as one layout, ``gap`` pixels between them; ``align`` 0 sets them flush left, 1 flush right."""
    dx = round(first.box[0] - second.box[0] + align * (first.box[2] - first.box[0] - second.box[2] + second.box[0]))
    dy = round(first.box[3] - second.box[1] + gap)
    moved = [Placed(item.glyph, item.x + dx, item.y + dy) for item in second.placed]
    centres = np.concatenate([first.centres, second.centres + np.float32([dx, dy])])
    return _layout(first.placed + moved, centres)


def _layout(placed: list[Placed], centres: Sequence[tuple[float, float]] | np.ndarray) -> Layout:
    box = (
        min(p.x for p in placed),
        min(p.y for p in placed),
        max(p.x + p.glyph.alpha.shape[1] for p in placed),
        max(p.y + p.glyph.alpha.shape[0] for p in placed),
    )
    return Layout(placed, np.array(centres, np.float32), box)


def paint(placed: Sequence[Placed], origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Return the (h, w) uint8 mask whose top left corner is ``origin``; what leaves it is cut off."""
    mask = np.zeros(shape, np.uint8)
    for item in placed:
        _copy(mask, item.glyph.alpha, item.x - origin[0], item.y - origin[1])
    return mask


def _copy(mask: np.ndarray, alpha: np.ndarray, x: int, y: int) -> None:
    height, width = alpha.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, mask.shape[1]), min(y + height, mask.shape[0])
    if x0 < x1 and y0 < y1:
        part = mask[y0:y1, x0:x1]
        np.maximum(part, alpha[y0 - y : y1 - y, x0 - x : x1 - x], out=part)
