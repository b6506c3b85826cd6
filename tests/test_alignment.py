"""Alignments: CTC's occupancy against a sum over all paths, attention's weights against what the decoder computes."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from hangul_ocr.evaluation.alignment import Alignment, ctc_occupancy
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference.alignment import align_crop
from hangul_ocr.models.ctc import collapse
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import preset

ALPHABET = Alphabet("가나다라")
ACROSS, DOWN = np.zeros((32, 100, 3), np.uint8), np.zeros((100, 32, 3), np.uint8)


def recognizer(decoder: str) -> Recognizer:
    torch.manual_seed(0)
    settings = dataclasses.replace(preset("smoke").model, decoder=decoder, classifier="dense")
    return Recognizer(settings, ALPHABET).eval()


def occupancy_by_paths(posteriors: np.ndarray, classes: list[int]) -> np.ndarray:
    """Walk every path that spells ``classes``, and note which character writes each of its steps."""
    total, steps = 0.0, len(posteriors)
    found = np.zeros((len(classes), steps))
    for path in itertools.product(range(posteriors.shape[1]), repeat=steps):
        if collapse(path) != classes:
            continue
        probability = np.prod([posteriors[t, c] for t, c in enumerate(path)])
        starts = [c != 0 and (t == 0 or path[t - 1] != c) for t, c in enumerate(path)]
        for t, (c, number) in enumerate(zip(path, np.cumsum(starts), strict=True)):
            if c:
                found[number - 1, t] += probability
        total += probability
    return found / total


@pytest.mark.parametrize("classes", [[1], [1, 2], [1, 1, 3], [2, 1, 2]])
def test_occupancy_is_the_sum_over_all_paths(classes):
    posteriors = np.random.default_rng(0).dirichlet(np.ones(4), 6)
    np.testing.assert_allclose(ctc_occupancy(posteriors, classes), occupancy_by_paths(posteriors, classes), atol=1e-12)


def test_certain_frames_give_certain_places():
    posteriors = np.eye(3)[[0, 1, 1, 0, 2, 0]]
    found = Alignment("가나", ctc_occupancy(posteriors, [1, 2]), "CTC")
    np.testing.assert_allclose(found.weights, [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(found.places(), [2 / 6, 4.5 / 6])


def test_a_long_text_does_not_underflow():
    posteriors = np.random.default_rng(1).dirichlet(np.ones(50) * 0.05, 400)
    found = ctc_occupancy(posteriors, list(range(1, 40)))
    assert np.isfinite(found).all()
    assert (found.sum(axis=1) > 0.99).all()  # every character is written somewhere
    assert (found.sum(axis=0) < 1 + 1e-9).all()


def test_too_few_time_steps_are_an_error():
    with pytest.raises(HangulOcrError, match="2 time steps cannot write 2 characters"):
        ctc_occupancy(np.full((2, 3), 1 / 3), [1, 1])  # equal neighbours need a blank between them


@pytest.mark.parametrize(
    ("decoder", "methods"),
    [
        ("ctc", ["CTC"]),
        ("attention", ["attention"]),
        ("lstm_attention", ["attention"]),
        ("hybrid", ["CTC", "attention"]),
    ],
)
def test_every_decoder_tells_where_it_looked(decoder, methods):
    model = recognizer(decoder)
    found = align_crop(model, ACROSS, "가나다")
    assert [one.method for one in found] == methods
    for one in found:
        assert one.read == "가나다"
        assert one.weights.shape == (3, model.settings.time_steps(96))
        assert not one.down
    assert align_crop(model, DOWN, "가")[0].down


@pytest.mark.parametrize("decoder", ["attention", "lstm_attention"])
def test_attended_weights_are_those_the_decoder_reads_with(decoder):
    """Features that count only where the weights are: the decoder's output must not change without the others."""
    attention = recognizer(decoder).decoder
    features, inputs = torch.randn(1, 9, 32), torch.tensor([[attention.start, 1, 2]])
    weights = attention.attended(features, inputs)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3))
    doubled = torch.cat([features, features], dim=1)
    torch.testing.assert_close(attention.attended(doubled, inputs), torch.cat([weights, weights], dim=2) / 2)


def test_attended_goes_through_the_same_layers_as_reading():
    attention, seen = recognizer("attention").decoder, []
    attention.layer.multihead_attn.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    features, inputs = torch.randn(2, 9, 32), torch.tensor([[attention.start, 1, 2]] * 2)
    attention.teacher_forced(features, inputs)
    attention.attended(features, inputs)
    torch.testing.assert_close(seen[0], seen[1])


def test_the_greedy_reading_is_aligned_by_default():
    model = recognizer("ctc")
    image = np.random.default_rng(0).integers(0, 256, (32, 100, 3)).astype(np.uint8)
    found = align_crop(model, image)[0]
    assert found.read
    np.testing.assert_allclose(align_crop(model, image, found.read)[0].weights, found.weights)
