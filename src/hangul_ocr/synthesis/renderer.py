"""The streaming renderer: crop number ``index`` of seed ``seed`` is the same image in every process.

A text becomes an alpha mask (glyphs.py), the mask is warped once into the crop, and the crop is coloured and
photographed (scene.py). The centre of every character goes through the same matrix as its pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.synthesis import effects, glyphs, scene
from hangul_ocr.synthesis.fonts import FontFace, family_share
from hangul_ocr.synthesis.scene import Masks
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import WordSource

LONGEST_SIDE = 1300
_MIN_WIDTH = 8


@dataclass(frozen=True)
class Rendered:
    """A crop with what is known of it.

    ``image`` (H, W, 3) uint8 RGB; ``centres`` (len(text), 2) float32, x by width and y by height in 0..1, spaces
    included; ``vertical`` where the characters run from top to bottom; the ``family`` of the font.
    """

    image: np.ndarray
    text: str
    centres: np.ndarray
    vertical: bool
    family: str


@dataclass(frozen=True)
class Drawing:
    """A text before the camera: its masks, the ``centres`` (n, 2) and the ``box`` (x0, y0, x1, y1) of its ink in
    their pixels, at ``size`` pixels an em."""

    masks: Masks
    centres: np.ndarray
    box: tuple[int, int, int, int]
    size: int


class Renderer:
    """Renders words of a source in the given faces: families by ``family_share``, however many weights each has."""

    def __init__(self, faces: Sequence[FontFace], words: WordSource, style: Style, seed: int = 0) -> None:
        if not faces:
            raise HangulOcrError("the renderer needs a font: pip install koreanize-matplotlib pylopdf-fonts-ko")
        self.faces, self.words, self.style, self.seed = list(faces), words, style, seed
        self._calm = style.calmer()
        self._cache = glyphs.GlyphCache(self.faces)
        self._covers = _covers(self.faces)
        self._families = _by_family(self.faces)
        self._limits = np.cumsum([family_share(self.faces[members[0]].family) for members in self._families])

    def __getstate__(self) -> dict:
        """Leave drawn glyphs behind: a worker draws its own, and FreeType's handles do not travel."""
        return {"faces": self.faces, "words": self.words, "style": self.style, "seed": self.seed}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def render(self, index: int) -> Rendered:
        """Return crop number ``index`` of the stream; it depends on seed and index alone."""
        rng = np.random.default_rng((self.seed, index))
        return self.render_text(self._drawable_text(rng), rng)

    def _drawable_text(self, rng: np.random.Generator) -> str:
        """Return a label that some face draws whole: few fonts have every sign, and Latin may lie in another."""
        for _ in range(20):
            text = self.words.sample(rng)
            if any(covers.issuperset(text) for covers in self._covers):
                return text
        return text

    def render_text(self, text: str, rng: np.random.Generator, vertical: bool | None = None) -> Rendered:
        """Return a crop of ``text``; ``vertical`` None leaves the direction to chance.

        Raises ``HangulOcrError`` where it is empty, or no face draws all of its characters.
        """
        if not text.strip():
            raise HangulOcrError(f"there is nothing to draw in {text!r}: give a text with a visible character")
        number = self._choose_face(text, rng)
        style = self._calm if rng.random() < self.style.clean else self.style
        if vertical is None:
            vertical = len(text) > 1 and rng.random() < style.vertical
        short_side = int(rng.integers(style.short_side[0], style.short_side[1] + 1))
        drawing = self._draw(text, number, short_side, vertical, style, rng)
        masks, centres = _project(drawing, short_side, style, rng)
        image = scene.photograph(scene.paint_scene(masks, centres, style, rng), style, rng)
        return Rendered(image, text, centres, vertical, self.faces[number].family)

    def _choose_face(self, text: str, rng: np.random.Generator) -> int:
        needed = frozenset(text)
        for _ in range(8):
            members = self._families[int(np.searchsorted(self._limits, rng.random() * self._limits[-1], side="right"))]
            number = members[int(rng.random() * len(members))]
            if needed <= self._covers[number]:
                return number
        able = [number for number, covers in enumerate(self._covers) if needed <= covers]
        if not able:
            raise HangulOcrError(f"no font draws all of {text!r}: leave these characters out or install another font")
        return able[int(rng.random() * len(able))]

    def _draw(
        self, text: str, number: int, short_side: int, vertical: bool, style: Style, rng: np.random.Generator
    ) -> Drawing:
        """Return the text set in face ``number`` with what stands around it, the smaller of two sizes that suffices."""
        size = 48 if short_side <= 56 else 96
        layout = self._lay_out(text, number, size, vertical, style, rng)
        x0, y0, x1, y1 = layout.box
        pad = size // 2
        origin, shape = (x0 - pad, y0 - pad), (y1 - y0 + 2 * pad, x1 - x0 + 2 * pad)
        mask = _restyled(glyphs.paint(layout.placed, origin, shape), size, style, rng)
        centres = layout.centres - np.float32(origin)
        box = (pad, pad, pad + x1 - x0, pad + y1 - y0)
        chance = rng.random()
        if chance < style.neighbours:
            return Drawing(Masks(mask, neighbours=_neighbours(layout, size, vertical, rng)), centres, box, size)
        if chance < style.neighbours + style.panels:
            return Drawing(Masks(mask, panels=_panels(shape, centres, text, size)), centres, box, size)
        if chance > 1 - style.curve and not vertical and len(text) > 2:
            angle = rng.uniform(0.25, 1.3) * (1 if rng.random() < 0.65 else -1)
            mask, centres, box = effects.bent(mask, centres, pad, angle)
        return Drawing(Masks(mask), centres, box, size)

    def _lay_out(
        self, text: str, number: int, size: int, vertical: bool, style: Style, rng: np.random.Generator
    ) -> glyphs.Layout:
        middle = self._cache.face(number, size).middle
        spacing, space = size * _spacing(style, rng), rng.uniform(*style.space)
        if vertical:
            return glyphs.lay_column(self._glyphs(text, number, size), middle, size, spacing, space)
        lines = _two_lines(text) if rng.random() < style.two_lines else (text,)
        rows = [
            glyphs.lay_row(self._glyphs(line, number, size), middle, spacing, space, _lift(len(line), size, style, rng))
            for line in lines
        ]
        return rows[0] if len(rows) == 1 else glyphs.stack(*rows, size * rng.uniform(0.05, 0.4), rng.random())

    def _glyphs(self, text: str, number: int, size: int) -> list[glyphs.Glyph]:
        return [self._cache.get(number, size, character) for character in text]


