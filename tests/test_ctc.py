import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hangul_ocr.hangul import Alphabet
from hangul_ocr.models import ctc
from hangul_ocr.models.ctc import NEGLIGIBLE, CTCDecoder, collapse, ctc_losses, prefix_beam, prefix_beams
from hangul_ocr.models.language import CharacterNgram, Fusion, Lexicon
from hangul_ocr.settings import LossWeights

ALPHABET = Alphabet("가나다")


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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("steps", "classes", "spread"), [(5, 3, 1.0), (5, 3, 8.0), (4, 4, 2.0), (1, 3, 1.0)])
def test_a_wide_beam_finds_every_string_in_true_order_with_true_probabilities(steps, classes, spread, seed):
    torch.manual_seed(seed)
    grid = torch.randn(steps, classes).mul(spread).log_softmax(-1).numpy()
    truth = sorted(brute_force(grid).items(), key=lambda item: -item[1])
    found = prefix_beam(grid, len(truth), width=len(truth))
    assert [tuple(candidate.classes) for candidate in found] == [string for string, _ in truth]
    assert [candidate.log_probability for candidate in found] == pytest.approx(
        [math.log(p) for _, p in truth], abs=1e-4
    )
    assert [candidate.score for candidate in found] == [candidate.log_probability for candidate in found]


def test_a_narrow_beam_still_reports_true_probabilities(grid):
    truth = brute_force(grid.numpy())
    found = prefix_beam(grid.numpy(), 2, width=2)
    assert len(found) == 2
    for candidate in found:
        assert candidate.log_probability == pytest.approx(math.log(truth[tuple(candidate.classes)]), abs=1e-4)


def test_a_long_grid_does_not_underflow():
    grid = torch.zeros(1200, 3).log_softmax(-1).numpy()
    found = prefix_beam(grid, 3)
    assert len(found) == 3
    assert all(-1200 * math.log(3) < candidate.log_probability < -100 for candidate in found)


def test_a_grid_of_nan_has_no_strings():
    assert prefix_beam(np.full((4, 3), np.nan, np.float32), 3) == []


def test_fusion_ranks_by_the_sum_and_reports_the_crop_s_own_probability(grid):
    truth = brute_force(grid.numpy())
    language = CharacterNgram.fit(["다가", "다가", "나"], 3)
    fusion = Fusion(language, Lexicon(frozenset({"나가"})), 0.7, 0.4, 1.5)
    fused = {s: math.log(p) + fusion.score(ALPHABET.decode(s)) for s, p in truth.items()}
    best = sorted(fused, key=lambda string: -fused[string])[:8]
    found = prefix_beam(grid.numpy(), 8, len(truth), fusion, ALPHABET)
    assert [tuple(candidate.classes) for candidate in found] == best
    assert [candidate.score for candidate in found] == pytest.approx([fused[s] for s in best], abs=1e-4)
    assert [c.log_probability for c in found] == pytest.approx([math.log(truth[s]) for s in best], abs=1e-4)


def near_tie() -> np.ndarray:
    """Return six time steps that show 가, then 나 a little more than 다."""
    probabilities = np.full((6, 4), 0.01)
    probabilities[[0, 2, 3, 5], 0] = probabilities[1, 1] = 0.97
    probabilities[4] = [0.02, 0.02, 0.50, 0.46]
    return np.log(probabilities, dtype=np.float32)


@pytest.mark.parametrize(
    "fusion",
    [
        Fusion(CharacterNgram.fit(["가다"] * 5 + ["나"], 3), None, 0.5, 0.0, 0.0),
        Fusion(None, Lexicon(frozenset({"가다"})), 0.0, 0.0, 1.0),
    ],
    ids=["language", "lexicon"],
)
@pytest.mark.parametrize("width", [4, 16])
def test_a_near_tie_goes_to_what_is_known(fusion, width):
    assert prefix_beam(near_tie(), 1, width)[0].classes == ALPHABET.encode("가나")
    assert prefix_beam(near_tie(), 1, width, fusion, ALPHABET)[0].classes == ALPHABET.encode("가다")


