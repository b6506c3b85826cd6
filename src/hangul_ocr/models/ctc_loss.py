"""What CTC learns from, with one pass of exponentials over the whole alphabet.

With thousands of classes PyTorch's own chain (log-softmax, CTC over the full grid, gathers) passes over the grid
(N, T, classes) again and again. But a label touches a handful of classes: CTC runs here on those columns alone, and the
gradient is put together once, as probabilities minus what the label explains (Graves et al., ICML 2006, equation 16).
What it saves is in benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hangul_ocr.hangul import UNKNOWN_CLASS, ctc_steps_needed


def training_losses(logits: Tensor, targets: Sequence[Sequence[int]], frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return (-log P(target), frame loss), each (N,), of ``logits`` (N, T, classes), class 0 being the blank.

    A target that needs more than T time steps has loss 0 and no gradient. ``frames`` (N, T) names the class of each
    time step where it is known, else ``UNKNOWN_CLASS``; the frame loss is the mean cross-entropy of the known ones.
    """
    device = logits.device
    columns, symbols = label_columns(targets)
    fits = torch.tensor([ctc_steps_needed(target) <= logits.shape[1] for target in targets], device=device)
    lengths = torch.tensor([len(target) for target in targets], device=device)
    return _TrainingLosses.apply(
        logits.float(), columns.to(device), symbols.to(device), lengths, fits, frames.to(device)
    )


def label_columns(targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return each label's classes (N, U), the blank first and once each, and all labels as places in them (sum L)."""
    rows = [list(dict.fromkeys([0, *target])) for target in targets]
    columns = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.long)
    for n, row in enumerate(rows):
        columns[n, : len(row)] = torch.tensor(row)
    places = [{symbol: place for place, symbol in enumerate(row)} for row in rows]
    symbols = [place[symbol] for place, target in zip(places, targets, strict=True) for symbol in target]
    return columns, torch.tensor(symbols, dtype=torch.long)


class _TrainingLosses(torch.autograd.Function):
    """Both losses of :func:`training_losses` and their gradient with respect to the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, columns: Tensor, symbols: Tensor, lengths: Tensor, fits: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        grid = logits.softmax(-1)
        # From the likeliest class, whose probability cannot underflow; subtracted first, for large logits are rounded.
        peak, log_peak = logits.amax(-1, keepdim=True), grid.amax(-1, keepdim=True).log()
        index = columns.unsqueeze(1).expand(-1, grid.shape[1], -1)
        losses, explained = _on_columns(logits.gather(-1, index) - peak + log_peak, symbols, lengths, fits)
        known = frames != UNKNOWN_CLASS
        share = known / known.sum(1, keepdim=True).clamp(min=1)
        picked = (logits.gather(-1, frames.clamp(min=0).unsqueeze(-1)) - peak + log_peak).squeeze(-1)
        ctx.save_for_backward(grid, index, explained, fits, frames, share)
        return losses, -(picked * share).sum(1)

    @staticmethod
    def backward(ctx: Any, of_label: Tensor, of_frames: Tensor) -> tuple[Tensor | None, ...]:
        grid, index, explained, fits, frames, share = ctx.saved_tensors
        label_weight = (of_label * fits)[:, None, None]
        frame_weight = (of_frames[:, None] * share).unsqueeze(-1)
        gradient = grid.mul_(label_weight + frame_weight)  # in place: autograd refuses to come here twice
        gradient.scatter_add_(-1, index, -explained * label_weight)
        gradient.scatter_add_(-1, frames.clamp(min=0).unsqueeze(-1), -frame_weight)
        return gradient, None, None, None, None, None


def _on_columns(columns: Tensor, symbols: Tensor, lengths: Tensor, fits: Tensor) -> tuple[Tensor, Tensor]:
    """Return CTC's losses (N,) and the probability (N, T, U) that the label is at a class at a time step.

    PyTorch's gradient is probability minus that, also where the columns do not sum to one.
    """
    with torch.enable_grad():
        columns = columns.detach().requires_grad_()
        steps = torch.full_like(lengths, columns.shape[1])
        losses = F.ctc_loss(columns.transpose(0, 1), symbols, steps, lengths, reduction="none", zero_infinity=True)
        gradient = torch.autograd.grad(losses.sum(), columns)[0]
    return losses.detach() * fits, columns.detach().exp() - gradient