def _lift(n: int, size: int, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return how far each glyph of a row leaves the baseline: not at all, or a wobble."""
    return rng.uniform(-0.06, 0.06, n) * size if rng.random() < style.wobble else np.zeros(n)


def _two_lines(text: str) -> tuple[str, ...]:
    """Return ``text`` cut at the space nearest to its middle; whole where it has none."""
    places = [place for place, character in enumerate(text) if character == " "]
    if not places:
        return (text,)
    cut = min(places, key=lambda place: abs(place - len(text) / 2))
    return text[: cut + 1], text[cut + 1 :]


def _restyled(mask: np.ndarray, size: int, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return the text's mask bolder, thinner, rippled or of dots, so that few fonts look like many.

    Ripples move a character by a few hundredths of an em; its centre is left as it was.
    """
    if rng.random() < style.reweight:
        mask = effects.reweighted(mask, rng.uniform(*style.weight))
    if rng.random() < style.ripple:
        mask = effects.rippled(rng, mask, size * rng.uniform(0.02, 0.06), size * rng.uniform(0.3, 0.8))
    # Nothing is drawn from ``rng`` where there are none: the sample competition stays as it is.
    if style.dots and rng.random() < style.dots:
        mask = effects.dotted(rng, mask, size)
    return mask


def _panels(shape: tuple[int, int], centres: np.ndarray, text: str, size: int) -> np.ndarray:
    """Return the mask of a square behind each character but spaces, as on signs of single boards."""
    mask = np.zeros(shape, np.uint8)
    half = round(0.53 * size)
    for (x, y), character in zip(centres.tolist(), text, strict=True):
        if not character.isspace():
            cv2.rectangle(mask, (int(x) - half, int(y) - half), (int(x) + half, int(y) + half), 255, -1)
    return mask


def _project(drawing: Drawing, short_side: int, style: Style, rng: np.random.Generator) -> tuple[Masks, np.ndarray]:
    """Return the drawing's masks in the crop's pixels, and its characters' centres in 0..1."""
    x0, y0, x1, y1 = drawing.box
    quad = _moved_quad(x1 - x0, y1 - y0, style, rng)
    margin = style.margin if drawing.masks.neighbours is None else (0.0, 0.4)
    quad, (width, height) = _crop(quad, drawing.size, short_side, margin, rng)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, quad.astype(np.float32))
    centres = cv2.perspectiveTransform(drawing.centres[None], matrix)[0]
    return drawing.masks.warped(matrix, (width, height)), np.clip(centres / np.float32([width, height]), 0, 1)


