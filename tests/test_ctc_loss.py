"""The loss that looks at a label's own classes, against PyTorch's chain over the whole alphabet."""

import pytest
import torch

from hangul_ocr.hangul import UNKNOWN_CLASS
from hangul_ocr.models.ctc import ctc_losses
from hangul_ocr.models.ctc_loss import training_losses

STEPS, CLASSES = 7, 30
# A repeat, a label longer than its distinct classes, one that seven steps cannot write, an empty one, the last class.
TARGETS = [[3, 3, 5], [1, 2, 1, 2, 1], [4] * 5, [], [29], [7, 8, 9, 10, 11, 12, 13]]


def whole_grid(logits, targets, frames):
    """The same two losses by PyTorch's log-softmax, CTC and gather."""
    grid = logits.log_softmax(-1)
    known = frames != UNKNOWN_CLASS
    picked = grid.gather(-1, frames.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return ctc_losses(grid, targets), -(picked * known).sum(1) / known.sum(1).clamp(min=1)


@pytest.fixture
def grid():
    torch.manual_seed(0)
    logits = torch.randn(len(TARGETS), STEPS, CLASSES, dtype=torch.float32) * 3
    frames = torch.randint(0, CLASSES, (len(TARGETS), STEPS))
    frames[:, 2:4] = UNKNOWN_CLASS
    frames[1] = UNKNOWN_CLASS
    return logits, frames


def gradients(losses, logits, frames, weights):
    logits = logits.clone().requires_grad_()
    of_label, of_frames = losses(logits, TARGETS, frames)
    (of_label * weights + 0.7 * of_frames).sum().backward()
    return of_label.detach(), of_frames.detach(), logits.grad


def test_values_and_gradients_are_those_of_the_whole_grid(grid):
    weights = torch.linspace(0.2, 1.5, len(TARGETS))
    found = gradients(training_losses, *grid, weights)
    expected = gradients(whole_grid, *grid, weights)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)
    assert found[0][2] == 0  # [4] * 5 needs nine steps


def test_a_label_that_cannot_be_written_teaches_nothing():
    logits = torch.randn(1, 3, CLASSES, requires_grad=True)
    losses, of_frames = training_losses(logits, [[1, 1, 1]], torch.full((1, 3), UNKNOWN_CLASS))
    (losses + of_frames).sum().backward()
    assert losses.item() == of_frames.item() == 0
    assert not logits.grad.any()


def test_gradients_agree_with_finite_differences_at_a_confident_grid():
    logits = torch.zeros(1, 4, 6)
    logits[0, [0, 1, 2, 3], [1, 0, 2, 2]] = 12.0
    frames = torch.tensor([[1, UNKNOWN_CLASS, 2, UNKNOWN_CLASS]])
    logits.requires_grad_()
    losses, of_frames = training_losses(logits, [[1, 2]], frames)
    (losses + of_frames).sum().backward()
    step = torch.zeros_like(logits)
    step[0, 3, 4] = 1e-2
    ahead = sum(x.item() for x in training_losses(logits.detach() + step, [[1, 2]], frames))
    behind = sum(x.item() for x in training_losses(logits.detach() - step, [[1, 2]], frames))
    assert logits.grad[0, 3, 4].item() == pytest.approx((ahead - behind) / 2e-2, abs=1e-4)


@pytest.mark.parametrize("offset", [-1e4, 1e3, 1e4])
def test_a_shift_of_all_logits_changes_nothing(offset):
    logits = torch.randint(-64, 64, (2, 9, 30)) / 16  # sixteenths stay exact at ten thousand
    frames = torch.tensor([[1] * 9, [UNKNOWN_CLASS] * 9])
    expected = training_losses(logits, [[1, 2], [3]], frames)
    for ours, theirs in zip(training_losses(logits + offset, [[1, 2], [3]], frames), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-6)


def test_a_second_way_back_is_refused(grid):
    logits, frames = grid
    losses, _ = training_losses(logits.requires_grad_(), TARGETS, frames)
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()
