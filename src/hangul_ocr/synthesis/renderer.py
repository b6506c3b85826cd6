"""The streaming renderer: crop number ``index`` of seed ``seed`` is the same image in every process.

A text becomes an alpha mask (glyphs.py), the mask is warped once into the crop, and the crop is coloured and damaged
(effects.py). The centre of every character goes through the same matrix as its pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.synthesis import effects, glyphs
from hangul_ocr.synthesis.fonts import FontFace
from hangul_ocr.synthesis.words import WordSource

LONGEST_SIDE = 1300
_MIN_WIDTH = 8


@dataclass(frozen=True)
class Style:
    """How crops look: probabilities in 0..1, lengths in pixels or, where it says so, in ems of the text."""

    short_side: tuple[int, int] = (24, 120)
    vertical: float = 0.135  # of two characters and more; single tall syllables make 16 % of the crops tall
    min_contrast: float = 70.0
    margin: tuple[float, float] = (-0.03, 0.25)  # ems on each side
    spacing: tuple[float, float] = (-0.08, 0.22)  # ems between glyphs
    stretch: tuple[float, float] = (0.75, 1.3)
    weight: tuple[float, float] = (-0.2, 1.0)
    reweight: float = 0.6
    spread: float = 0.1  # widely spaced letters, up to 0.7 em
    ripple: float = 0.15
    wobble: float = 0.15
    arc: float = 0.08
    rotation: float = 5.0  # degrees, standard deviation
    shear: float = 0.12
    perspective: float = 0.07
    gradient: float = 0.4
    texture: float = 0.4
    stripes: float = 0.08
    clutter: float = 0.25
    outline: float = 0.15
    shadow: float = 0.15
    shaded_text: float = 0.2
    neighbours: float = 0.15
    relight: float = 0.4
    blur: float = 0.4
    blur_strength: float = 1.3
    grain: float = 0.5
    grain_strength: float = 14.0
    low_resolution: float = 0.25
    jpeg: float = 0.35
    jpeg_quality: tuple[int, int] = (25, 90)

    @classmethod
    def plain(cls, short_side: tuple[int, int] = (32, 48)) -> Style:
        """Return clean printed text on a flat ground: geometry and colours vary, nothing is damaged."""
        off = dict.fromkeys(_EFFECTS, 0.0)
        return cls(short_side=short_side, rotation=1.5, shear=0.04, perspective=0.02, **off)

    @classmethod
    def signs(cls, short_side: tuple[int, int] = (24, 120)) -> Style:
        """Return photographed signs and covers: everything on, as in the competition."""
        return cls(short_side=short_side)


_EFFECTS = (
    *(
        "spread",
        "ripple",
        "wobble",
        "arc",
        "gradient",
        "texture",
        "stripes",
        "clutter",
        "outline",
        "shadow",
        "shaded_text",
        "neighbours",
    ),
    *("relight", "blur", "grain", "low_resolution", "jpeg"),
)


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


class Renderer:
    """Renders words of a source in the given faces. Families are drawn evenly, however many weights each has."""

    def __init__(self, faces: Sequence[FontFace], words: WordSource, style: Style, seed: int = 0) -> None:
        if not faces:
            raise HangulOcrError("the renderer needs a font: pip install koreanize-matplotlib pylopdf-fonts-ko")
        self.faces, self.words, self.style, self.seed = list(faces), words, style, seed
        self._cache = glyphs.GlyphCache(self.faces)
        self._covers = [frozenset(face.covers) | {" "} for face in self.faces]
        self._families = _by_family(self.faces)

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
        if vertical is None:
            vertical = len(text) > 1 and rng.random() < self.style.vertical
        short_side = int(rng.integers(self.style.short_side[0], self.style.short_side[1] + 1))
        layout, size = self._lay_out(text, number, short_side, vertical, rng)
        mask, centres = self._warp(layout, size, short_side, vertical, rng)
        image = _damage(_colour(mask, self.style, rng), self.style, rng)
        return Rendered(image, text, centres, vertical, self.faces[number].family)

    def _choose_face(self, text: str, rng: np.random.Generator) -> int:
        needed = frozenset(text)
        for _ in range(8):
            members = self._families[int(rng.random() * len(self._families))]
            number = members[int(rng.random() * len(members))]
            if needed <= self._covers[number]:
                return number
        able = [number for number, covers in enumerate(self._covers) if needed <= covers]
        if not able:
            raise HangulOcrError(f"no font draws all of {text!r}: leave these characters out or install another font")
        return able[int(rng.random() * len(able))]

    def _lay_out(
        self, text: str, number: int, short_side: int, vertical: bool, rng: np.random.Generator
    ) -> tuple[glyphs.Layout, int]:
        """Return the layout and the size (pixels an em) of its glyphs: the smaller of two that is large enough."""
        size = 48 if short_side <= 56 else 96
        middle = self._cache.face(number, size).middle
        drawn = [self._cache.get(number, size, character) for character in text]
        spacing = size * _spacing(self.style, rng)
        space = rng.uniform(0.9, 1.6)
        if vertical:
            return glyphs.lay_column(drawn, middle, size, spacing, space), size
        return glyphs.lay_row(drawn, middle, spacing, space, self._lift(len(text), size, rng)), size

    def _lift(self, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return how far each glyph of a row leaves the baseline: not at all, a wobble or an arc."""
        chance = rng.random()
        if chance < self.style.wobble:
            return rng.uniform(-0.06, 0.06, n) * size
        if chance < self.style.wobble + self.style.arc and n > 2:
            along = np.linspace(-1, 1, n)
            return (along**2 - 0.5) * rng.uniform(-0.06, 0.06) * n * size
        return np.zeros(n)

    def _warp(
        self, layout: glyphs.Layout, size: int, short_side: int, vertical: bool, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the masks of text and neighbours, (H, W) uint8 in crop pixels, and the centres in 0..1."""
        x0, y0, x1, y1 = layout.box
        pad = size // 2
        origin, shape = (x0 - pad, y0 - pad), (y1 - y0 + 2 * pad, x1 - x0 + 2 * pad)
        quad = _moved_quad(x1 - x0, y1 - y0, self.style, rng)
        crowded = rng.random() < self.style.neighbours
        quad, (width, height) = _crop(quad, size, short_side, self.style.margin if not crowded else (0.0, 0.4), rng)
        corners = np.array([[0, 0], [x1 - x0, 0], [x1 - x0, y1 - y0], [0, y1 - y0]], np.float32) + pad
        matrix = cv2.getPerspectiveTransform(corners, quad.astype(np.float32))
        text = self._restyled(glyphs.paint(layout.placed, origin, shape), size, rng)
        masks = [text, self._neighbour_mask(layout, size, vertical, rng)] if crowded else [text]
        masks = [cv2.warpPerspective(mask, matrix, (width, height), flags=cv2.INTER_LINEAR) for mask in masks]
        centres = cv2.perspectiveTransform((layout.centres - np.float32(origin))[None], matrix)[0]
        return masks, np.clip(centres / np.float32([width, height]), 0, 1)

    def _restyled(self, text: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return the text's mask bolder, thinner or bent, so that few fonts look like many.

        Bending moves a character by a few hundredths of an em; its centre is left as it was.
        """
        if rng.random() < self.style.reweight:
            text = effects.reweighted(text, rng.uniform(*self.style.weight))
        if rng.random() < self.style.ripple:
            text = effects.rippled(rng, text, size * rng.uniform(0.02, 0.06), size * rng.uniform(0.3, 0.8))
        return text

    def _neighbour_mask(self, layout: glyphs.Layout, size: int, vertical: bool, rng: np.random.Generator) -> np.ndarray:
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


def _colour(masks: list[np.ndarray], style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return the (H, W, 3) float32 scene: background, neighbours, shadow, outline, text."""
    alpha, *others = (mask * np.float32(1 / 255) for mask in masks)
    text, ground = effects.text_colours(rng, style.min_contrast)
    contrast = abs(effects.luma(text) - effects.luma(ground))
    image = _background(alpha.shape, ground, contrast * 0.45, style, rng)
    for other in others:
        image = effects.blend(image, text if rng.random() < 0.7 else effects.colour_near(rng, ground, 90), other)
    if rng.random() < style.shadow:
        image = _with_shadow(image, alpha, ground, rng)
    if rng.random() < style.outline:
        image = _with_rim(image, masks[0], text, rng)
    return effects.blend(image, _text_fill(alpha.shape, text, contrast * 0.25, style, rng), alpha)


def _background(
    shape: tuple[int, int], ground: np.ndarray, reach: float, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Return the ground, on which nothing departs from its colour by much more than ``reach``: text stays legible."""
    image = effects.flat(shape, ground)
    chosen = rng.random(4) < (style.clutter, style.gradient, style.stripes, style.texture)
    clutter, gradient, stripes, texture = chosen.tolist()
    reach /= max(1, chosen.sum())
    if clutter:
        effects.add_clutter(rng, image, ground, reach)
    if gradient:
        image = effects.add_gradient(rng, image, reach)
    if stripes:
        effects.add_stripes(rng, image, reach)
    if texture:
        image = effects.add_texture(rng, image, reach)
    return image


def _text_fill(
    shape: tuple[int, int], text: np.ndarray, reach: float, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Return the text's colour, or for some an image in which it changes by ``reach``."""
    if rng.random() >= style.shaded_text:
        return text
    return effects.add_gradient(rng, effects.flat(shape, text), reach)


def _with_shadow(image: np.ndarray, alpha: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with the text's soft shadow, darker than the ground."""
    reach = 0.08 * min(alpha.shape)
    dx, dy = rng.uniform(-reach, reach, 2)
    shadow = cv2.GaussianBlur(effects.shifted(alpha, dx, dy), (0, 0), max(0.4, reach * rng.uniform(0.1, 0.5)))
    return effects.blend(image, ground * np.float32(rng.uniform(0.2, 0.6)), shadow * np.float32(rng.uniform(0.4, 0.9)))


def _with_rim(image: np.ndarray, mask: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a rim around the text, light around dark text and dark around light."""
    radius = max(1, round(min(mask.shape) * rng.uniform(0.02, 0.06)))
    level = 245.0 if effects.luma(text) < 128 else 15.0
    rim = effects.colour_near(rng, np.full(3, level, np.float32), 40)
    return effects.blend(image, rim, effects.fatter(mask, radius) * np.float32(1 / 255))


def _damage(image: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return the photograph of the scene, (H, W, 3) uint8: light, lens or resolution, sensor and compression."""
    relight, soft, grain, jpeg = rng.random(4).tolist()
    if relight < style.relight:
        image = effects.relight(rng, image, 0.3)
    # Blur and low resolution exclude each other: both at once leave nothing to read.
    if soft < style.blur:
        image = effects.blurred(rng, image, style.blur_strength)
    elif soft > 1 - style.low_resolution:
        image = effects.coarser(rng, image, 22)
    if grain < style.grain:
        effects.add_grain(rng, image, style.grain_strength)
    done = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return effects.recompressed(rng, done, style.jpeg_quality) if jpeg < style.jpeg else done