def crowded(seed: int) -> tuple[np.ndarray, list[int]]:
    """Return nine time steps, every other one with 20 near-equal classes of 40, and their seventh best, in order."""
    rng = np.random.default_rng(seed)
    grid, word = np.full((9, 41), -12.0), []
    grid[1::2, 0] = 0
    for step in range(0, 9, 2):
        classes = 1 + rng.permutation(40)[:20]
        grid[step, classes] = np.linspace(0, -1.2, 20)
        word.append(int(classes[6]))
    return grid - np.log(np.exp(grid).sum(1, keepdims=True)), word


SYLLABLES = Alphabet("".join(chr(0xAC00 + i) for i in range(40)))


@pytest.mark.parametrize("bonus", [4.0, 50.0, 2000.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_known_word_is_found_that_leaves_the_beam_on_its_way(seed, bonus):
    grid, word = crowded(seed)
    known = Lexicon(frozenset({SYLLABLES.decode(word), "가나다라마"}))
    fusion = Fusion(None, known, 0.0, 0.0, bonus)
    best, *others = prefix_beam(grid, 16, fusion=fusion, alphabet=SYLLABLES)
    assert best.classes == word
    assert best.score == pytest.approx(best.log_probability + bonus)
    assert others[0].score == others[0].log_probability


@pytest.mark.parametrize("seed", range(5))
def test_a_lexicon_changes_no_score_of_what_it_does_not_hold(seed):
    grid, word = crowded(seed)
    language = CharacterNgram.fit([SYLLABLES.decode([c, c + 1]) for c in range(1, 40)], 2)
    without = Fusion(language, None, 0.5, 0.3, 0.0)
    fusion = replace(without, lexicon=Lexicon(frozenset({SYLLABLES.decode(word)})), lexicon_bonus=9.0)
    plain = {tuple(c.classes): c.score for c in prefix_beam(grid, 16, fusion=without, alphabet=SYLLABLES)}
    found = {tuple(c.classes): c.score for c in prefix_beam(grid, 16, fusion=fusion, alphabet=SYLLABLES)}
    expected = plain | {tuple(word): found[tuple(word)]}
    assert len(found) == 16
    assert found == {string: pytest.approx(expected[string]) for string in found}


def test_a_length_bonus_makes_strings_longer():
    bonus = Fusion(None, None, 0.0, 5.0, 0.0)
    assert len(prefix_beam(near_tie(), 1, 16, bonus, ALPHABET)[0].classes) > 2


def test_fusion_without_an_alphabet_is_refused():
    with pytest.raises(ValueError, match="alphabet"):
        prefix_beam(near_tie(), 1, fusion=Fusion(None, None, 0.0, 1.0, 0.0))


def test_a_decoder_can_be_fused_and_set_free_again():
    decoder = CTCDecoder(nn.Identity())
    features = torch.from_numpy(near_tie())[None]
    plain = decoder.candidates(features, 2)
    state = list(decoder.state_dict())
    decoder.fuse(Fusion(None, Lexicon(frozenset({"가다"})), 0.0, 0.0, 1.0), ALPHABET)
    fused = decoder.candidates(features, 2)
    assert [string for string, _ in fused[0]] == [string for string, _ in plain[0]][::-1]
    assert dict((tuple(s), p) for s, p in fused[0]) == dict((tuple(s), p) for s, p in plain[0])
    assert list(decoder.state_dict()) == state
    decoder.fuse(None)
    assert decoder.candidates(features, 2) == plain


def test_score_sums_all_paths(grid):
    decoder = CTCDecoder(nn.Identity())
    truth = brute_force(grid.numpy())
    strings = [[1], [1, 1], [2, 3, 1], []]
    scores = decoder.score(grid.expand(4, -1, -1), strings)
    assert scores.tolist() == pytest.approx([math.log(truth[tuple(s)]) for s in strings], abs=1e-4)


def test_several_strings_of_one_crop_score_as_each_would_alone(grid):
    grids = torch.stack([grid, grid.flip(0)])
    rows, strings = [1, 0, 1, 1], [[1], [1, 1], [2, 3, 1], []]
    together = CTCDecoder(nn.Identity()).score(grids, strings, rows)
    alone = [CTCDecoder(nn.Identity()).score(grids[[row]], [s]).item() for row, s in zip(rows, strings, strict=True)]
    assert together.tolist() == pytest.approx(alone)
    assert CTCDecoder(nn.Identity()).score(grids, [], []).tolist() == []


def test_greedy_tells_the_string_s_probability_and_not_its_path_s(grid):
    [(string, probability)] = CTCDecoder(nn.Identity()).greedy(grid[None])
    assert string == collapse(grid.argmax(-1).tolist())
    assert probability == pytest.approx(math.log(brute_force(grid.numpy())[tuple(string)]), abs=1e-4)


@pytest.mark.parametrize("steps_at_once", [1, 24, 30, 1000])
def test_strings_are_the_same_in_however_many_parts_they_are_read(steps_at_once, monkeypatch):
    torch.manual_seed(4)
    grids = torch.randn(7, 12, 20).mul(4).log_softmax(-1)
    decoder = CTCDecoder(nn.Identity())
    whole = decoder.greedy(grids), decoder.candidates(grids, 1)
    monkeypatch.setattr(ctc, "STEPS_AT_ONCE", steps_at_once)
    assert (decoder.greedy(grids), decoder.candidates(grids, 1)) == whole
    assert decoder.greedy(grids[:0]) == decoder.candidates(grids[:0], 1) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_is_negligible_is_not_followed_and_what_is_likely_stays_the_same(seed):
    torch.manual_seed(seed)
    peaks = torch.zeros(4, 12, 40).scatter_(-1, torch.randint(0, 40, (4, 12, 1)), 9.0)
    grids = (peaks + 2 * torch.randn(4, 12, 40)).log_softmax(-1)
    everything, some = (prefix_beams(grids, 16, negligible=share) for share in (0.0, NEGLIGIBLE))
    for all_strings, strings in zip(everything, some, strict=True):
        best = all_strings[0].score
        likely = [c for c in all_strings if c.score > best + math.log(100 * NEGLIGIBLE)]
        assert strings[: len(likely)] == likely
        assert all(c.score > best + math.log(NEGLIGIBLE) - 1 for c in strings)


@pytest.mark.parametrize("spread", [1.0, 3.0, 9.0])
def test_a_single_candidate_is_the_likeliest_string_and_not_the_likeliest_path(spread):
    torch.manual_seed(5)
    grids = torch.randn(40, 4, 4).mul(spread).log_softmax(-1)
    decoder = CTCDecoder(nn.Identity())
    for grid, [(string, probability)] in zip(grids, decoder.candidates(grids, 1), strict=True):
        truth = brute_force(grid.numpy())
        assert tuple(string) == max(truth, key=truth.get)
        assert probability == pytest.approx(math.log(truth[tuple(string)]), abs=1e-4)
    if spread < 9:
        assert [row[0][0] for row in decoder.candidates(grids, 1)] != [string for string, _ in decoder.greedy(grids)]
    assert decoder.candidates(torch.full((1, 4, 4), math.nan), 1) == [[]]


def test_a_clear_crop_has_one_candidate():
    clear = torch.full((1, 6, 4), -30.0).scatter_(-1, torch.tensor([0, 1, 1, 0, 2, 0])[None, :, None], 0.0)
    assert [string for string, _ in CTCDecoder(nn.Identity()).candidates(clear, 5)[0]] == [[1, 2]]


def test_what_the_grid_cannot_write_is_impossible_to_score_and_harmless_to_train(grid):
    decoder = CTCDecoder(nn.Identity())
    too_long = [[1, 1, 1, 1]]
    assert decoder.score(grid[None], too_long).item() == -math.inf
    assert ctc_losses(grid[None], too_long).item() == 0.0


def test_known_frames_add_their_cross_entropy(grid):
    decoder = CTCDecoder(nn.Identity())
    frames = torch.tensor([[-1, 2, -1, 0, -1]])
    plain = decoder.loss(grid[None], [[2]], frames, LossWeights())
    helped = decoder.loss(grid[None], [[2]], frames, LossWeights(alignment=1.0))
    expected = -(grid[1, 2] + grid[3, 0]) / 2
    assert (helped - plain).item() == pytest.approx(expected.item(), abs=1e-5)
