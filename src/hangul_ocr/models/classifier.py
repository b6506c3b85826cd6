"""From features to class scores: a plain layer, or one that composes a syllable's score from its jamo."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hangul_ocr.hangul import N_FINAL, N_INITIAL, N_MEDIAL, Alphabet, HangulOcrError

N_JAMO = N_INITIAL + N_MEDIAL + N_FINAL


def jamo_membership(alphabet: Alphabet) -> Tensor:
    """Return (classes, 68): ones at a syllable's initial, medial and final; a row of zeros for any other class."""
    membership = torch.zeros(len(alphabet), N_JAMO)
    for index, initial, medial, final in alphabet.jamo_classes():
        membership[index, [initial, N_INITIAL + medial, N_INITIAL + N_MEDIAL + final]] = 1.0
    return membership


class CompositionalClassifier(nn.Module):
    """A syllable's score is initial + medial + final + its own residual; other characters have the residual alone.

    Syllables that share a jamo share its evidence, so rare ones are learnt from few examples. The sums are folded into
    one weight matrix before the product with the features, so the cost is a dense layer's.
    """

    def __init__(self, width: int, alphabet: Alphabet) -> None:
        super().__init__()
        self.register_buffer("membership", jamo_membership(alphabet), persistent=False)
        self.jamo = nn.Parameter(torch.randn(N_JAMO, width) * width**-0.5)
        # Syllables start from their jamo alone; the residuals of the other characters are all that they have.
        own = torch.randn(len(alphabet), width) * width**-0.5
        self.residual = nn.Parameter(own * (self.membership.sum(1, keepdim=True) == 0))
        self.bias = nn.Parameter(torch.zeros(len(alphabet)))

    def forward(self, features: Tensor) -> Tensor:
        """Return scores (..., classes) for ``features`` (..., width)."""
        return F.linear(features, self.membership @ self.jamo + self.residual, self.bias)


def make_classifier(kind: str, width: int, alphabet: Alphabet) -> nn.Module:
    """Return the classifier named ``compositional`` or ``dense``."""
    if kind == "compositional":
        return CompositionalClassifier(width, alphabet)
    if kind == "dense":
        return nn.Linear(width, len(alphabet))
    raise HangulOcrError(f"classifier {kind!r} is unknown; choose compositional or dense")
