"""Several recognisers, one answer: score the union of their N-best strings under each of them.

Averaging CTC posteriors frame by frame is unsafe, since separately trained models put their spikes in different
places; whole strings can be compared. The plain vote stands beside it for comparison.

A string that holds characters which a member's alphabet lacks gets a stand-in there (:func:`with_stand_ins`); one that
it cannot write for another reason (longer than it reads) counts as far below its worst.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hangul_ocr.hangul import Alphabet

#: log P that a place whose character a member does not know holds just the one asked for, not the one it reads there.
UNKNOWN = math.log(0.01)
#: How far below a member's worst candidate a string lies that it cannot write.
FAR = 10.0


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
    mean = finite_scores(reading.scores).mean(axis=0)
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


def with_stand_ins(strings: Sequence[str], scores: Sequence[float], alphabet: Alphabet) -> list[float]:
    """Return one member's ``scores`` with a value for the strings that its ``alphabet`` cannot write.

    A member cannot tell an unknown character from the known one that it sees in its place. So such a string scores as
    the best candidate that differs from it in the unknown places alone, and ``UNKNOWN`` less for each of these; minus
    infinity where there is no such candidate.
    """
    known = [(text, score) for text, score in zip(strings, scores, strict=True) if score > -math.inf]
    return [
        _stand_in(text, missing, known) if (missing := alphabet.missing(text)) else score
        for text, score in zip(strings, scores, strict=True)
    ]


def _stand_in(text: str, missing: set[str], known: Sequence[tuple[str, float]]) -> float:
    fitting = [score for other, score in known if _fits(text, other, missing)]
    places = sum(character in missing for character in text)
    return max(fitting, default=-math.inf) + places * UNKNOWN


def _fits(text: str, other: str, missing: set[str]) -> bool:
    if len(text) != len(other):
        return False
    return all(a == b or a in missing for a, b in zip(text, other, strict=True))


def by_member(reading: Reading, members: Sequence[Sequence[int]]) -> Reading:
    """Return ``reading`` with its rows averaged: member i is the mean of the models ``members[i]``.

    So the fold models of one run are one member. Its own choice is the string with the highest mean and prior.
    """
    finite = finite_scores(reading.scores)
    means = np.array([finite[list(rows)].mean(axis=0) for rows in members])
    prior = 0.0 if reading.prior is None else reading.prior
    own = [reading.strings[i] for i in (means + prior).argmax(axis=1)]
    return Reading(reading.strings, means, own, reading.prior)


def finite_scores(scores: np.ndarray) -> np.ndarray:
    """Return ``scores`` (models, strings) with each model's impossible strings ``FAR`` below that model's worst."""
    finite = np.isfinite(scores)
    floor = np.where(finite, scores, 0.0).min(axis=1, keepdims=True) - FAR
    return np.where(finite, scores, floor)


def _best_score(reading: Reading, text: str) -> float:
    return float(reading.scores[:, reading.strings.index(text)].max())
