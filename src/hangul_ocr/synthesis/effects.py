"""Colours, backgrounds and damage of synthetic crops. Images are (H, W, 3) float32 in 0..255 unless said.

Everything draws from the generator that is passed in and nothing else, so a crop is the same in every process.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_MAX_TRIES = 12


def luma(colour: np.ndarray) -> float:
    """Return the brightness (0..255) of one RGB colour."""
    return float(colour @ LUMA)


def text_colours(rng: np.random.Generator, min_contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (text, background) RGB float32 colours whose luma differs by ``min_contrast`` at least."""
    drawn = rng.random((_MAX_TRIES, 2, 3), np.float32) * np.float32(255)
    levels = drawn @ LUMA
    enough = np.flatnonzero(np.abs(levels[:, 0] - levels[:, 1]) >= min_contrast)
    if not len(enough):
        dark, light = np.full(3, 25, np.float32), np.full(3, 230, np.float32)
        return (dark, light) if rng.random() < 0.5 else (light, dark)
    pair, level = drawn[enough[0]], levels[enough[0], :, None]
    # A third of all colours are grey and most others muted, luma kept: signs are loud, but print and street are not.
    vivid = np.clip(rng.random((2, 1), np.float32) * 1.8 - 0.6, 0, 1)
    pair = level + (pair - level) * vivid
    _whiten_or_blacken(rng, pair, int(level[0, 0] < level[1, 0]))
    return pair[0], pair[1]


def _whiten_or_blacken(rng: np.random.Generator, pair: np.ndarray, lighter: int) -> None:
    """Make the lighter of two colours almost white, the darker almost black, or neither: paper, ink, white letters."""
    chance = rng.random()
    if chance < 0.35:
        pair[lighter] = rng.uniform(225, 255)
    if 0.25 < chance < 0.5:
        pair[1 - lighter] = rng.uniform(0, 40)


def colour_near(rng: np.random.Generator, colour: np.ndarray, reach: float) -> np.ndarray:
    """Return a colour whose channels lie at most ``reach`` from those of ``colour``."""
    return np.clip(colour + rng.uniform(-reach, reach, 3).astype(np.float32), 0, 255)


def flat(shape: tuple[int, int], colour: np.ndarray) -> np.ndarray:
    """Return an image of one colour."""
    return cv2.merge([np.full(shape, channel, np.float32) for channel in colour])


