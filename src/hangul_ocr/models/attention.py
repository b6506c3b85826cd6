"""An attention decoder: one transformer layer that writes a string character by character over the feature sequence.

Trained with teacher forcing in parallel; class 0 ends a string. Vaswani et al., arXiv 1706.03762.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING = -100


class AttentionDecoder(nn.Module):
    """Reads the features (N, T, D) with a causal transformer layer; strings end at class 0 or at ``max_length``."""

    def __init__(self, classifier: nn.Module, classes: int, width: int, max_length: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.max_length = max_length
        self.start = classes
        self.embedding = nn.Embedding(classes + 1, width)
        self.position = nn.Parameter(torch.randn(max_length + 1, width) * 0.02)
        heads = next(n for n in (8, 6, 4, 3, 2, 1) if width % n == 0)
        self.layer = nn.TransformerDecoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)

    def _step_scores(self, features: Tensor, written: Tensor) -> Tensor:
        """Return log probabilities (N, L, classes) of what follows each prefix of ``written`` (N, L)."""
        length = written.shape[1]
        inputs = self.embedding(written) + self.position[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=features.device, dtype=inputs.dtype)
        hidden = self.layer(inputs, features.to(inputs.dtype), tgt_mask=mask, tgt_is_causal=True)
        return self.classifier(self.norm(hidden)).float().log_softmax(dim=-1)

    def _teacher_forced(self, features: Tensor, strings: Sequence[Sequence[int]]) -> Tensor:
        """Return log P of each character and the end (N, L); 0 on the padding."""
        rows = [list(string[: self.max_length]) for string in strings]
        length = max(map(len, rows)) + 1
        inputs = torch.full((len(rows), length), 0, device=features.device)
        outputs = torch.full((len(rows), length), PADDING, device=features.device)
        for i, row in enumerate(rows):
            inputs[i, : len(row) + 1] = torch.tensor([self.start, *row])
            outputs[i, : len(row) + 1] = torch.tensor([*row, 0])
        scores = self._step_scores(features, inputs)
        return -F.nll_loss(scores.transpose(1, 2), outputs, reduction="none", ignore_index=PADDING)

    def loss(self, features: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, alignment: float) -> Tensor:
        """Return the mean cross-entropy of each crop's characters (N,); frame labels have no place here."""
        lengths = torch.tensor([len(t) + 1 for t in targets], device=features.device)
        return -self._teacher_forced(features, targets).sum(1) / lengths

    def unwritable(self, targets: Sequence[Sequence[int]], steps: int) -> int:
        """Return how many labels are longer than ``max_length``: only their beginning is learnt."""
        return sum(len(target) > self.max_length for target in targets)

    def greedy(self, features: Tensor) -> list[tuple[list[int], float]]:
        """Return for each crop the likeliest class step by step, and the string's log probability."""
        return [rows[0] for rows in self.candidates(features, 1)]

    @torch.no_grad()
    def candidates(self, features: Tensor, count: int) -> list[list[tuple[list[int], float]]]:
        """Return for each crop up to ``count`` strings with log probabilities, best first (beam search)."""
        n, device = len(features), features.device
        repeated = features.repeat_interleave(count, dim=0)
        written = torch.full((n * count, 1), self.start, device=device)
        totals = torch.full((n, count), -1e30, device=device)
        totals[:, 0] = 0.0
        for place in range(self.max_length + 1):
            step = self._step_scores(repeated, written)[:, -1].view(n, count, -1)
            if place == self.max_length:
                step[..., 1:] = -1e30  # no room for more: the string must end here
            ended = (written[:, 1:] == 0).any(1).view(n, count)
            totals, parent, symbol = _grow(totals, step, ended)
            rows = (torch.arange(n, device=device)[:, None] * count + parent).flatten()
            written = torch.cat([written[rows], symbol.view(-1, 1)], dim=1)
            if bool((written[:, 1:] == 0).any(1).all()):
                break
        return _strings(written[:, 1:].view(n, count, -1), totals)

    def score(self, features: Tensor, strings: Sequence[Sequence[int]]) -> Tensor:
        """Return log P(string and end | crop), teacher-forced (N,); minus infinity for strings over ``max_length``."""
        scores = self._teacher_forced(features, strings).sum(1)
        fits = torch.tensor([len(string) <= self.max_length for string in strings], device=features.device)
        return scores.masked_fill(~fits, float("-inf"))


def _grow(totals: Tensor, step: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return totals, parent beams and classes (N, K) of the best continuations; an ended string goes on at no cost."""
    n, count, classes = step.shape
    frozen = torch.full((classes,), -1e30, device=step.device)
    frozen[0] = 0.0
    step = torch.where(ended.unsqueeze(-1), frozen, step)
    best, place = (totals.unsqueeze(-1) + step).view(n, -1).topk(count, dim=1)
    return best, place // classes, place % classes


def _strings(written: Tensor, totals: Tensor) -> list[list[tuple[list[int], float]]]:
    results = []
    for beams, scores in zip(written.tolist(), totals.tolist(), strict=True):
        strings = [row[: row.index(0)] if 0 in row else row for row in beams]
        results.append([(s, t) for s, t in zip(strings, scores, strict=True) if t > -1e29])
    return results
