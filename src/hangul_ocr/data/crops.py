"""Decoded crops and where they come from: a store, or anything else that can return its ``index``-th crop."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from hangul_ocr.data.augment import augment
from hangul_ocr.data.images import UnreadableImage, decode_trusted
from hangul_ocr.data.lmdb_store import RECORD_FAULTS, LmdbReader
from hangul_ocr.data.sample import Sample
from hangul_ocr.hangul import Alphabet

# From this height to width on, text is taken to run down: two syllables one above the other begin at about 1.1.
TALL = 1.1


@dataclass(frozen=True)
class Crop:
    """A decoded crop: ``image`` (H, W, 3) uint8 RGB, and ``centres`` (n, 2) in 0..1 where a renderer knows them."""

    key: str
    image: np.ndarray
    text: str
    centres: np.ndarray | None = None

    @property
    def tall(self) -> bool:
        """Whether its text is taken to run down."""
        return self.image.shape[0] > TALL * self.image.shape[1]


class CropSource(Protocol):
    """Anything that returns its ``index``-th crop, changed as ``rng`` says, or raises ``UnreadableImage``."""

    def __len__(self) -> int: ...

    def crop(self, index: int, rng: np.random.Generator) -> Crop: ...


class LmdbCrops:
    """The crops of an LMDB, or of some rows of it, augmented on reading.

    With ``short_side`` large JPEGs are decoded smaller, their short side still of as many pixels or more. With
    ``alphabet`` a record whose label it cannot write counts as damaged.
    """

    def __init__(
        self,
        reader: LmdbReader,
        rows: Sequence[int] | None = None,
        strength: float = 0.0,
        short_side: int = 0,
        alphabet: Alphabet | None = None,
    ) -> None:
        self.reader, self.strength, self.short_side, self.alphabet = reader, strength, short_side, alphabet
        self.rows = list(range(len(reader))) if rows is None else list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the ``index``-th of the chosen rows. Raises ``UnreadableImage`` naming a record that is damaged."""
        sample = self._sample(self.rows[index])
        try:
            image = decode_trusted(sample.image, short_side=self.short_side)
        except UnreadableImage as error:
            raise UnreadableImage(f"{sample.key} in {self.reader.path}: {error}") from None
        return Crop(sample.key, augment(image, rng, self.strength), sample.text)

    def _sample(self, row: int) -> Sample:
        """Return the record at ``row``; one with a fault is unreadable, for a store must not fail for one of many."""
        try:
            sample = self.reader[row]
        except RECORD_FAULTS as error:
            raise UnreadableImage(f"record {row + 1} of {self.reader.path}: {error}") from None
        if self.alphabet and (outside := self.alphabet.missing(sample.text)):
            characters = "".join(sorted(outside))
            raise UnreadableImage(f"{sample.key} in {self.reader.path}: label outside the alphabet ({characters})")
        return sample

    def texts(self) -> list[str]:
        """Return the label of each of the chosen rows, without reading an image."""
        texts = self.reader.texts()
        return [texts[row] for row in self.rows]


def crop_or_none(source: CropSource, index: int, rng: np.random.Generator) -> Crop | None:
    """Return a crop of ``source``; None for one that cannot be read, which is named on stderr."""
    try:
        return source.crop(index, rng)
    except UnreadableImage as error:
        print(f"warning: left out: {error}", file=sys.stderr)
        return None


def join_crops(first: Crop, second: Crop, longest: int = 25) -> Crop:
    """Return two crops of one orientation as one, their labels with a space between them.

    Where they run in different directions, or the label would be longer than ``longest``, the first alone.
    """
    text = f"{first.text} {second.text}"
    if first.tall != second.tall or len(text) > longest:
        return first
    axis = 0 if first.tall else 1
    image = np.concatenate([first.image, _fit(second.image, first.image.shape[1 - axis], axis)], axis=axis)
    return replace(first, image=image, text=text, centres=_joined_centres(first, second, axis, image))


def _fit(image: np.ndarray, across: int, axis: int) -> np.ndarray:
    """Scale ``image`` to ``across`` pixels on the axis that is not ``axis``."""
    along = max(1, round(image.shape[axis] * across / image.shape[1 - axis]))
    return cv2.resize(image, (across, along) if axis == 0 else (along, across), interpolation=cv2.INTER_AREA)


def _joined_centres(first: Crop, second: Crop, axis: int, image: np.ndarray) -> np.ndarray | None:
    """Return the characters' places in the joined picture, the space at the seam; None if either's are not known."""
    if first.centres is None or second.centres is None:
        return None
    along = 1 - axis  # centres are (x, y), arrays (y, x)
    seam = first.image.shape[axis] / image.shape[axis]
    before, after = first.centres.copy(), second.centres.copy()
    before[:, along] *= seam
    after[:, along] = seam + after[:, along] * (1 - seam)
    space = np.full((1, 2), 0.5, before.dtype)
    space[0, along] = seam
    return np.concatenate([before, space, after])


def rarity_weights(texts: Sequence[str], power: float) -> np.ndarray:
    """Return how often each label should be drawn, (N,) summing to 1: (1 / frequency of its rarest character)^power."""
    counts = Counter(character for text in texts for character in set(text))
    rarest = np.array([min((counts[character] for character in text), default=len(texts)) for text in texts])
    weights = rarest.astype(np.float64) ** -power
    return weights / weights.sum()
