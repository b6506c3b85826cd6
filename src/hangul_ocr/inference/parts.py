"""Readings kept in parts while they are made, so that reading goes on where it was stopped, and twice the same.

A part is a file of a few hundred crops' readings, in a folder named by a hash of everything that decides them: weights,
crops, views, settings, kind of device. With any of these changed, another folder begins.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hangul_ocr.inference.ensemble import Reading
from hangul_ocr.workspace import atomic_write_text

#: In the folder of what is being read; it goes when that is finished.
PARTS = "parts"
_FORMAT = 4


@dataclass(frozen=True)
class Parts:
    """The parts of one reading, in ``folder``."""

    folder: Path

    @classmethod
    def of(cls, parent: Path, made_from: dict[str, Any]) -> Parts:
        """Return the parts under ``parent`` that belong to ``made_from``, which JSON can write."""
        text = json.dumps({"format": _FORMAT} | made_from, sort_keys=True, ensure_ascii=False)
        return cls(parent / PARTS / hashlib.sha256(text.encode()).hexdigest()[:24])

    def load(self, number: int, size: int) -> list[Reading] | None:
        """Return the readings of part ``number``, which are ``size``; None if they are not there whole."""
        try:
            rows = json.loads(self._path(number).read_text(encoding="utf-8"))
            readings = [_from_json(row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return readings if len(readings) == size else None

    def save(self, number: int, readings: list[Reading]) -> None:
        """Keep the readings of part ``number``, whole or not at all."""
        rows = [_to_json(reading) for reading in readings]
        # Python writes a number so that reading it again gives the very same.
        atomic_write_text(self._path(number), json.dumps(rows, ensure_ascii=False))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def forget_parts(parent: Path) -> None:
    """Remove all parts under ``parent``: what they were kept for is finished."""
    shutil.rmtree(parent / PARTS, ignore_errors=True)


def _to_json(reading: Reading) -> dict[str, Any]:
    scores = [[float(value) for value in row] for row in reading.scores]
    return {"strings": reading.strings, "scores": scores, "own": reading.own}


def _from_json(row: dict[str, Any]) -> Reading:
    return Reading(list(row["strings"]), np.array(row["scores"], dtype=np.float64), list(row["own"]))
