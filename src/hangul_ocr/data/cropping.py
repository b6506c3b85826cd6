"""Words cut out of a photograph, which is decoded once for all of them.

A recogniser sees crops 32 or 48 pixels high; annotators draw boxes on photographs of twelve million pixels. A JPEG is
decoded at a half, a quarter or an eighth of its size if every crop of it keeps enough pixels, which costs a fraction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from hangul_ocr.data.archives import StoredFile, UnreadableFile
from hangul_ocr.data.images import (
    LONGEST_JPEG,
    REDUCED,
    Size,
    UnreadableImage,
    check_image,
    decode_image,
    is_whole_jpeg,
    stored_size,
)
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample, shortened

# Nobody reads a word that is lower than this, in pixels.
SMALLEST = 4
# Of a box that leaves the photograph, as much must lie inside for its label to be what is seen.
LEAST_INSIDE = 0.5
_FARTHEST = 1e6
# OpenCV straightens neither from nor to an image with a longer side.
_LONGEST_STRAIGHTENED = 32_766
_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}
_SIDEWAYS = frozenset({5, 6, 7, 8})


class BadBox(Exception):
    """A box that says no place; the message is the reason of a ``LeftOut``."""


@dataclass(frozen=True, eq=False)
class Region:
    """A word's place in a photograph: ``quad`` (4, 2) float64, pixel corners (x, y) clockwise from the text's top left.

    The crop is turned by ``turns`` quarter turns clockwise once it is cut.
    """

    key: str
    text: str
    quad: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)
    turns: int = 0


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph and the words in it: work that yields one sample for each.

    ``declared`` is the size (width, height) that the annotations are for, None if they do not say. With
    ``turned_if_swapped`` a photograph whose width and height are declared the other way round is turned clockwise.
    """

    image: StoredFile
    regions: Sequence[Region]
    source: str
    group: str
    declared: Size | None = None
    turned_if_swapped: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        """Yield each region as a JPEG crop, or why it is left out.

        Reasons, beside those of its label: ``unreadable image``, ``size mismatch`` (another size than declared), ``box
        without size``, ``box outside the image`` (more than half of it), ``box too small``, ``crop too long``.
        """
        wanted = []
        for region in self.regions:
            if reason := settings.fault(region.key, region.text):
                yield LeftOut(region.key, reason, shortened(region.text))
            else:
                wanted.append(region)
        if wanted:
            yield from self._cut(wanted, settings)

    def _cut(self, regions: list[Region], settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        try:
            data = self.image.read()
            frame = self._frame(data)
            placed = [_place(region, frame, settings) for region in regions]
            cuts = [item for item in placed if isinstance(item, _Cut)]
            picture = _decode(data, min((cut.reduction for cut in cuts), default=8), frame) if cuts else None
        except (UnreadableFile, UnreadableImage) as error:
            yield from (LeftOut(region.key, "unreadable image", str(error)) for region in regions)
            return
        except BadBox as error:
            yield from (LeftOut(region.key, "size mismatch", str(error)) for region in regions)
            return
        for item in placed:
            yield item if isinstance(item, LeftOut) else self._sample(item, picture, settings)

    def _sample(self, cut: _Cut, picture: _Picture, settings: ImportSettings) -> Sample | LeftOut:
        try:
            pixels = picture.cut(cut)
        except BadBox as error:
            return LeftOut(cut.region.key, str(error), f"{max(_sides(cut.quad)):.0f} pixels")
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, settings.quality])[1].tobytes()
        facts = {**self.facts, **cut.region.facts, "photograph": self.image.name}
        return Sample(cut.region.key, data, cut.region.text, self.source, self.group, facts)

    def _frame(self, data: bytes) -> _Frame:
        """Return how the annotations' pixels lie in the upright photograph. Raises ``BadBox`` if nothing explains."""
        width, height, orientation = stored_size(data)
        upright = (height, width) if orientation in _SIDEWAYS else (width, height)
        if self.declared in (None, upright):
            return _Frame(upright)
        if self.declared == (width, height):  # The annotators' tool did not know of EXIF orientation.
            return _Frame(upright, lambda points: _turned_points(points, width, height, orientation))
        if self.turned_if_swapped and self.declared == upright[::-1]:
            return _Frame(self.declared, turn=True)
        raise BadBox(f"{upright[0]} x {upright[1]} pixels, declared {self.declared[0]} x {self.declared[1]}")


