import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from hangul_ocr.models.ctc import CTCDecoder, collapse, ctc_losses, prefix_beam


def brute_force(log_probabilities: np.ndarray) -> dict[tuple[int, ...], float]:
    """Sum the probability of every path, by the string that it collapses to."""
    steps, classes = log_probabilities.shape
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(classes), repeat=steps):
        probability = math.exp(sum(log_probabilities[t, c] for t, c in enumerate(path)))
        string = tuple(collapse(path))
        totals[string] = totals.get(string, 0.0) + probability
    return totals


@pytest.fixture
def grid():
    torch.manual_seed(3)
    return torch.randn(5, 4).mul(2).log_softmax(-1)


def test_collapse_merges_repeats_and_keeps_doubles_with_a_blank_between():
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]


def test_beam_finds_the_true_order_and_probabilities(grid):
    truth = brute_force(grid.numpy())
    best = sorted(truth.items(), key=lambda item: -item[1])[:6]
    found = prefix_beam(grid.numpy(), 6, width=64)
    assert [tuple(string) for string, _ in found] == [string for string, _ in best]
    assert [score for _, score in found] == pytest.approx([math.log(p) for _, p in best], abs=1e-4)


def test_score_sums_all_paths(grid):
    decoder = CTCDecoder(nn.Identity())
    truth = brute_force(grid.numpy())
    strings = [[1], [1, 1], [2, 3, 1], []]
    scores = decoder.score(grid.expand(4, -1, -1), strings)
    assert scores.tolist() == pytest.approx([math.log(truth[tuple(s)]) for s in strings], abs=1e-4)


def test_what_the_grid_cannot_write_is_impossible_to_score_and_harmless_to_train(grid):
    decoder = CTCDecoder(nn.Identity())
    too_long = [[1, 1, 1, 1]]
    assert decoder.score(grid[None], too_long).item() == -math.inf
    assert ctc_losses(grid[None], too_long).item() == 0.0


def test_known_frames_add_their_cross_entropy(grid):
    decoder = CTCDecoder(nn.Identity())
    frames = torch.tensor([[-1, 2, -1, 0, -1]])
    plain = decoder.loss(grid[None], [[2]], frames, 0.0)
    helped = decoder.loss(grid[None], [[2]], frames, 1.0)
    expected = -(grid[1, 2] + grid[3, 0]) / 2
    assert (helped - plain).item() == pytest.approx(expected.item(), abs=1e-5)
