"""Attention decoders: they write a string character by character over the feature sequence; class 0 ends it.

:class:`AutoregressiveDecoder` holds what all share: teacher forcing in training, beam search, scoring of given strings.
:class:`AttentionDecoder` is one causal transformer layer (Vaswani et al., arXiv 1706.03762).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hangul_ocr.settings import LossWeights

PADDING = -100
NEVER = -1e30


class AutoregressiveDecoder(nn.Module, ABC):
    """A decoder that feeds back what it has written: first the class ``start``, at most ``max_length`` characters.

    Classes from ``start`` on are never written: a decoder may score its own start symbol, as Clova's does.
    """

    def __init__(self, start: int, max_length: int) -> None:
        super().__init__()
        self.start, self.max_length = start, max_length

    @abstractmethod
    def begin(self, features: Tensor) -> Any:
        """Return the state before the first character for ``features`` (N, T, D)."""

    @abstractmethod
    def advance(self, features: Tensor, state: Any, symbols: Tensor) -> tuple[Tensor, Any]:
        """Feed the classes ``symbols`` (N,); return log probabilities (N, classes) of the next, and the new state."""

    @abstractmethod
    def reorder(self, state: Any, rows: Tensor) -> Any:
        """Return the state of the beams ``rows`` (M,)."""

    @abstractmethod
    def teacher_forced(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return log probabilities (N, L, classes) of what follows each prefix of ``inputs`` (N, L)."""

    @abstractmethod
    def attended(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return (N, L, T): how much each time step is looked at after each prefix of ``inputs``; each sums to 1."""

    def loss(self, features: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, weights: LossWeights) -> Tensor:
        """Return the mean cross-entropy of each crop's characters (N,); frame labels have no place here."""
        inputs, outputs = self._teaching(targets, features.device)
        scores = self.teacher_forced(features, inputs)
        written = outputs != PADDING
        losses = F.nll_loss(scores.transpose(1, 2), outputs, reduction="none", ignore_index=PADDING)
        if weights.smoothing > 0:
            losses = (1 - weights.smoothing) * losses - weights.smoothing * scores.mean(-1) * written
        return losses.sum(1) / written.sum(1)

    def _teaching(self, strings: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what is fed in and what is wanted (N, L): start and string, string and end; padded."""
        rows = [list(string[: self.max_length]) for string in strings]
        length = max(map(len, rows)) + 1
        inputs = [[self.start, *row] + [0] * (length - 1 - len(row)) for row in rows]
        outputs = [[*row, 0] + [PADDING] * (length - 1 - len(row)) for row in rows]
        return torch.tensor(inputs, device=device), torch.tensor(outputs, device=device)

    def unwritable(self, targets: Sequence[Sequence[int]], steps: int) -> int:
        """Return how many labels are longer than ``max_length``: only their beginning is learnt."""
        return sum(len(target) > self.max_length for target in targets)

    def greedy(self, features: Tensor) -> list[tuple[list[int], float]]:
        """Return for each crop the likeliest class step by step, and the string's log probability.

        Features of NaN are read as an empty string that is impossible.
        """
        return [rows[0] if rows else ([], -math.inf) for rows in self.candidates(features, 1)]

    @torch.no_grad()
    def candidates(self, features: Tensor, count: int) -> list[list[tuple[list[int], float]]]:
        """Return for each crop up to ``count`` strings with log probabilities, best first (beam search)."""
        n, device = len(features), features.device
        features = features.repeat_interleave(count, dim=0)
        state, symbols = self.begin(features), torch.full((n * count,), self.start, device=device)
        written = torch.empty((n * count, 0), dtype=torch.long, device=device)
        totals = torch.full((n, count), NEVER, device=device)
        totals[:, 0] = 0.0
        for place in range(self.max_length + 1):
            scores, state = self.advance(features, state, symbols)
            step = self._allowed(scores, place).view(n, count, -1)
            ended = (written == 0).any(1).view(n, count)
            totals, parent, symbol = _grow(totals, step, ended)
            rows, symbols = (torch.arange(n, device=device)[:, None] * count + parent).flatten(), symbol.flatten()
            state, written = self.reorder(state, rows), torch.cat([written[rows], symbols[:, None]], dim=1)
            if bool((written == 0).any(1).all()):
                break
        return _strings(written.view(n, count, -1), totals)

    def _allowed(self, scores: Tensor, place: int) -> Tensor:
        """Return ``scores`` (N, classes) without the start symbol; with the end alone where there is no more room."""
        return scores[:, : self.start] if place < self.max_length else scores[:, :1]

    def score(self, features: Tensor, strings: Sequence[Sequence[int]], rows: Sequence[int] | None = None) -> Tensor:
        """Return log P(string and end | crop), teacher-forced (S,); minus infinity for strings over ``max_length``.

        ``rows`` (S,) names the crop of each string; without it each crop has one.
        """
        features = features if rows is None else features[list(rows)]
        inputs, outputs = self._teaching(strings, features.device)
        scores = self.teacher_forced(features, inputs).transpose(1, 2)
        totals = -F.nll_loss(scores, outputs, reduction="none", ignore_index=PADDING).sum(1)
        fits = torch.tensor([len(string) <= self.max_length for string in strings], device=features.device)
        return totals.masked_fill(~fits, float("-inf"))


class AttentionDecoder(AutoregressiveDecoder):
    """One causal transformer layer over the features (N, T, D), with learned positions."""

    def __init__(self, classifier: nn.Module, classes: int, width: int, max_length: int) -> None:
        super().__init__(classes, max_length)
        self.classifier = classifier
        self.embedding = nn.Embedding(classes + 1, width)
        self.position = nn.Parameter(torch.randn(max_length + 1, width) * 0.02)
        heads = next(n for n in (8, 6, 4, 3, 2, 1) if width % n == 0)
        self.layer = nn.TransformerDecoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)

    def begin(self, features: Tensor) -> Tensor:
        """Return the written classes (N, 0): the layer looks at all of them at each step."""
        return torch.empty((len(features), 0), dtype=torch.long, device=features.device)

    def advance(self, features: Tensor, state: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        state = torch.cat([state, symbols[:, None]], dim=1)
        return self.teacher_forced(features, state)[:, -1], state

    def reorder(self, state: Tensor, rows: Tensor) -> Tensor:
        """See the base class."""
        return state[rows]

    def teacher_forced(self, features: Tensor, inputs: Tensor) -> Tensor:
        """See the base class."""
        embedded, mask = self._embedded(inputs)
        hidden = self.layer(embedded, features.to(embedded.dtype), tgt_mask=mask, tgt_is_causal=True)
        return self.classifier(self.norm(hidden)).float().log_softmax(dim=-1)

    def attended(self, features: Tensor, inputs: Tensor) -> Tensor:
        """See the base class; the mean over the heads."""
        hidden, mask = self._embedded(inputs)
        own = self.layer.norm1(hidden)
        hidden = hidden + self.layer.self_attn(own, own, own, attn_mask=mask, need_weights=False)[0]
        query, features = self.layer.norm2(hidden), features.to(hidden.dtype)
        return self.layer.multihead_attn(query, features, features, need_weights=True)[1]

    def _embedded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``inputs`` (N, L) as vectors with their positions, and the mask that hides what comes later."""
        length = inputs.shape[1]
        embedded = self.embedding(inputs) + self.position[:length]
        return embedded, nn.Transformer.generate_square_subsequent_mask(
            length, device=inputs.device, dtype=embedded.dtype
        )


def _grow(totals: Tensor, step: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return totals, parent beams and classes (N, K) of the best continuations; an ended string goes on at no cost."""
    n, count, classes = step.shape
    frozen = torch.full((classes,), NEVER, device=step.device)
    frozen[0] = 0.0
    step = torch.where(ended.unsqueeze(-1), frozen, step)
    best, place = (totals.unsqueeze(-1) + step).view(n, -1).topk(count, dim=1)
    return best, place // classes, place % classes


def _strings(written: Tensor, totals: Tensor) -> list[list[tuple[list[int], float]]]:
    results = []
    for beams, scores in zip(written.tolist(), totals.tolist(), strict=True):
        strings = [row[: row.index(0)] if 0 in row else row for row in beams]
        results.append([(s, t) for s, t in zip(strings, scores, strict=True) if t > NEVER / 10])
    return results