@dataclass(frozen=True)
class _Frame:
    """The upright photograph's size, the way from the annotations' points to its own, and whether to turn it."""

    size: Size
    upright: Callable[[np.ndarray], np.ndarray] | None = None
    turn: bool = False


@dataclass(frozen=True, eq=False)
class _Cut:
    """A region with its final corners in the upright photograph, and how often its crop may be halved (1, 2, 4, 8)."""

    region: Region
    quad: np.ndarray
    reduction: int


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded photograph, (H, W, 3) BGR, and what its full size's pixels are multiplied by, (x, y)."""

    pixels: np.ndarray
    scale: np.ndarray
    reduction: int

    def cut(self, cut: _Cut) -> np.ndarray:
        """Return the crop as it is stored. Raises ``BadBox`` if it is too long for that."""
        quad = cut.quad * self.scale
        crop = self._rectangle(quad) if _is_level(quad) else self._straightened(quad)
        if (further := cut.reduction // self.reduction) > 1:
            height, width = crop.shape[:2]
            size = (max(1, round(width / further)), max(1, round(height / further)))
            crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        if max(crop.shape) > LONGEST_JPEG:
            raise BadBox("crop too long")
        return cv2.rotate(crop, _TURNS[cut.region.turns]) if cut.region.turns else crop

    def _rectangle(self, quad: np.ndarray) -> np.ndarray:
        height, width = self.pixels.shape[:2]
        left, top = np.floor(quad.min(axis=0) + 1e-6).astype(int).clip(0, (width - 1, height - 1))
        right, bottom = np.ceil(quad.max(axis=0) - 1e-6).astype(int).clip((left + 1, top + 1), (width, height))
        return self.pixels[top:bottom, left:right]

    def _straightened(self, quad: np.ndarray) -> np.ndarray:
        width, height = (max(1, round(length)) for length in _sides(quad))
        pixels, quad = self._surroundings(quad)
        if max(*pixels.shape, width, height) > _LONGEST_STRAIGHTENED:
            raise BadBox("crop too long")
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
        return cv2.warpPerspective(pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)

    def _surroundings(self, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of a very long photograph that a tilted box needs, and where the box lies in it."""
        if max(self.pixels.shape) <= _LONGEST_STRAIGHTENED:
            return self.pixels, quad
        height, width = self.pixels.shape[:2]
        left, top = np.floor(quad.min(axis=0) - 2).astype(int).clip(0, (width - 1, height - 1))
        right, bottom = np.ceil(quad.max(axis=0) + 2).astype(int).clip((left + 1, top + 1), (width, height))
        return self.pixels[top:bottom, left:right], quad - (left, top)


def parse_box(value: object) -> np.ndarray:
    """Return the corners (4, 2) of a box as AI Hub writes it: ``[x, y, w, h]``, four ``[x, y]``, or these as JSON text.

    Raises ``BadBox``: ``no box`` for anything else, nulls included, ``box without size``, and ``box outside the image``
    for numbers beyond every image.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadBox("no box") from None
    if not isinstance(value, list) or len(value) not in (4, 8):
        raise BadBox("no box")
    nested = [item for entry in value for item in (entry if isinstance(entry, list) else [entry])]
    numbers = np.array([coordinate(item) for item in nested])
    if len(numbers) == 8:
        return _as_quad(numbers.reshape(4, 2))
    if len(numbers) != 4 or len(value) != 4:
        raise BadBox("no box")
    return rectangle(*numbers)


def rectangle(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return the corners (4, 2) of an upright box. Raises ``BadBox`` if it is empty or inside out."""
    if not (width > 0 and height > 0):
        raise BadBox("box without size")
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], float)


_LEVEL = 8  # degrees


def _has_level_edges(boxes: np.ndarray, along: np.ndarray) -> bool:
    """Tell whether only the size of a character moved the centres (a comma, a raised mark): both edges must drift."""
    across = int(abs(along[0]) >= abs(along[1]))
    if along[1 - across] <= 0:
        return False
    near = boxes[-1, across] - boxes[0, across]
    far = near + boxes[-1, across + 2] - boxes[0, across + 2]
    drift = min(abs(near), abs(far)) if near * far > 0 else 0.0
    return drift < math.tan(math.radians(_LEVEL)) * along[1 - across]


def runs_left(boxes: np.ndarray) -> bool:
    """Tell whether a word's characters, (n, 4) x, y, w, h in order, run level from right to left."""
    along = _along(boxes)
    return bool(along.any()) and 180 - abs(_degrees(along)) < _LEVEL


def quad_of_characters(boxes: np.ndarray) -> np.ndarray | None:
    """Return the corners (4, 2) of a tilted word from its characters' upright boxes, (n, 4) x, y, w, h in order.

    None if the word is level or runs straight down, where the word's own box does. A character that is turned fills
    more of its upright box: its own size is taken to be that of a square turned by the word's angle.
    """
    along = _along(boxes)
    if not along.any():
        return None
    angle = _degrees(along)
    if min(abs(angle), abs(angle - 90)) < _LEVEL or _has_level_edges(boxes, along):
        return None
    along = along / np.linalg.norm(along)
    # Text that runs mostly down is stacked: its reading direction is the crop's height.
    right = np.array([along[1], -along[0]]) if 45 < angle < 135 else along
    axes = np.stack([right, np.array([-right[1], right[0]])])
    half = boxes[:, 2:] / 2 / (abs(right[0]) + abs(right[1]))
    places = (boxes[:, :2] + boxes[:, 2:] / 2) @ axes.T
    low, high = (places - half).min(axis=0), (places + half).max(axis=0)
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    return corners @ axes


def _along(boxes: np.ndarray) -> np.ndarray:
    """Return the way (x, y) from the middle of a word's first character to that of its last."""
    centres = boxes[[0, -1], :2] + boxes[[0, -1], 2:] / 2
    return centres[1] - centres[0]


def _degrees(along: np.ndarray) -> float:
    return math.degrees(math.atan2(along[1], along[0]))


def coordinate(value: object) -> float:
    """Return a number of a box, written as number or text. Raises ``BadBox`` for others, and those beyond any image."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadBox("no box")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise BadBox("no box") from None
    if not math.isfinite(number):
        raise BadBox("no box")
    if abs(number) > _FARTHEST:
        raise BadBox("box outside the image")
    return number


def _as_quad(points: np.ndarray) -> np.ndarray:
    """Return four corners clockwise, the top edge first; the upright box around them if they cross."""
    low, high = points.min(axis=0), points.max(axis=0)
    edges = np.roll(points, -1, axis=0) - points
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if (turns < 0).all():
        return _as_quad(points[::-1])
    on_the_bounds = np.minimum(points - low, high - points).max() < 0.5
    if on_the_bounds or not (turns > 0).all():
        return rectangle(*low, *(high - low))
    # Annotators begin at any corner: the edge that runs most to the right is the top.
    return np.roll(points, -int(np.argmax(edges[:, 0] / np.linalg.norm(edges, axis=1))), axis=0)


def _place(region: Region, frame: _Frame, settings: ImportSettings) -> _Cut | LeftOut:
    quad = region.quad
    if frame.upright is not None:
        level, quad = _is_level(quad), frame.upright(quad)
        quad = _bounds(quad) if level else quad
    if np.abs(quad).max() > _FARTHEST:
        return LeftOut(region.key, "box outside the image", "coordinates beyond every image")
    share = _share_inside(quad, frame.size)
    if share < LEAST_INSIDE:
        return LeftOut(region.key, "box outside the image", f"{100 * share:.0f} % of it lie inside")
    quad = _kept_inside(quad, frame.size)
    shortest = min(_sides(quad))
    if shortest < SMALLEST:
        return LeftOut(region.key, "box too small", f"{shortest:.0f} pixels")
    reduction = next((n for n in (8, 4, 2) if shortest >= n * settings.short_side), 1)
    return _Cut(region, _with_margin(quad, settings.margin * shortest), reduction)


def _decode(data: bytes, reduction: int, frame: _Frame) -> _Picture:
    """Return the upright photograph at ``1 / reduction`` of its size; other formats than JPEG come at full size."""
    pixels = None
    if data[:3] == b"\xff\xd8\xff":
        if not is_whole_jpeg(data):
            check_image(data)
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction])
        except cv2.error:
            pixels = None
    else:
        check_image(data)
    if pixels is None:
        pixels, reduction = cv2.cvtColor(decode_image(data), cv2.COLOR_RGB2BGR), 1
    if frame.turn:
        pixels = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
    height, width = pixels.shape[:2]
    if max(abs(width - frame.size[0] / reduction), abs(height - frame.size[1] / reduction)) > 1:
        raise UnreadableImage("its orientation is read in two ways")
    return _Picture(pixels, np.array([width / frame.size[0], height / frame.size[1]]), reduction)


def _turned_points(points: np.ndarray, width: int, height: int, orientation: int) -> np.ndarray:
    """Return where points (n, 2) of the stored pixels lie once the EXIF ``orientation`` is applied."""
    x, y = points[:, 0], points[:, 1]
    left, top = width - x, height - y
    pairs = {1: (x, y), 2: (left, y), 3: (left, top), 4: (x, top), 5: (y, x), 6: (top, x), 7: (top, left), 8: (y, left)}
    return np.stack(pairs[orientation], axis=1)


def _is_level(quad: np.ndarray) -> bool:
    low, high = quad.min(axis=0), quad.max(axis=0)
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    return bool(np.abs(quad - corners).max() < 0.5)


def _bounds(quad: np.ndarray) -> np.ndarray:
    low, high = quad.min(axis=0), quad.max(axis=0)
    return np.array([low, [high[0], low[1]], high, [low[0], high[1]]])


def _sides(quad: np.ndarray) -> tuple[float, float]:
    """Return the width and height of a box that may be tilted."""
    sides = np.linalg.norm(np.roll(quad, -1, axis=0) - quad, axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))


def _share_inside(quad: np.ndarray, size: Size) -> float:
    """Return how much of the box, 0 to 1, lies in an image of ``size``."""
    if _is_level(quad):
        whole = np.ptp(quad, axis=0)
        inside = np.ptp(quad.clip(0, size), axis=0)
        return float(np.prod(inside / np.maximum(whole, 1e-9)))
    image = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], np.float32)
    corners = quad.astype(np.float32)
    whole = cv2.contourArea(corners)
    return float(cv2.intersectConvexConvex(corners, image)[0] / whole) if whole > 0 else 0.0


def _kept_inside(quad: np.ndarray, size: Size) -> np.ndarray:
    """Return an upright box cut off at the image's edges; a tilted one keeps its shape and repeats edge pixels."""
    return quad.clip(0, size) if _is_level(quad) else quad


def _with_margin(quad: np.ndarray, margin: float) -> np.ndarray:
    """Return the box with ``margin`` more pixels on each side."""
    right, down = quad[1] - quad[0], quad[3] - quad[0]
    right, down = right / np.linalg.norm(right), down / np.linalg.norm(down)
    return quad + margin * np.stack([-right - down, right - down, right + down, down - right])
