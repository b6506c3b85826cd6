"""From masks to a photograph: the ground and what lies on it, the letters' make, then light, lens and compression.

Masks are (H, W) uint8 in crop pixels, images (H, W, 3) float32 in 0..255 until the photograph, which is uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hangul_ocr.synthesis import effects
from hangul_ocr.synthesis.style import Style


@dataclass(frozen=True)
class Masks:
    """Where things lie in a crop: the text, other text cut by the edge, a panel behind each character."""

    text: np.ndarray
    neighbours: np.ndarray | None = None
    panels: np.ndarray | None = None

    def warped(self, matrix: np.ndarray, size: tuple[int, int]) -> Masks:
        """Return the masks under a perspective ``matrix`` (3, 3), ``size`` (width, height) in pixels."""
        found = (self.text, self.neighbours, self.panels)
        return Masks(
            *(None if m is None else cv2.warpPerspective(m, matrix, size, flags=cv2.INTER_LINEAR) for m in found)
        )


def paint_scene(masks: Masks, centres: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return the (H, W, 3) float32 scene: background, neighbours, panels, shadow, outline, text."""
    alpha = masks.text * np.float32(1 / 255)
    text, ground = effects.text_colours(rng, style.min_contrast)
    contrast = abs(effects.luma(text) - effects.luma(ground))
    image = _background(alpha.shape, ground, contrast * 0.45, style, rng)
    if masks.panels is not None:
        outside = effects.colour_near(rng, text if rng.random() < 0.3 else ground, 110)
        image = effects.blend(effects.flat(alpha.shape, outside), image, masks.panels * np.float32(1 / 255))
    if masks.neighbours is not None:
        colour = text if rng.random() < 0.7 else effects.colour_near(rng, ground, 90)
        image = effects.blend(image, colour, masks.neighbours * np.float32(1 / 255))
    image = _under_text(image, masks.text, alpha, text, ground, style, rng)
    fill = _text_fill(alpha.shape, text, ground, contrast, centres, style, rng)
    return effects.blend(image, fill, alpha)


def _under_text(
    image: np.ndarray,
    mask: np.ndarray,
    alpha: np.ndarray,
    text: np.ndarray,
    ground: np.ndarray,
    style: Style,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the image with what the letters throw or stand on: shadow, rim, sides of solid letters, glow."""
    shadow, outline, extrusion, glow = (
        rng.random(4) < (style.shadow, style.outline, style.extrusion, style.glow)
    ).tolist()
    if shadow:
        image = _with_shadow(image, alpha, ground, rng)
    if extrusion:
        image = effects.extruded(rng, image, alpha, text * np.float32(rng.uniform(0.35, 0.75)))
    if outline:
        image = _with_rim(image, mask, text, rng)
    # Only light letters can shine.
    if glow and effects.luma(text) > effects.luma(ground):
        image = effects.glowing(rng, image, alpha, text)
    return image


def _background(
    shape: tuple[int, int], ground: np.ndarray, reach: float, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Return the ground, on which nothing departs from its colour by much more than ``reach``: text stays legible."""
    image = effects.flat(shape, ground)
    chosen = rng.random(5) < (style.clutter, style.gradient, style.stripes, style.texture, style.photo)
    clutter, gradient, stripes, texture, photo = chosen.tolist()
    reach /= max(1, chosen.sum())
    if photo:
        image = effects.add_photograph(rng, image, reach * 1.3)
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
    shape: tuple[int, int],
    text: np.ndarray,
    ground: np.ndarray,
    contrast: float,
    centres: np.ndarray,
    style: Style,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the text's colour, or for some an image in which it changes: slowly, or from one character to the next."""
    chance = rng.random()
    if chance < style.shaded_text:
        return effects.add_gradient(rng, effects.flat(shape, text), contrast * 0.25)
    if chance < style.shaded_text + style.tones and len(centres) > 1:
        return _two_tones(shape, text, ground, contrast, centres, rng)
    return text


def _two_tones(
    shape: tuple[int, int],
    text: np.ndarray,
    ground: np.ndarray,
    contrast: float,
    centres: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the colour image of a text one end of which is set in another colour, as headlines do."""
    second = effects.colour_near(rng, text, 160)
    if abs(effects.luma(second) - effects.luma(ground)) < 0.6 * contrast:
        second = effects.colour_near(rng, text, 0.3 * contrast)
    height, width = shape
    image = effects.flat(shape, text)
    place = int(rng.integers(1, len(centres)))
    cut = centres[place - 1 : place + 1].mean(axis=0) * (width, height)
    if np.ptp(centres[:, 0]) * width >= np.ptp(centres[:, 1]) * height:
        image[:, : int(cut[0])] = second
    else:
        image[: int(cut[1])] = second
    return image


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


def photograph(image: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return the photograph of the scene, (H, W, 3) uint8: what is in the way, light, lens, sensor, compression."""
    occlusion, reflection, relight, night, soft, grain, jpeg = rng.random(7).tolist()
    if style.weave and rng.random() < style.weave:
        image = effects.woven(rng, image)
    if occlusion < style.occlusion:
        effects.occlude(rng, image)
    if reflection < style.reflection:
        image = effects.with_reflection(rng, image)
    if relight < style.relight:
        image = effects.relight(rng, image, 0.3)
    if night < style.night:
        image = effects.at_night(rng, image)
    # Blur and low resolution exclude each other: both at once leave nothing to read.
    if soft < style.blur:
        image = effects.blurred(rng, image, style.blur_strength)
    elif soft > 1 - style.low_resolution:
        image = effects.coarser(rng, image, 22)
    if grain < style.grain:
        effects.add_grain(rng, image, style.grain_strength)
    done = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return effects.recompressed(rng, done, style.jpeg_quality) if jpeg < style.jpeg else done
