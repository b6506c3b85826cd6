"""Further stores of real crops that training may learn from beside the competition's: never validation.

What cannot be learnt, or must not be, is left out and counted: labels that the alphabet cannot write, labels that say
nothing, and crops of the competition itself, which a fold would otherwise see though they are held out from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hangul_ocr.data.crops import Crop, CropSource, LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.sample import label_fault
from hangul_ocr.hangul import Alphabet, HangulOcrError

OUTSIDE, OWN = "label outside the alphabet", "crop of the competition itself"


@dataclass(frozen=True)
class ExtraStore:
    """A store and the ``rows`` of it to learn from; ``left_out`` counts the others by reason."""

    reader: LmdbReader
    rows: list[int]
    left_out: dict[str, int]
    missing: str

    def facts(self) -> dict[str, Any]:
        """Return what a run keeps about it."""
        manifest = self.reader.manifest
        content = manifest.content_hash if manifest else ""
        return {"path": str(self.reader.path), "content": content, "crops": len(self.rows), "left_out": self.left_out}

    def line(self) -> str:
        """Return one line for people."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        shown = f" (characters {self.missing})" if self.missing else ""
        return f"{self.reader.path}: {len(self.rows):,} crops" + (f"; left out: {reasons}{shown}" if reasons else "")


def open_extra(paths: Sequence[Path | str], alphabet: Alphabet, own: LmdbReader) -> list[ExtraStore]:
    """Open stores to train on beside the competition's crops in ``own``.

    Raises ``HangulOcrError`` for a path that is no LMDB of text crops, is named twice, or holds nothing to learn from.
    """
    places = [Path(path).expanduser().resolve() for path in paths]
    repeated = [str(place) for place, count in Counter(places).items() if count > 1]
    if repeated:
        raise HangulOcrError(f"{repeated[0]}: named twice among the further LMDBs; name it once")
    known = _KnownCrops(own)
    return [_opened(place, alphabet, known) for place in places]


def _opened(place: Path, alphabet: Alphabet, known: _KnownCrops) -> ExtraStore:
    if not place.exists():
        raise HangulOcrError(f"{place}: no LMDB there; write it with `hangul-ocr import`, or correct the path")
    reader, rows, left_out = LmdbReader(place), [], Counter()
    missing: set[str] = set()
    for row, (text, meta) in enumerate(zip(reader.texts(), reader.metas(), strict=True)):
        outside = alphabet.missing(text)
        reason = label_fault(text) or (OUTSIDE if outside else OWN if known.has(reader, row, text, meta) else "")
        missing |= outside if reason == OUTSIDE else set()
        left_out.update([reason] if reason else [])
        rows += [] if reason else [row]
    store = ExtraStore(reader, rows, dict(left_out), "".join(sorted(missing))[:40])
    if not rows:
        raise HangulOcrError(f"{store.line()}: nothing to learn from; name another LMDB")
    return store


class _KnownCrops:
    """The competition's crops: another store has one of them if two of label, key and bytes are equal.

    One alone says little: two competitions may number their files alike, and labels repeat. Bytes are compared only
    where label or key are equal, for reading all images of a large store would take as long as an epoch.
    """

    def __init__(self, own: LmdbReader) -> None:
        self._own = own
        self._rows_of: dict[str, list[int]] = {}
        self._row_of: dict[str, int] = {}
        for row, (key, text) in enumerate(zip(own.keys(), own.texts(), strict=True)):
            self._rows_of.setdefault(text, []).append(row)
            self._row_of[key] = row

    def has(self, reader: LmdbReader, row: int, text: str, meta: dict[str, Any]) -> bool:
        """Tell whether ``row`` of ``reader`` is one of them."""
        same_text, same_key = self._rows_of.get(text, []), self._row_of.get(meta["key"])
        if same_key in same_text:
            return True
        alike = [*same_text, *([] if same_key is None else [same_key])]
        if not alike:
            return False
        image = reader.image_bytes(row)
        return any(self._own.image_bytes(known) == image for known in alike)


class ChainedCrops:
    """The crops of several sources, one after the other."""

    def __init__(self, sources: Sequence[CropSource]) -> None:
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the ``index``-th crop of all."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = 0 if number == 0 else int(self._ends[number - 1])
        return self.sources[number].crop(index - start, rng)


class CropsBeside:
    """All crops of ``own``, and so many places for crops of ``other`` that these are ``share`` of the whole.

    A place of ``other`` is filled with another of its crops each time: an epoch shows every own crop once.
    """

    def __init__(self, own: CropSource, other: CropSource, share: float) -> None:
        self.own, self.other = own, other
        self.places = round(len(own) * share / (1 - share))

    def __len__(self) -> int:
        return len(self.own) + self.places

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return own crop ``index``, or one of the other's that ``rng`` draws."""
        if index < len(self.own):
            return self.own.crop(index, rng)
        return self.other.crop(int(rng.integers(len(self.other))), rng)

    def weights(self, own: np.ndarray) -> np.ndarray:
        """Return how often each place should be drawn, (N,) summing to 1, given that of the own crops."""
        share = self.places / len(self)
        return np.concatenate([own * (1 - share), np.full(self.places, 1 / len(self))])


def extra_crops(stores: Sequence[ExtraStore], strength: float, short_side: int) -> ChainedCrops:
    """Return the stores' crops as one source, augmented by ``strength`` and decoded no larger than need be."""
    return ChainedCrops([LmdbCrops(store.reader, store.rows, strength, short_side) for store in stores])
