"""Which part of a crop each character was read from: CTC's occupancy of the time steps, or attention's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hangul_ocr.hangul import HangulOcrError, ctc_steps_needed

#: No probability is taken to be smaller: the logarithm of 0 would make every path impossible.
_LEAST = 1e-30


@dataclass(frozen=True)
class Alignment:
    """What was read, and from where.

    ``weights`` (characters of ``read``, T) lie in 0..1: the probability that a time step belongs to the character
    (``method`` ``"CTC"``), or how much the decoder looked there when it wrote it (``"attention"``). Time runs from left
    to right over the crop or, with ``down``, from top to bottom.
    """

    read: str
    weights: np.ndarray
    method: str
    down: bool = False

    def places(self) -> np.ndarray:
        """Return where the middle of each character's weight lies along the text, in 0..1."""
        steps = (np.arange(self.weights.shape[1]) + 0.5) / max(1, self.weights.shape[1])
        return self.weights @ steps / np.maximum(self.weights.sum(axis=1), _LEAST)


def ctc_occupancy(posteriors: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return (len(classes), T): the probability that each time step writes each character, given the whole string.

    ``posteriors`` (T, classes) are probabilities with class 0 the blank. This is the forward-backward occupancy of
    Graves et al. (ICML 2006, equation 14) over all paths that spell the string, not the best path alone; what a column
    lacks to 1 is the blank's. Raises ``HangulOcrError`` for a string that needs more time steps.
    """
    if ctc_steps_needed(classes) > len(posteriors):
        raise HangulOcrError(f"{len(posteriors)} time steps cannot write {len(classes)} characters; use a wider crop")
    states = np.zeros(2 * len(classes) + 1, dtype=int)
    states[1::2] = classes
    emitted = np.log(np.maximum(np.asarray(posteriors, dtype=float), _LEAST))[:, states]
    backward = _path_sums(emitted[::-1, ::-1], states[::-1])[::-1, ::-1]
    joint = _path_sums(emitted, states) + backward - emitted
    occupancy = np.exp(joint - joint.max(axis=1, keepdims=True))
    return (occupancy / occupancy.sum(axis=1, keepdims=True))[:, 1::2].T


def _path_sums(emitted: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the log sum over all beginnings of paths that are in each state (columns) at each time step (rows)."""
    skips = np.zeros(len(states), dtype=bool)
    skips[2:] = (states[2:] != 0) & (states[2:] != states[:-2])
    sums = np.full(emitted.shape, -np.inf)
    sums[0, :2] = emitted[0, :2]
    for step in range(1, len(emitted)):
        before = sums[step - 1]
        reached = np.logaddexp(before, np.concatenate([[-np.inf], before[:-1]]))
        skipped = np.where(skips, np.concatenate([[-np.inf, -np.inf], before])[: len(states)], -np.inf)
        sums[step] = emitted[step] + np.logaddexp(reached, skipped)
    return sums
