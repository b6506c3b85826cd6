"""Characters that weights have never seen: they must not get in the way, and be ready to be learnt."""

from __future__ import annotations

import pytest
import torch

from hangul_ocr.data.batches import fixed_groups
from hangul_ocr.hangul import Alphabet, is_syllable
from hangul_ocr.models.checkpoint import initialise_from, load_model, save_model
from hangul_ocr.models.classifier import CompositionalClassifier
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.synthesis.stream import synthetic_sources
from hangul_ocr.weights import shipped_weights


@pytest.fixture(scope="module")
def shipped() -> Recognizer:
    return load_model(shipped_weights())


@pytest.fixture(scope="module")
def groups(shipped):
    return fixed_groups(synthetic_sources(None, 0, 64)[1], shipped.settings, shipped.alphabet)


def started(shipped: Recognizer, characters: str, path) -> Recognizer:
    """Return the shipped network with the alphabet ``characters``, begun from the weights at ``path``."""
    model = Recognizer(shipped.settings, Alphabet(characters))
    initialise_from(model, path)
    return model.eval()


def readings(model: Recognizer, groups) -> list[str]:
    return [text for group in groups for [(text, _)] in model.candidates(group.images, 1)]


@pytest.mark.parametrize("extra", ["뷁", "펲", "믜", "漢①", "뷁펲믜햏"])
def test_characters_that_do_not_occur_change_nothing_that_is_read(shipped, groups, extra):
    longer = started(shipped, shipped.alphabet.characters + extra, shipped_weights())
    assert readings(longer, groups) == readings(shipped, groups)


def test_syllables_that_were_never_learnt_are_mostly_read_at_once(shipped, groups, tmp_path):
    """The weights forget the rows of every tenth syllable, and get them back from the others' jamo alone."""
    unseen = {c for c in shipped.alphabet.characters if is_syllable(c) and ord(c) % 10 == 0}
    less = "".join(c for c in shipped.alphabet.characters if c not in unseen)
    save_model(tmp_path / "less.safetensors", started(shipped, less, shipped_weights()))
    again = started(shipped, shipped.alphabet.characters, tmp_path / "less.safetensors")
    pairs = zip(readings(shipped, groups), readings(again, groups), strict=True)
    held = [(before, after) for before, after in pairs if unseen & set(before)]
    assert len(held) >= 8
    assert sum(before == after for before, after in held) >= 0.5 * len(held), held


def test_what_jamo_add_to_residuals_and_biases_is_expected_of_a_new_syllable():
    torch.manual_seed(0)
    alphabet = Alphabet("".join(chr(0xAC00 + 588 * i + 28 * m + f) for i in range(6) for m in range(6) for f in (0, 1)))
    classifier = CompositionalClassifier(8, alphabet)
    shares = torch.randn(68, 8)
    with torch.no_grad():
        classifier.residual.copy_(classifier.membership @ shares)
        classifier.bias.copy_(classifier.membership @ shares[:, 0] - 5)
    residual, bias = classifier.residual.clone(), classifier.bias.clone()
    with torch.no_grad():
        classifier.residual[7], classifier.bias[7] = 0, 0
    classifier.expect([7])
    assert (classifier.residual[7] - residual[7]).norm() < 0.2 * residual[7].norm()
    assert abs(classifier.bias[7] - bias[7]) < 0.5
    others = [row for row in range(1, len(alphabet)) if row != 7]
    assert torch.equal(classifier.residual[others], residual[others])


def test_without_a_trained_syllable_new_ones_start_from_their_jamo_alone():
    classifier = CompositionalClassifier(8, Alphabet("가나a"))
    classifier.expect([1, 2])
    assert not classifier.residual[1:3].any()
    assert not classifier.bias.any()
