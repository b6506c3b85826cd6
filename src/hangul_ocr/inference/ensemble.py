"""Several recognisers, one answer: score the union of their N-best strings under each of them.

Averaging CTC posteriors frame by frame is unsafe, since separately trained models put their spikes in different
places; whole strings can be compared. The plain vote stands beside it for comparison.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reading:
    """One crop under several models: candidate ``strings``, ``scores`` (models, strings) in log P, every own best.

    ``prior`` (strings,) is what a language model or a lexicon adds to each string, whatever the crop shows.
    """

    strings: list[str]
    scores: np.ndarray
    own: list[str]
    prior: np.ndarray | None = None


def combine(reading: Reading) -> tuple[str, float]:
    """Return the string with the highest mean log probability and prior, and that mean as a probability.

    A string that one model cannot write at all counts for it as far below its worst candidate, not as impossible.
    """
    mean = _finite(reading.scores).mean(axis=0)
    best = int((mean if reading.prior is None else mean + reading.prior).argmax())
    return reading.strings[best], math.exp(min(0.0, float(mean[best])))


def vote(reading: Reading) -> str:
    """Return the string that most models chose; among equals the one with the highest single score."""
    counts = Counter(reading.own)
    top = max(counts.values())
    tied = [text for text, count in counts.items() if count == top]
    return max(tied, key=lambda text: _best_score(reading, text))


def most_confident(reading: Reading) -> str:
    """Return the choice of the model that is surest of its own."""
    scores = [reading.scores[i, reading.strings.index(text)] for i, text in enumerate(reading.own)]
    return reading.own[int(np.argmax(scores))]


def _finite(scores: np.ndarray) -> np.ndarray:
    """Return ``scores`` (models, strings) with each model's impossible strings 10 below that model's worst."""
    finite = np.isfinite(scores)
    floor = np.where(finite, scores, 0.0).min(axis=1, keepdims=True) - 10.0
    return np.where(finite, scores, floor)


def _best_score(reading: Reading, text: str) -> float:
    return float(reading.scores[:, reading.strings.index(text)].max())
