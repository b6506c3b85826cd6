"""Light changes to a training crop that keep its text readable: geometry, light, blur and noise, in OpenCV."""

from __future__ import annotations

import cv2
import numpy as np


def augment(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Return a changed copy of ``image`` (H, W, C) uint8; ``strength`` scales every change, 0 changes nothing."""
    if strength <= 0:
        return image
    if rng.random() < 0.7:
        image = _warp(image, rng, strength)
    if rng.random() < 0.5:
        image = _light(image, rng, strength)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), 0.3 + 0.02 * strength * min(image.shape[:2]) * rng.random())
    if rng.random() < 0.25:
        image = _coarsen(image, rng, strength)
    if rng.random() < 0.25:
        image = _noise(image, rng, strength)
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


def _light(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    gain, offset = 1 + strength * rng.uniform(-0.35, 0.35), strength * rng.uniform(-40, 40)
    changed = cv2.convertScaleAbs(image, alpha=gain, beta=max(offset, -float(image.mean())))
    return 255 - changed if rng.random() < 0.1 else changed


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
