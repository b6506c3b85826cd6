"""CTC guided by an attention branch: both learn from the same features, and CTC alone reads, unless asked for both.

Hu et al., "GTC: Guided Training of CTC", AAAI 2020; joint scoring as in Watanabe et al., "Hybrid CTC/Attention
Architecture for End-to-End Speech Recognition", IEEE JSTSP 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hangul_ocr.models.attention import AutoregressiveDecoder
from hangul_ocr.models.ctc import CTCDecoder
from hangul_ocr.settings import LossWeights

RESCORED = 5  # strings of CTC that both score, at the least: of a single one there is nothing to choose


class HybridDecoder(nn.Module):
    """A CTC decoder with an attention branch; ``joint_share`` (0..1) of a string's score is the attention's."""

    def __init__(self, ctc: CTCDecoder, attention: AutoregressiveDecoder, joint_share: float = 0.0) -> None:
        super().__init__()
        self.ctc, self.attention, self.joint_share = ctc, attention, joint_share

    def loss(self, features: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, weights: LossWeights) -> Tensor:
        """Return CTC's loss of each crop (N,), plus ``weights.guidance`` times the attention's."""
        loss = self.ctc.loss(features, targets, frames, weights)
        if weights.guidance > 0:
            loss = loss + weights.guidance * self.attention.loss(features, targets, frames, weights)
        return loss

    def freeze_unused(self, weights: LossWeights) -> None:
        """Freeze the attention branch where the loss leaves it out: several processes would wait for its gradients."""
        self.attention.requires_grad_(weights.guidance > 0)

    def unwritable(self, targets: Sequence[Sequence[int]], steps: int) -> int:
        """Return how many labels CTC cannot write in ``steps`` time steps."""
        return self.ctc.unwritable(targets, steps)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Return CTC's (N, T, classes)."""
        return self.ctc.log_probabilities(features)

    def greedy(self, features: Tensor) -> list[tuple[list[int], float]]:
        """Return CTC's greedy reading: the attention branch costs nothing here."""
        return self.ctc.greedy(features)

    def candidates(self, features: Tensor, count: int) -> list[list[tuple[list[int], float]]]:
        """Return CTC's N-best; with a ``joint_share``, ranked anew by the score of both."""
        if not self.joint_share:
            return self.ctc.candidates(features, count)
        found = self.ctc.candidates(features, max(count, RESCORED))
        rows = [i for i, group in enumerate(found) for _ in group]
        if not rows:  # features of NaN have no strings
            return found
        strings = [string for group in found for string, _ in group]
        scores = iter(self.score(features, strings, rows).tolist())
        rescored = [[(string, next(scores)) for string, _ in group] for group in found]
        return [sorted(group, key=lambda item: -item[1])[:count] for group in rescored]

    def score(self, features: Tensor, strings: Sequence[Sequence[int]], rows: Sequence[int] | None = None) -> Tensor:
        """Return each string's score (S,): log P under CTC, or the weighted mean of both decoders' log P.

        ``rows`` (S,) names the crop of each string; without it each crop has one.
        """
        if not self.joint_share:
            return self.ctc.score(features, strings, rows)
        attended = self.attention.score(features, strings, rows)
        if self.joint_share == 1:  # minus infinity under CTC has no share, either
            return attended
        return (1 - self.joint_share) * self.ctc.score(features, strings, rows) + self.joint_share * attended
