"""Connectionist temporal classification: loss, greedy reading, prefix beam search and string scores.

Graves et al., "Connectionist Temporal Classification", ICML 2006; the prefix beam search keeps, for each prefix, the
probability of paths that end in a blank and of those that do not, as in Hannun et al., arXiv 1408.2873.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hangul_ocr.hangul import UNKNOWN_CLASS, ctc_steps_needed

NEGATIVE = -1e30


class CTCDecoder(nn.Module):
    """Scores every time step with ``classifier``; class 0 is the blank."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Return (N, T, classes) in float32 for ``features`` (N, T, D)."""
        return self.classifier(features).float().log_softmax(dim=-1)

    def loss(self, features: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, alignment: float) -> Tensor:
        """Return the loss of each crop (N,).

        ``frames`` (N, T) holds the class that each time step shows where a renderer knew it, else ``UNKNOWN_CLASS``;
        its cross-entropy, times ``alignment``, is added: it ends CTC's long plateau of blanks at once.
        """
        log_probabilities = self.log_probabilities(features)
        loss = ctc_losses(log_probabilities, targets) / _lengths(targets, features.device)
        if alignment > 0 and bool((frames != UNKNOWN_CLASS).any()):
            loss = loss + alignment * _frame_losses(log_probabilities, frames)
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
        """Return for each crop up to ``count`` strings with log probabilities, best first."""
        return [prefix_beam(row, count) for row in self.log_probabilities(features).cpu().numpy()]

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


def _frame_losses(log_probabilities: Tensor, frames: Tensor) -> Tensor:
    known = frames != UNKNOWN_CLASS
    picked = log_probabilities.gather(-1, frames.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * known).sum(1) / known.sum(1).clamp(min=1)


def collapse(path: Sequence[int]) -> list[int]:
    """Merge repeats and drop blanks."""
    return [c for previous, c in zip([0, *path], path, strict=False) if c not in (0, previous)]


def prefix_beam(log_probabilities: np.ndarray, count: int, width: int = 16) -> list[tuple[list[int], float]]:
    """Return up to ``count`` strings of one crop with their log probabilities, best first.

    ``log_probabilities`` is (T, classes). Each step keeps ``width`` prefixes and looks at as many classes.
    """
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEGATIVE)}
    for row in log_probabilities:
        symbols = np.argpartition(row, -width)[-width:] if len(row) > width else np.arange(len(row))
        likely = [(int(s), float(row[s])) for s in symbols if s and row[s] > -12.0]
        beam = _top(_extend(beam, likely, float(row[0])), max(width, count))
    ranked = sorted(((prefix, _add(*ends)) for prefix, ends in beam.items()), key=lambda item: -item[1])
    return [(list(prefix), score) for prefix, score in ranked[:count]]


def _extend(beam: dict, likely: list[tuple[int, float]], blank: float) -> dict:
    """Return the beam one time step on: (log P ending in blank, log P ending in the last class) for each prefix."""
    grown: dict[tuple[int, ...], tuple[float, float]] = {}

    def add(prefix: tuple[int, ...], ends_blank: float, ends_class: float) -> None:
        old = grown.get(prefix, (NEGATIVE, NEGATIVE))
        grown[prefix] = (_add(old[0], ends_blank), _add(old[1], ends_class))

    for prefix, (ends_blank, ends_class) in beam.items():
        total = _add(ends_blank, ends_class)
        add(prefix, total + blank, NEGATIVE)
        for symbol, score in likely:
            if prefix and symbol == prefix[-1]:
                add(prefix, NEGATIVE, ends_class + score)
                add((*prefix, symbol), NEGATIVE, ends_blank + score)
            else:
                add((*prefix, symbol), NEGATIVE, total + score)
    return grown


def _top(beam: dict, width: int) -> dict:
    if len(beam) <= width:
        return beam
    return dict(sorted(beam.items(), key=lambda item: -_add(*item[1]))[:width])


def _add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b <= NEGATIVE else a + math.log1p(math.exp(b - a))
