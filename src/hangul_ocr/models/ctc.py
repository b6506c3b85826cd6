"""Connectionist temporal classification: loss, greedy reading, prefix beam search and string scores.

Graves et al., "Connectionist Temporal Classification", ICML 2006; the prefix beam search keeps, for each prefix, the
probability of paths that end in a blank and of those that do not, as in Hannun et al., arXiv 1408.2873.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hangul_ocr.hangul import Alphabet, ctc_steps_needed
from hangul_ocr.models.ctc_loss import label_columns, training_losses
from hangul_ocr.models.language import Fusion
from hangul_ocr.settings import LossWeights

Prefix = tuple[int, ...]
#: prefix -> (P of its paths that end in a blank, of those that end in its last class, what fusion gave that class,
#: whether a word of the lexicon begins so)
Beam = dict[Prefix, tuple[float, float, float, bool]]
#: Classes less likely than this, and prefixes less likely than this share of the best, are not followed where a crop
#: alone decides: they never become the answer, and without them most time steps of a clear crop cost nothing.
NEGLIGIBLE = 1e-5
#: A larger grid (of 2,500 classes: 5 MB) goes back to the system when it is done with, and the next one comes page by
#: page, which takes twice the time.
STEPS_AT_ONCE = 512
#: A string with more than half of the probability is the likeliest: nothing need be searched.
_HALF = math.log(0.5)


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
        """Return how many labels need more than ``steps`` time steps: their loss is 0 but for smoothing's share."""
        return sum(ctc_steps_needed(target) > steps for target in targets)

    def greedy(self, features: Tensor) -> list[tuple[list[int], float]]:
        """Return for each crop its most probable path, collapsed, and log P of that string, over all of its paths."""
        return [found for part in _parts(features) for found in _greedy(self.log_probabilities(part))]

    def candidates(self, features: Tensor, count: int) -> list[list[tuple[list[int], float]]]:
        """Return for each crop up to ``count`` strings with their log P(string | crop), best first.

        After :meth:`fuse` the best is the one with the highest fused score, and log P is still the crop's alone.
        """
        if count == 1 and self.fusion is None:
            return [found for part in _parts(features) for found in _likeliest(self.log_probabilities(part))]
        grids, negligible = self.log_probabilities(features).cpu(), 0.0 if self.fusion else NEGLIGIBLE
        found = prefix_beams(grids, count, fusion=self.fusion, alphabet=self.alphabet, negligible=negligible)
        return [[(candidate.classes, candidate.log_probability) for candidate in row] for row in found]

    def score(self, features: Tensor, strings: Sequence[Sequence[int]], rows: Sequence[int] | None = None) -> Tensor:
        """Return log P(string | crop), summed over all paths, (S,); minus infinity where the grid cannot write it.

        ``rows`` (S,) names the crop of each string; without it each crop has one.
        """
        rows = range(len(strings)) if rows is None else rows
        return string_scores(self.log_probabilities(features), strings, rows).float().to(features.device)


