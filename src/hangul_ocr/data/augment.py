"""Changes to a training crop that keep its text readable: geometry, light, tones, sharpness and noise, in OpenCV.

As RandAugment does (Cubuk et al., arXiv 1909.13719, and PARSeq, arXiv 2207.06966, for text), each crop goes through a
few operations drawn from one list. Every operation takes (H, W, C) or (H, W) uint8 and a strength, 1 being plain.
"""

from __future__ import annotations

import cv2
import numpy as np

OPERATIONS_EACH = 2.5  # on average, at strength 1


def augment(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Return a changed copy of ``image`` (H, W, C) uint8; ``strength`` scales every change, 0 changes nothing."""
    if strength <= 0:
        return image
    chance = min(0.9, OPERATIONS_EACH / sum(share for _, share in OPERATIONS))
    for operation, share in OPERATIONS:
        if rng.random() < chance * share:
            image = operation(image, rng, strength)
    return image if image.ndim == 3 else image[:, :, None]


def _warp(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Move the four corners by up to 6 % of the short side, and shear by up to 8 % along the text."""
    height, width = image.shape[:2]
    short = min(height, width)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    moved = corners + rng.uniform(-0.06, 0.06, (4, 2)) * short * strength
    shift = rng.uniform(-0.08, 0.08) * short * strength
    moved[:2, 0] += shift
    moved[2:, 0] -= shift
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _rotate(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Turn by up to 6 degrees, less for long crops, and shrink so that their ends stay in the picture."""
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    limit = min(6.0, np.degrees(np.arctan(0.25 * short / long))) * strength
    angle = rng.uniform(-limit, limit)
    turned = short * np.cos(np.radians(angle)) + long * np.sin(np.radians(abs(angle)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, short / turned)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _light(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Change contrast and brightness, but cut few of the tones off: dark text on a dark ground must stay apart."""
    gain, offset = 1 + strength * rng.uniform(-0.35, 0.35), strength * rng.uniform(-40, 40)
    low, middle, high = _tones(image, 0.02, 0.5, 0.98) * gain
    offset = np.clip(offset, (low - middle) / 4 - low, 255 - high + (high - middle) / 4)
    table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _tones(image: np.ndarray, *shares: float) -> np.ndarray:
    """Return the tones below which these shares of the picture's values lie; np.percentile takes ten times as long."""
    values = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])
    return np.searchsorted(counts.ravel().cumsum(dtype=np.int64), np.array(shares) * values.size)


def _invert(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    return 255 - image


def _posterise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Keep 8 to 32 tones, of a picture whose text and ground lie several of these apart."""
    step = int(256 / rng.integers(8, 33))
    low, high = _tones(image, 0.05, 0.95)
    if high - low < 2 * step:
        return image
    table = np.minimum(np.arange(256) // step * step + step // 2, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _equalise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Stretch the tones to the whole range."""
    low, high = _tones(image, 0.01, 0.99)
    if high - low < 40:  # a flat picture would show its noise alone
        return image
    return np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _sharpen(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    amount = strength * rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.2), -amount, 0)


def _blur(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 0.3 + 0.02 * strength * min(image.shape[:2]) * rng.random())


def _motion(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Blur along a line of up to an eighth of the short side, as a moving camera does."""
    length = int(3 + strength * rng.random() * min(image.shape[:2]) / 8)
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    middle = (length - 1) / 2
    start, end = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _coarsen(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Lose detail as a small or distant photograph does, but keep some 14 pixels across the text."""
    height, width = image.shape[:2]
    scale = max(1 - strength * rng.uniform(0.2, 0.6), 14 / min(height, width))
    if scale >= 1:
        return image
    size = max(4, round(width * scale)), max(4, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _noise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    noise = rng.normal(0, strength * rng.uniform(2, 12), image.shape[:2]).astype(np.float32)
    noise = noise.reshape(noise.shape + (1,) * (image.ndim - 2))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


# What may be done, in this order, and how often one is drawn beside the others.
OPERATIONS = (
    (_warp, 1.0),
    (_rotate, 0.4),
    (_light, 0.7),
    (_equalise, 0.2),
    (_posterise, 0.15),
    (_invert, 0.1),
    (_blur, 0.35),
    (_motion, 0.2),
    (_sharpen, 0.2),
    (_coarsen, 0.35),
    (_noise, 0.35),
)