def ramp(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return an (H, W) float32 linear ramp from -1 to 1 in a random direction."""
    angle = rng.random() * 2 * math.pi
    cos, sin = math.cos(angle), math.sin(angle)
    scale = 1 / (abs(cos) + abs(sin))
    return _line(cos * scale, shape[1])[None, :] + _line(sin * scale, shape[0])[:, None]


def _line(end: float, n: int) -> np.ndarray:
    """Return n float32 values from -end to end; np.linspace takes four times as long."""
    return np.arange(n, dtype=np.float32) * np.float32(2 * end / max(1, n - 1)) - np.float32(end)


def add_gradient(rng: np.random.Generator, image: np.ndarray, reach: float) -> np.ndarray:
    """Return the image with a linear change of colour, at most ``reach`` at the ends."""
    plane = ramp(rng, image.shape[:2])
    return cv2.add(image, cv2.merge([plane * np.float32(end) for end in rng.uniform(-reach, reach, 3)]))


def add_texture(rng: np.random.Generator, image: np.ndarray, reach: float) -> np.ndarray:
    """Return the image with soft blotches (low-frequency noise) of about ``reach``."""
    height, width = image.shape[:2]
    cell = rng.uniform(0.15, 0.8) * min(height, width)
    coarse = rng.uniform(-reach, reach, (int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return cv2.add(image, _grey(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)))


def _grey(plane: np.ndarray) -> np.ndarray:
    """Return (H, W) as (H, W, 3): numpy's own broadcast along the last axis is several times slower."""
    return cv2.merge([plane, plane, plane])


def add_clutter(rng: np.random.Generator, image: np.ndarray, colour: np.ndarray, reach: float) -> None:
    """Draw lines, blocks and discs in colours near ``colour`` (bricks, frames, ornaments), in place."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        near = tuple(map(float, colour_near(rng, colour, reach)))
        (x0, y0), (x1, y1) = (rng.random((2, 2)) * 1.2 - 0.1) * (width, height)
        first, second = (int(x0), int(y0)), (int(x1), int(y1))
        match int(rng.integers(3)):
            case 0:
                cv2.rectangle(image, first, second, near, -1)
            case 1:
                cv2.line(image, first, second, near, int(rng.integers(1, max(2, height // 6) + 1)), cv2.LINE_AA)
            case 2:
                cv2.circle(image, first, int(rng.uniform(0.1, 0.6) * min(height, width)) + 1, near, -1, cv2.LINE_AA)


def add_stripes(rng: np.random.Generator, image: np.ndarray, reach: float) -> None:
    """Add regular stripes (shutters, panels, paper lines) of at most ``reach``, in place."""
    height, width = image.shape[:2]
    period = rng.uniform(0.12, 0.6) * min(height, width)
    down = rng.random() < 0.5
    along = np.arange(height if down else width, dtype=np.float32)
    wave = np.sign(np.sin(along * np.float32(2 * np.pi / period))) * np.float32(rng.uniform(-reach, reach))
    image += wave[:, None, None] if down else wave[None, :, None]


def blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return ``image`` with ``colour`` (one RGB colour or an image) laid over it by ``alpha`` (H, W) in 0..1."""
    layer = colour if colour.ndim == 3 else flat(alpha.shape, colour)
    layer = cv2.subtract(layer, image)
    return cv2.add(image, cv2.multiply(layer, _grey(alpha), dst=layer), dst=layer)


def shifted(mask: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Return ``mask`` moved by (dx, dy) pixels."""
    return cv2.warpAffine(mask, np.array([[1, 0, dx], [0, 1, dy]], np.float32), mask.shape[::-1])


def fatter(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return ``mask`` grown by ``radius`` pixels."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask, kernel)


def reweighted(mask: np.ndarray, weight: float) -> np.ndarray:
    """Return ``mask`` with bolder (``weight`` > 0) or thinner (< 0) strokes: blended with its dilation or erosion."""
    changed = (cv2.dilate if weight > 0 else cv2.erode)(mask, _SQUARE)
    return cv2.addWeighted(mask, 1 - abs(weight), changed, abs(weight), 0)


_SQUARE = np.ones((3, 3), np.uint8)


def rippled(rng: np.random.Generator, mask: np.ndarray, reach: float, cell: float) -> np.ndarray:
    """Return ``mask`` with its strokes bent by at most ``reach`` pixels over waves of about ``cell`` pixels."""
    height, width = mask.shape
    coarse = rng.uniform(-reach, reach, (int(height / cell) + 2, int(width / cell) + 2, 2)).astype(np.float32)
    waves = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    across = waves[..., 0] + np.arange(width, dtype=np.float32)
    down = waves[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(mask, across, down, cv2.INTER_LINEAR)


def dotted(rng: np.random.Generator, mask: np.ndarray, size: int) -> np.ndarray:
    """Return ``mask``, ``size`` pixels an em, as a matrix of round dots: boards of lamps, dates printed by jets."""
    pitch = size / rng.uniform(14, 22)
    height, width = mask.shape
    rows, columns = max(1, round(height / pitch)), max(1, round(width / pitch))
    cells = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA)
    # A stroke thinner than a cell may lie half in one and half in the next: both must light up, or it is lost.
    least = min(90.0, 0.4 * 255 * _stroke_width(mask) / pitch)
    cells = cv2.resize(
        np.where(cells > least, mask.max(), 0).astype(np.uint8), (width, height), None, 0, 0, cv2.INTER_NEAREST
    )
    across, down = _from_middle(width, columns), _from_middle(height, rows)
    radius = rng.uniform(0.4, 0.62)
    dots = np.clip((radius - np.hypot(across[None, :], down[:, None])) * np.float32(pitch) + 0.5, 0, 1)
    return (cells * dots).astype(np.uint8)


def _stroke_width(mask: np.ndarray) -> float:
    """Return the usual width of the strokes in pixels: twice their area by the length of their edges."""
    ink = cv2.compare(mask, float(mask.max()) / 2, cv2.CMP_GT)
    area, grown = cv2.countNonZero(ink), cv2.countNonZero(cv2.dilate(ink, _SQUARE))
    return 2 * area / max(1, grown - area)


def _from_middle(pixels: int, cells: int) -> np.ndarray:
    """Return how far each of ``pixels`` lies from the middle of its cell, in cells."""
    return ((np.arange(pixels, dtype=np.float32) + 0.5) * np.float32(cells / pixels)) % 1 - np.float32(0.5)


def woven(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image as threads show it, over and under each other: labels in clothes, banners, awnings."""
    height, width = image.shape[:2]
    pitch = max(1.6, min(height, width) * rng.uniform(0.04, 0.12))
    across = np.sin(np.arange(width, dtype=np.float32) * np.float32(2 * np.pi / pitch))
    down = np.sin(np.arange(height, dtype=np.float32) * np.float32(2 * np.pi / pitch))
    threads = 1 + down[:, None] * across[None, :] * np.float32(rng.uniform(0.1, 0.35))
    return cv2.multiply(image, _grey(threads))


def blurred(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    """Return the image out of focus or, one time in three, moved; ``strength`` in pixels for the height of 48."""
    reach = strength * min(image.shape[:2]) / 48
    # The shortest motion is three pixels, as wide as the gap between the strokes of a small syllable.
    if rng.random() < 0.67 or min(image.shape[:2]) < 36:
        return cv2.GaussianBlur(image, (0, 0), max(0.3, rng.uniform(0.3, 1.0) * reach))
    return cv2.filter2D(image, -1, _motion_kernel(rng.uniform(1.0, 2.4) * reach, rng.random() * np.pi))


def _motion_kernel(length: float, angle: float) -> np.ndarray:
    half = max(1, round(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    end = np.array([np.cos(angle), np.sin(angle)]) * half
    first, last = (half - end).round().astype(int), (half + end).round().astype(int)
    cv2.line(kernel, tuple(map(int, first)), tuple(map(int, last)), 1.0)
    return kernel / kernel.sum()


def relight(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    """Return the image under a linear change of light between 1 - strength and 1 + strength."""
    return cv2.multiply(image, _grey(1 + ramp(rng, image.shape[:2]) * np.float32(rng.uniform(0, strength))))


def add_grain(rng: np.random.Generator, image: np.ndarray, strength: float) -> None:
    """Add sensor noise with a standard deviation of at most ``strength``, in place."""
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    image += (grain.astype(np.float32) - 127.5) * np.float32(rng.uniform(0.1, 1.0) * strength / 74)


def coarser(rng: np.random.Generator, image: np.ndarray, smallest: float) -> np.ndarray:
    """Return the image scaled down to a short side of at least ``smallest`` pixels and up again."""
    height, width = image.shape[:2]
    factor = max(rng.uniform(0.35, 0.9), smallest / min(height, width))
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def recompressed(rng: np.random.Generator, image: np.ndarray, quality: tuple[int, int]) -> np.ndarray:
    """Return the uint8 RGB image after JPEG compression."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*quality))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def add_photograph(rng: np.random.Generator, image: np.ndarray, reach: float) -> np.ndarray:
    """Return the image with a piece of a real photograph laid over it, its tones within about ``reach``."""
    photographs = _photographs()
    source = photographs[int(rng.integers(len(photographs)))]
    height, width = image.shape[:2]
    scale = min(1.0, source.shape[0] / height, source.shape[1] / width) * rng.uniform(0.25, 1.0)
    part_h, part_w = max(2, int(height * scale)), max(2, int(width * scale))
    y, x = int(rng.integers(source.shape[0] - part_h + 1)), int(rng.integers(source.shape[1] - part_w + 1))
    part = cv2.resize(source[y : y + part_h, x : x + part_w], (width, height), interpolation=cv2.INTER_LINEAR)
    part = part.astype(np.float32)
    spread = max(8.0, float(part.std()))
    return cv2.add(image, cv2.multiply(cv2.subtract(part, cv2.mean(part)), (reach / (2 * spread),) * 4))


@lru_cache(maxsize=1)
def _photographs() -> list[np.ndarray]:
    """Return the two photographs that scikit-learn ships (CC BY, see its documentation), RGB uint8."""
    from sklearn.datasets import load_sample_images

    return [np.ascontiguousarray(photograph) for photograph in load_sample_images().images]


def extruded(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return the image with the sides of solid letters, in the colour ``side``, seen from one corner."""
    depth = max(1, round(0.07 * min(alpha.shape) * rng.uniform(0.4, 1.0)))
    dx, dy = (int(step) for step in rng.choice([-1, 1], 2))
    body = alpha
    for step in range(1, depth + 1):
        body = cv2.max(body, shifted(alpha, dx * step, dy * step))
    return blend(image, side, body)


def glowing(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the image lit by letters that shine (neon, light boxes) in ``colour``."""
    radius = min(alpha.shape) * rng.uniform(0.05, 0.16)
    halo = cv2.GaussianBlur(alpha, (0, 0), max(0.6, radius)) * np.float32(rng.uniform(0.4, 0.9))
    return blend(image, colour, np.minimum(halo, 0.75))


def occlude(rng: np.random.Generator, image: np.ndarray) -> None:
    """Put a wire, a pole or a leaf before the scene, thinner than a syllable, in place."""
    height, width = image.shape[:2]
    short = min(height, width)
    colour = tuple(map(float, rng.uniform(0, 255, 3)))
    start, end = (rng.random((2, 2)) * 1.4 - 0.2) * (width, height)
    if rng.random() < 0.7:
        thickness = max(1, int(short * rng.uniform(0.02, 0.1)))
        cv2.line(image, tuple(map(int, start)), tuple(map(int, end)), colour, thickness, cv2.LINE_AA)
    else:
        axes = (max(2, int(short * rng.uniform(0.05, 0.16))), max(2, int(short * rng.uniform(0.05, 0.25))))
        cv2.ellipse(image, tuple(map(int, start)), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def with_reflection(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image with a band of light across it, as glass and glossy covers show."""
    plane = ramp(rng, image.shape[:2])
    band = np.exp(-(((plane - np.float32(rng.uniform(-0.8, 0.8))) / np.float32(rng.uniform(0.08, 0.4))) ** 2))
    return blend(image, np.full(3, 255, np.float32), band * np.float32(rng.uniform(0.15, 0.45)))


def at_night(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image in little light of one colour, with a sensor's noise."""
    tint = rng.uniform(0.8, 1.0, 3) * rng.uniform(0.5, 0.8)
    dark = cv2.multiply(image, (*tint.tolist(), 0.0))
    add_grain(rng, dark, 16.0)
    return dark


def bent(
    mask: np.ndarray, points: np.ndarray, pad: int, angle: float
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Return ``mask`` (H, W) laid along an arc of ``angle`` radians (above 0 its middle rises), its ``points`` (n, 2).

    The text's box is the mask less ``pad`` on each side; the third value is the box (x0, y0, x1, y1) of the bent text.
    """
    height, width = mask.shape
    box_w, box_h = width - 2 * pad, height - 2 * pad
    radius = box_w / abs(angle)  # of the text's middle line
    upwards = 1.0 if angle > 0 else -1.0
    half = abs(angle) / 2
    new_w = math.ceil(2 * (radius + box_h / 2) * math.sin(half))
    new_h = math.ceil(box_h + radius * (1 - math.cos(half)) + box_h / 2 * (1 - math.cos(half)))
    size = (new_w + 2 * pad, new_h + 2 * pad)
    centre_x = size[0] / 2
    centre_y = pad + box_h / 2 + radius if upwards > 0 else size[1] - pad - box_h / 2 - radius
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32) - centre_x, np.arange(size[1], dtype=np.float32) - centre_y)
    distance = np.hypot(x, y)
    turn = np.arctan2(x, -upwards * y)
    source_x = np.float32(width / 2) + turn * np.float32(radius)
    source_y = np.float32(height / 2) - np.float32(upwards) * (distance - np.float32(radius))
    turns = (points[:, 0] - width / 2) / radius
    reach = radius - upwards * (points[:, 1] - height / 2)
    moved = np.stack([centre_x + reach * np.sin(turns), centre_y - upwards * reach * np.cos(turns)], axis=1)
    bent_mask = cv2.remap(mask, source_x.astype(np.float32), source_y.astype(np.float32), cv2.INTER_LINEAR)
    return bent_mask, moved.astype(np.float32), (pad, pad, pad + new_w, pad + new_h)