def _neighbours(layout: glyphs.Layout, size: int, vertical: bool, rng: np.random.Generator) -> np.ndarray:
    """Return the mask of other text around this one: pieces of the line before or after, cut by the crop."""
    x0, y0, x1, y1 = layout.box
    pad = size // 2
    before, beside = rng.random() < 0.5, rng.random() < 0.3
    # Along the line the gap must be wider than a space between letters, or the neighbour reads as part of the text.
    gap = int(size * (rng.uniform(0.28, 0.42) if beside else rng.uniform(0.1, 0.3)))
    slack = int(rng.uniform(-0.3, 0.3) * size)
    if vertical != beside:
        dx, dy = (x0 - x1 - gap if before else x1 - x0 + gap), slack
    else:
        dx, dy = slack, (y0 - y1 - gap if before else y1 - y0 + gap)
    shuffled = rng.permutation(len(layout.placed))
    copies = [
        glyphs.Placed(layout.placed[j].glyph, item.x + dx, item.y + dy)
        for item, j in zip(layout.placed, shuffled, strict=True)
    ]
    return glyphs.paint(copies, (x0 - pad, y0 - pad), (y1 - y0 + 2 * pad, x1 - x0 + 2 * pad))


def _covers(faces: list[FontFace]) -> list[frozenset[str]]:
    """Return what each face draws; faces that draw the same share a set, for most of these hold ten thousand."""
    sets: dict[tuple[str, str], frozenset[str]] = {}
    for face in faces:
        if (face.covers, face.others) not in sets:
            sets[face.covers, face.others] = frozenset(face.covers + face.others + " ")
    return [sets[face.covers, face.others] for face in faces]


def _by_family(faces: list[FontFace]) -> list[list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for number, face in enumerate(faces):
        members[face.family].append(number)
    return list(members.values())


def _spacing(style: Style, rng: np.random.Generator) -> float:
    """Return a letter spacing in ems: mostly the font's own, sometimes anywhere within the limits, rarely very wide."""
    chance = rng.random()
    if chance < style.spread:
        return rng.uniform(0.2, 0.7)
    return rng.uniform(*style.spacing) if chance < 0.5 else rng.uniform(-0.03, 0.03)


def _moved_quad(width: float, height: float, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return where the text box's corners (4, 2) go: stretched, sheared, rotated, and each moved a little."""
    low, high = style.stretch
    stretch = low * (high / low) ** rng.random()
    turn, lean = rng.standard_normal(2).tolist()
    # A long line turned far would be a thin diagonal in a large square: its angle is bounded by its shape.
    bound = math.atan(0.45 * min(width, height) / max(width, height))
    angle = max(-bound, min(bound, math.radians(turn * style.rotation)))
    shear = lean * style.shear
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos * stretch, sin * stretch], [cos * shear - sin, sin * shear + cos]])
    jitter = (rng.random((4, 2)) * 2 - 1) * (style.perspective * min(width * stretch, height))
    return _UNIT_BOX * (width, height) @ linear + jitter


_UNIT_BOX = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def _crop(
    quad: np.ndarray, size: int, short_side: int, margin: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the quad in crop pixels and the crop's (width, height): its bounds, margins added, scaled."""
    margins = rng.uniform(*margin, 4) * size
    top_left = quad.min(0) - margins[:2]
    extent = quad.max(0) + margins[2:] - top_left
    scale = min(short_side / extent.min(), LONGEST_SIDE / extent.max())
    width, height = (max(_MIN_WIDTH, round(side * scale)) for side in extent)
    return (quad - top_left) * scale, (width, height)