def _parts(features: Tensor) -> Sequence[Tensor]:
    """Return ``features`` (N, T, D) in parts whose grids a CPU's memory allocator keeps for the next one."""
    return features.split(max(1, STEPS_AT_ONCE // features.shape[1])) if features.device.type == "cpu" else [features]


def _greedy(grids: Tensor) -> list[tuple[list[int], float]]:
    strings = [collapse(path) for path in _likeliest_classes(grids).tolist()]
    return list(zip(strings, string_scores(grids, strings, range(len(strings))).tolist(), strict=True))


def _likeliest_classes(grids: Tensor) -> Tensor | np.ndarray:
    """Return (N, T) of ``grids`` (N, T, classes); on a CPU by NumPy, which takes a tenth of PyTorch's time."""
    return grids.detach().numpy().argmax(-1) if grids.device.type == "cpu" else grids.argmax(dim=-1)


def _likeliest(grids: Tensor) -> list[list[tuple[list[int], float]]]:
    """Return the likeliest string of each of the ``grids`` (N, T, classes) alone, and none of one of NaN.

    Most times the greedy one has more than half of the probability; the beam searches in the other crops alone.
    """
    found = [[pair] if pair[1] > _HALF else [] for pair in _greedy(grids)]
    doubtful = [row for row, strings in enumerate(found) if not strings]
    searched = prefix_beams(grids[doubtful].cpu(), 1, negligible=NEGLIGIBLE) if doubtful else []
    for row, strings in zip(doubtful, searched, strict=True):
        found[row] = [(candidate.classes, candidate.log_probability) for candidate in strings]
    return found


def string_scores(grids: Tensor, strings: Sequence[Sequence[int]], rows: Sequence[int]) -> Tensor:
    """Return log P(string) of each of the ``strings``, string i under ``grids[rows[i]]``: (S,), float64, on the CPU.

    ``grids`` is (N, T, classes) of log probabilities. Of each only the columns that a string uses are copied.
    """
    if not strings:
        return torch.empty(0, dtype=torch.float64)
    columns, symbols = label_columns(strings)
    row, step = torch.tensor(list(rows)), torch.arange(grids.shape[1])
    picked = grids[row[:, None, None], step[:, None], columns[:, None, :]].cpu().double()
    return -_losses(picked, symbols, strings, math.inf)


def ctc_losses(log_probabilities: Tensor, targets: Sequence[Sequence[int]], impossible: float = 0.0) -> Tensor:
    """Return -log P(target) for each row (N,); ``impossible`` where length + adjacent repeats exceed the time steps."""
    flat = torch.tensor([c for target in targets for c in target], dtype=torch.long, device=log_probabilities.device)
    return _losses(log_probabilities, flat, targets, impossible)


def _losses(log_probabilities: Tensor, flat: Tensor, targets: Sequence[Sequence[int]], impossible: float) -> Tensor:
    """Do what :func:`ctc_losses` does where ``flat`` (sum L,) holds the columns of all ``targets``."""
    n, steps, _ = log_probabilities.shape
    device = log_probabilities.device
    lengths = torch.tensor([len(target) for target in targets], device=device)
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
    """Return what :func:`prefix_beams` finds in the one crop of ``log_probabilities`` (T, classes)."""
    return prefix_beams(torch.from_numpy(log_probabilities)[None], count, width, fusion, alphabet)[0]


def prefix_beams(
    grids: Tensor,
    count: int,
    width: int = 16,
    fusion: Fusion | None = None,
    alphabet: Alphabet | None = None,
    negligible: float = 0.0,
) -> list[list[Candidate]]:
    """Return up to ``count`` strings of each crop, best score first; without ``fusion`` the score is log P itself.

    ``grids`` is (N, T, classes) of log probabilities on the CPU. Each step keeps ``width`` prefixes and looks at as
    many classes, but at none less likely than ``negligible``, and at no prefix less likely than that share of the best.
    ``fusion`` ranks prefixes as they grow and the finished strings; without the ``alphabet`` of the classes that is a
    ``ValueError``. Beginnings of the lexicon's words have ``width`` places of their own, for their bonus comes with the
    last character only. A grid of NaN has no strings.
    """
    rules = _rules(fusion, alphabet)
    search = _Search(rules, width, max(width, count), negligible)
    found = [[list(prefix) for prefix in search.prefixes(grid)] for grid in grids.numpy()]
    strings = [string for group in found for string in group]
    # The beam's own sums lack the paths of prefixes that it dropped.
    exact = string_scores(grids, strings, [row for row, group in enumerate(found) for _ in group]).tolist()
    added = [fusion.score(alphabet.decode(string)) if fusion else 0.0 for string in strings]
    scored = iter(Candidate(s, p, p + more) for s, p, more in zip(strings, exact, added, strict=True))
    ranked = [sorted(islice(scored, len(group)), key=lambda candidate: -candidate.score) for group in found]
    return [group[:count] for group in ranked]


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


@dataclass(frozen=True)
class _Search:
    """A prefix beam search: see :func:`prefix_beams`; ``kept`` prefixes stay after each step."""

    rules: _Rules
    width: int
    kept: int
    negligible: float

    def prefixes(self, grid: np.ndarray) -> Beam:
        """Return the prefixes that are left at the end of ``grid`` (T, classes), best first."""
        beam: Beam = {(): (1.0, 0.0, 1.0, self.rules.begins(()))}
        least = math.log(self.negligible) if self.negligible else -math.inf
        for row in grid:
            beam = _top(self._extend(beam, row, _likely(row, self.width, least)), self.kept)
        return beam

    def _extend(self, beam: Beam, row: np.ndarray, likely: list[tuple[float, int]]) -> Beam:
        """Return the beam one time step on, with every new prefix that may be among the best of its kind.

        A prefix that is not in the beam can come from its parent alone, so its probability is known at once, and one
        that is below enough others is left out.
        """
        grown, rules = _stay(beam, row), self.rules
        floor, floor_in_lexicon = _floors(grown, self.kept)
        if self.negligible:
            floor = floor_in_lexicon = max(floor, self.negligible * _most(beam, grown, likely))
            grown = {prefix: state for prefix, state in grown.items() if state[0] + state[1] >= floor}
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


def _likely(row: np.ndarray, width: int, least: float) -> list[tuple[float, int]]:
    """Return (probability, class) of the ``width`` likeliest classes from ``least`` on, best first, but the blank."""
    symbols = np.flatnonzero(row >= least)
    if len(symbols) > width:
        symbols = symbols[np.argpartition(row[symbols], -width)[-width:]]
    pairs = zip(np.exp(row[symbols]).tolist(), symbols.tolist(), strict=True)
    return sorted((pair for pair in pairs if pair[1]), reverse=True)


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


def _most(beam: Beam, grown: Beam, likely: list[tuple[float, int]]) -> float:
    """Return what the best prefix has at the most after a step from ``beam``, whose own become ``grown``."""
    before, after = (max((b + c for b, c, _, _ in prefixes.values()), default=0.0) for prefixes in (beam, grown))
    return max(after, before * likely[0][0] if likely else 0.0)


def _top(beam: Beam, width: int) -> Beam:
    """Return the ``width`` best prefixes and as many beginnings of the lexicon's words, best first.

    They are scaled so that the best has 1: long texts would underflow.
    """
    possible = [(blank + last, prefix) for prefix, (blank, last, _, _) in beam.items() if blank + last > 0]
    best = heapq.nlargest(width, possible)
    scale = 1 / best[0][0] if best else 1.0
    best += heapq.nlargest(width, (pair for pair in possible if beam[pair[1]][3]))
    return {p: (beam[p][0] * scale, beam[p][1] * scale, *beam[p][2:]) for _, p in best}
