"""From features to class scores: a plain layer, or one that composes a syllable's score from its jamo."""

from __future__ import annotations

from collections.abc import Sequence

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
        return F.linear(features, self._matrix(), self.bias)

    def _matrix(self) -> Tensor:
        return self.membership @ self.jamo + self.residual

    @torch.no_grad()
    def as_linear(self) -> nn.Linear:
        """Return a plain layer that gives the same scores without summing the jamo for each batch."""
        linear = nn.Linear(self.jamo.shape[1], len(self.bias), device=self.bias.device)
        linear.weight.copy_(self._matrix())
        linear.bias.copy_(self.bias)
        return linear

    @torch.no_grad()
    def expect(self, fresh: Sequence[int]) -> None:
        """Give the syllables among the classes ``fresh`` what the other, trained syllables let expect of their jamo.

        Training drives a syllable's residual and bias down wherever it is not seen. Zeros would win over all of them.
        """
        syllables = self.membership.sum(1) > 0
        new = torch.zeros_like(syllables)
        new[list(fresh)] = True
        new, trained = new & syllables, ~new & syllables
        if trained.any():
            jamo = self.membership
            self.residual[new] = _expected(jamo[trained], self.residual[trained], jamo[new])
            self.bias[new] = _expected(jamo[trained], self.bias[trained, None], jamo[new])[:, 0]


def _expected(jamo: Tensor, rows: Tensor, new_jamo: Tensor) -> Tensor:
    """Return for ``new_jamo`` (M, 68) rows (M, D) by least squares from ``jamo`` (N, 68) and their ``rows`` (N, D).

    The mean of all rows and something for each jamo: nothing for one that no row has (ridge regression).
    """
    mean = rows.double().mean(0)
    known = jamo.double()
    ridge = torch.eye(N_JAMO, dtype=torch.double, device=rows.device)
    shares = torch.linalg.solve(known.T @ known + ridge, known.T @ (rows.double() - mean))
    return (mean + new_jamo.double() @ shares).to(rows.dtype)


def make_classifier(kind: str, width: int, alphabet: Alphabet) -> nn.Module:
    """Return the classifier named ``compositional`` or ``dense``."""
    if kind == "compositional":
        return CompositionalClassifier(width, alphabet)
    if kind == "dense":
        return nn.Linear(width, len(alphabet))
    raise HangulOcrError(f"classifier {kind!r} is unknown; choose compositional or dense")
