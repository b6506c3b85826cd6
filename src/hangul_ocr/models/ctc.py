"""Connectionist temporal classification: loss, greedy reading, prefix beam search and string scores.

Graves et al., "Connectionist Temporal Classification", ICML 2006; the prefix beam search keeps, for each prefix, the
probability of paths that end in a blank and of those that do not, as in Hannun et al., arXiv 1408.2873.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hangul_ocr.hangul import Alphabet, ctc_steps_needed
from hangul_ocr.models.ctc_loss import training_losses
from hangul_ocr.models.language import Fusion
from hangul_ocr.settings import LossWeights

Prefix = tuple[int, ...]
#: prefix -> (P of its paths that end in a blank, of those that end in its last class, what fusion gave that class,
#: whether a word of the lexicon begins so)
Beam = dict[Prefix, tuple[float, float, float, bool]]


class CTCDecoder(nn.Module):
    """Scores every time step with ``classifier``; class 0 is the blank."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.fusion: Fusion | None = None
        self.alphabet: Alphabet | None = None

    def fuse(self, fusion: Fusion | None, alphabet: Alphabet | None = None) -> None:
        """Rank later ``candidates`` by ``fusion`` as well; its strings are in ``alphabet``. None takes it off again."""
        self.fusion, self.alphabet = fusion, alphabet

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Return (N, T, classes) in float32 for ``features`` (N, T, D)."""
        return self.classifier(features).float().log_softmax(dim=-1)

    def loss(self, features: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, weights: LossWeights) -> Tensor:
        """Return the loss of each crop (N,).

        ``frames`` (N, T) holds the class that each time step shows where a renderer knew it, else ``UNKNOWN_CLASS``;
        its cross-entropy, times ``weights.alignment``, is added. ``weights.smoothing`` pulls every step towards equal
        probabilities (Kim et al., arXiv 1705.10874).
        """
        logits = self.classifier(features).float()
        loss, of_frames = training_losses(logits, targets, frames)
        loss = loss / _lengths(targets, features.device) + weights.alignment * of_frames
        if weights.smoothing > 0:
            loss = (1 - weights.smoothing) * loss - weights.smoothing * logits.log_softmax(-1).mean(dim=(1, 2))
        return loss

    def unwritable(self, targets: Sequence[Sequence[int]], steps: int) -> int:
        """Return how many labels need more than ``steps`` time steps: their loss is 0, so nothing is learnt of them."""
        return sum(ctc_steps_needed(target) > steps for target in targets)

    def greedy(self, features: Tensor) -> list[tuple[list[int], float]]:
        """Return for each crop its most probable path, collapsed, and that path's log probability."""
        best, path = self.log_probabilities(features).max(dim=-1)
        sums = best.sum(dim=1).tolist()
        return [(collapse(row), total) for row, total in zip(path.tolist(), sums, strict=True)]

    def candidates(self, features: Tensor, count: int) -> list[list[tuple[list[int], float]]]:
        """Return for each crop up to ``count`` strings with their log P(string | crop), best first.

        After :meth:`fuse` the best is the one with the highest fused score, and log P is still the crop's alone.
        """
        grids = self.log_probabilities(features).cpu().numpy()
        found = [prefix_beam(grid, count, fusion=self.fusion, alphabet=self.alphabet) for grid in grids]
        return [[(candidate.classes, candidate.log_probability) for candidate in row] for row in found]

    def score(self, features: Tensor, strings: Sequence[Sequence[int]]) -> Tensor:
        """Return log P(string | crop), summed over all paths, (N,); minus infinity where the grid cannot write it."""
        return -ctc_losses(self.log_probabilities(features), strings, impossible=math.inf)


