"""Test-time views (test-time augmentation): a crop a little changed and read once more, as one more member.

Each keeps the whole text in the picture, and is the same for the same crop every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from hangul_ocr.data.crops import TALL, Crop
from hangul_ocr.hangul import HangulOcrError

PLAIN = "plain"
SMALLER = "smaller"  # the crop as it is, at the size of the network's first look, if it has one
STRETCH = 1.2  # about as far as from one of the batches' ratios to the next
SHIFT = 0.125  # of the short side: half a time step of most networks here
ROOM = 0.06  # of the short side, on each side
CUT = 0.03


def view(crop: Crop, name: str) -> Crop:
    """Return ``crop`` as the view ``name`` shows it: same key and text, another image (H, W, 3) uint8."""
    return Crop(crop.key, VIEWS[name](crop.image), crop.text)


def known_views(names: Sequence[str]) -> list[str]:
    """Return ``names`` without repeats and without ``plain``. Raises ``HangulOcrError`` for an unknown one."""
    unknown = [name for name in names if name not in VIEWS]
    if unknown:
        raise HangulOcrError(f"view {unknown[0]!r} is unknown; choose among {', '.join(list(VIEWS)[1:])}")
    return [name for name in dict.fromkeys(names) if name != PLAIN]


def _tall(image: np.ndarray) -> bool:
    return image.shape[0] > TALL * image.shape[1]


def _short_side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def _shifted(image: np.ndarray) -> np.ndarray:
    """Move the text on by half a time step: its strokes fall differently into the network's grid."""
    room = max(1, round(SHIFT * _short_side(image)))
    before = (room, 0) if _tall(image) else (0, room)
    return cv2.copyMakeBorder(image, before[0], 0, before[1], 0, cv2.BORDER_REPLICATE)


def _stretched(image: np.ndarray, factor: float) -> np.ndarray:
    """Change the scale along the text alone, as far as the crop stays what it is, upright or lying."""
    height, width = image.shape[:2]
    size = (width, round(height * factor)) if _tall(image) else (round(width * factor), height)
    way = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_AREA
    changed = cv2.resize(image, (max(1, size[0]), max(1, size[1])), interpolation=way)
    return changed if _tall(changed) == _tall(image) else image


def _wider(image: np.ndarray) -> np.ndarray:
    return _stretched(image, STRETCH)


def _narrower(image: np.ndarray) -> np.ndarray:
    return _stretched(image, 1 / STRETCH)


def _farther(image: np.ndarray) -> np.ndarray:
    """Make the text smaller: room on all sides, of the colours at the edge."""
    room = max(1, round(ROOM * _short_side(image)))
    return cv2.copyMakeBorder(image, room, room, room, room, cv2.BORDER_REPLICATE)


def _closer(image: np.ndarray) -> np.ndarray:
    """Make the text larger: a thin edge is cut off. A crop of a few pixels stays as it is."""
    cut = round(CUT * _short_side(image))
    return image[cut:-cut, cut:-cut].copy() if cut and _short_side(image) > 8 else image


def _turned(image: np.ndarray) -> np.ndarray:
    """Turn a tall crop a quarter to the left: a book's spine, whose line runs down lying on its side, becomes level.

    A crop that is not tall stays as it is.
    """
    return np.ascontiguousarray(np.rot90(image)) if _tall(image) else image


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    PLAIN: _as_it_is,
    "shifted": _shifted,
    "wider": _wider,
    "narrower": _narrower,
    SMALLER: _as_it_is,
    "farther": _farther,
    "closer": _closer,
    "turned": _turned,
}