def ctc_losses(log_probabilities: Tensor, targets: Sequence[Sequence[int]], impossible: float = 0.0) -> Tensor:
    """Return -log P(target) for each row (N,); ``impossible`` where length + adjacent repeats exceed the time steps."""
    n, steps, _ = log_probabilities.shape
    device = log_probabilities.device
    lengths = torch.tensor([len(target) for target in targets], device=device)
    flat = torch.tensor([c for target in targets for c in target], dtype=torch.long, device=device)
    losses = F.ctc_loss(
        log_probabilities.transpose(0, 1),
        flat,
        torch.full((n,), steps, device=device),
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    fits = torch.tensor([ctc_steps_needed(target) <= steps for target in targets], device=device)
    return torch.where(fits, losses, torch.full_like(losses, impossible))


def _lengths(targets: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor([max(1, len(target)) for target in targets], device=device)


def collapse(path: Sequence[int]) -> list[int]:
    """Merge repeats and drop blanks."""
    return [c for previous, c in zip([0, *path], path, strict=False) if c not in (0, previous)]


@dataclass(frozen=True)
class Candidate:
    """A string as ``classes``, its exact log P(string | crop) over all paths, and the ``score`` that ranks it."""

    classes: list[int]
    log_probability: float
    score: float


def prefix_beam(
    log_probabilities: np.ndarray,
    count: int,
    width: int = 16,
    fusion: Fusion | None = None,
    alphabet: Alphabet | None = None,
) -> list[Candidate]:
    """Return up to ``count`` strings of one crop, best score first; without ``fusion`` the score is log P itself.

    ``log_probabilities`` is (T, classes). Each step keeps ``width`` prefixes and looks at as many classes. ``fusion``
    ranks prefixes as they grow and the finished strings; without the ``alphabet`` of the classes that is a
    ``ValueError``. Beginnings of the lexicon's words have ``width`` places of their own, for their bonus comes with the
    last character only. A grid of NaN has no strings.
    """
    rules, kept = _rules(fusion, alphabet), max(width, count)
    beam: Beam = {(): (1.0, 0.0, 1.0, rules.begins(()))}
    for row, likely in zip(log_probabilities, _likely(log_probabilities, width), strict=True):
        beam = _top(_extend(beam, row, likely, kept, rules), kept)
    return _ranked(log_probabilities, [list(prefix) for prefix in beam], fusion, alphabet)[:count]


@dataclass(frozen=True)
class _Rules:
    """What fusion says while prefixes grow: what it multiplies a prefix's probability by when a class joins it, the
    largest such factor, and whether a word of the lexicon begins with a prefix."""

    factor: Callable[[Prefix, int], float]
    most: float
    begins: Callable[[Prefix], bool]


def _rules(fusion: Fusion | None, alphabet: Alphabet | None) -> _Rules:
    if fusion is None:
        return _Rules(lambda prefix, symbol: 1.0, 1.0, lambda prefix: False)
    if alphabet is None:
        raise ValueError("fusion needs the alphabet of the classes")
    return _Rules(
        lambda prefix, symbol: math.exp(fusion.step(alphabet.decode(prefix), alphabet.decode([symbol]))),
        math.exp(fusion.length_bonus),
        lambda prefix: fusion.may_please(alphabet.decode(prefix)),
    )


def _likely(log_probabilities: np.ndarray, width: int) -> list[list[tuple[float, int]]]:
    """Return for each time step (probability, class) of its ``width`` likeliest classes but the blank, best first."""
    columns = np.arange(log_probabilities.shape[1])
    rows = []
    for row in log_probabilities:
        symbols = np.argpartition(row, -width)[-width:] if len(row) > width else columns
        pairs = zip(np.exp(row[symbols]).tolist(), symbols.tolist(), strict=True)
        rows.append(sorted((pair for pair in pairs if pair[1]), reverse=True))
    return rows


def _extend(beam: Beam, row: np.ndarray, likely: list[tuple[float, int]], width: int, rules: _Rules) -> Beam:
    """Return the beam one time step on, with every new prefix that may be among the ``width`` best of its kind.

    A prefix that is not in the beam can come from its parent alone, so its probability is known at once, and one that
    is below ``width`` others is left out.
    """
    grown = _stay(beam, row)
    floor, floor_in_lexicon = _floors(grown, width)
    for prefix, (ends_blank, ends_class, _, begins) in beam.items():
        total = ends_blank + ends_class
        for probability, symbol in likely:
            reach, longer = total * probability * rules.most, (*prefix, symbol)
            if reach <= (floor_in_lexicon if begins else floor):
                break
            begun = begins and rules.begins(longer)
            if longer not in beam and (begun or reach > floor):
                joined = rules.factor(prefix, symbol)
                before = ends_blank if prefix and prefix[-1] == symbol else total
                grown[longer] = (0.0, before * probability * joined, joined, begun)
    return grown


def _stay(beam: Beam, row: np.ndarray) -> Beam:
    """Return the beam's own prefixes one time step on: a blank, the last class again, or the parent's step to them."""
    stayed: Beam = {}
    blank = math.exp(row[0])
    for prefix, (ends_blank, ends_class, joined, begins) in beam.items():
        again = 0.0
        if prefix:
            before, last, _, _ = beam.get(prefix[:-1], (0.0, 0.0, 0.0, False))
            doubled = len(prefix) > 1 and prefix[-2] == prefix[-1]
            again = math.exp(row[prefix[-1]]) * (ends_class + joined * (before if doubled else before + last))
        stayed[prefix] = ((ends_blank + ends_class) * blank, again, joined, begins)
    return stayed


def _floors(beam: Beam, width: int) -> tuple[float, float]:
    """Return what a prefix must exceed to be among the ``width`` best of all, and of the lexicon's beginnings."""
    totals = [blank + last for blank, last, _, _ in beam.values()]
    begun = [blank + last for blank, last, _, begins in beam.values() if begins]
    floor, floor_in_lexicon = (
        heapq.nlargest(width, values)[-1] if len(values) >= width else 0.0 for values in (totals, begun)
    )
    return floor, min(floor, floor_in_lexicon)


def _top(beam: Beam, width: int) -> Beam:
    """Return the ``width`` best prefixes and as many beginnings of the lexicon's words, best first.

    They are scaled so that the best has 1: long texts would underflow.
    """
    possible = [(blank + last, prefix) for prefix, (blank, last, _, _) in beam.items() if blank + last > 0]
    best = heapq.nlargest(width, possible)
    scale = 1 / best[0][0] if best else 1.0
    best += heapq.nlargest(width, (pair for pair in possible if beam[pair[1]][3]))
    return {p: (beam[p][0] * scale, beam[p][1] * scale, *beam[p][2:]) for _, p in best}


def _ranked(
    log_probabilities: np.ndarray, strings: list[list[int]], fusion: Fusion | None, alphabet: Alphabet | None
) -> list[Candidate]:
    exact = _exact(log_probabilities, strings) if strings else []
    added = [fusion.score(alphabet.decode(string)) for string in strings] if fusion else [0.0] * len(strings)
    found = [Candidate(s, p, p + more) for s, p, more in zip(strings, exact, added, strict=True)]
    return sorted(found, key=lambda candidate: -candidate.score)


def _exact(log_probabilities: np.ndarray, strings: list[list[int]]) -> list[float]:
    """Return log P of each string over all paths; the beam's own sums lack the paths of prefixes that it dropped."""
    used = sorted({0}.union(*strings))
    place = {symbol: i for i, symbol in enumerate(used)}
    grid = torch.from_numpy(log_probabilities[:, used].astype(np.float64)).expand(len(strings), -1, -1)
    return (-ctc_losses(grid, [[place[c] for c in string] for string in strings], impossible=math.inf)).tolist()
