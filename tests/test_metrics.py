"""Scores: known distances, known intervals, the wildcard of K-STR-Bench, and joins that refuse to guess."""

import unicodedata
from itertools import product

import numpy as np
import pandas as pd
import pytest
from rapidfuzz.distance import Levenshtein

from hangul_ocr.evaluation import metrics
from hangul_ocr.hangul import HangulOcrError, to_jaso


def test_exact_match_counts_spaces_and_ignores_the_unicode_form():
    texts = [unicodedata.normalize("NFD", "한글"), "맛 집", "가"]
    assert metrics.exact_matches(texts, ["한글", "맛집", "나"]).tolist() == [True, False, False]
    assert metrics.exact_matches_without_spaces(texts, ["한글", "맛집", "나"]).tolist() == [True, True, False]


def test_character_error_rate_is_micro_averaged():
    # One edit in one character and none in nine: the macro average would be 0.5.
    scores = metrics.score(["가", "가나다라마바사아자"], ["나", "가나다라마바사아자"])
    assert scores.cer == pytest.approx(0.1)
    assert metrics.score(["가"], ["가나다"]).cer == 2.0


def test_one_minus_ned_divides_by_the_longer_side():
    values = metrics.normalised_similarities(["가나", "가", "", "가"], ["가나다라", "", "", "가"])
    assert values.tolist() == [0.5, 0.0, 1.0, 1.0]
    assert metrics.one_minus_ned(["가나", "가"], ["가나다라", ""]) == 0.25


def test_jaso_sees_how_near_a_wrong_syllable_is():
    # 각 is three units and 강 differs in the final alone; 가 lacks it; spaces do not count, case does.
    assert metrics.jaso_similarities(["각"], ["강"])[0] == pytest.approx(2 / 3)
    assert metrics.jaso_similarities(["각"], ["가"])[0] == pytest.approx(2 / 3)
    assert metrics.jaso_similarities(["가 나"], ["가나"])[0] == 1.0
    assert metrics.jaso_similarities(["Ab"], ["ab"])[0] == 0.5


@pytest.mark.parametrize("prediction", ["가나", "가다나", "가A나", "가□나"])
def test_wildcard_stands_for_zero_or_one_character(prediction):
    assert metrics.exact_matches_without_spaces(["가□나"], [prediction])[0]
    assert metrics.jaso_similarities(["가□나"], [prediction])[0] == 1.0


def test_wildcard_does_not_stand_for_two_characters_nor_hide_another_error():
    assert not metrics.exact_matches_without_spaces(["가□나"], ["가다라나"])[0]
    assert not metrics.exact_matches_without_spaces(["가□나"], ["다라나"])[0]
    # 가□나 read as 가다나 is right, so of 가다너 one of six units is wrong.
    assert metrics.jaso_similarities(["가□나"], ["가다너"])[0] == pytest.approx(5 / 6)
    assert not metrics.exact_matches(["가□나"], ["가나"])[0], "the competition knows no wildcard"


def test_wildcard_takes_the_nearest_reading_of_all():
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(rng.choice(list("가각A□"), rng.integers(1, 5)))
        prediction = "".join(rng.choice(list("가각낙A"), rng.integers(0, 5)))
        distance, longest = metrics._wildcard_distance(text, prediction)
        assert (distance, longest) == _nearest_by_trying_all(text, prediction)


def _nearest_by_trying_all(text: str, prediction: str) -> tuple[int, int]:
    choices = [["", *prediction] if character == "□" else [character] for character in text]
    found = []
    for reading in product(*choices):
        a, b = to_jaso("".join(reading)), to_jaso(prediction)
        found.append((Levenshtein.distance(a, b), -len(a), len(b)))
    distance, minus_units, other = min(found)
    return distance, max(-minus_units, other)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_agrees_with_published_values(successes, n, low, high):
    assert metrics.wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_nothing_is_everything():
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


def test_bootstrap_covers_the_mean_and_widens_with_groups():
    values = np.repeat(np.arange(20) % 2, 50).astype(float)
    alone = metrics.bootstrap_interval(values)
    grouped = metrics.bootstrap_interval(values, groups=np.repeat(np.arange(20), 50))
    assert alone[0] < 0.5 < alone[1]
    assert grouped[1] - grouped[0] > 4 * (alone[1] - alone[0])
    assert metrics.bootstrap_interval(values) == alone, "the same seed gives the same interval"


def test_rows_that_are_all_right_or_all_wrong_still_have_an_interval():
    groups = list("aabbccddee")
    assert metrics.accuracy_interval([True] * 10) == metrics.wilson_interval(10, 10)
    assert metrics.accuracy_interval([True] * 10, groups) == metrics.wilson_interval(5, 5)
    assert metrics.accuracy_interval([False] * 10, groups) == metrics.wilson_interval(0, 5)
    assert metrics.accuracy_interval([], []) == (0.0, 1.0)
    low, high = metrics.score(["가"] * 10, ["가"] * 10, groups).intervals["exact"]
    assert low < high == 1
    mixed = [True] * 9 + [False]
    assert metrics.accuracy_interval(mixed, groups) == metrics.bootstrap_interval(mixed, groups=groups)


def test_bootstrap_of_a_ratio_weighs_its_rows():
    assert metrics.bootstrap_interval([1.0, 2.0], weights=[2.0, 4.0]) == (0.5, 0.5)


def test_mcnemar_counts_the_rows_that_differ():
    texts = ["가"] * 20
    first = ["가"] * 10 + ["나"] * 10
    second = ["가"] * 9 + ["나"] + ["가"] * 8 + ["나"] * 2
    result = metrics.paired_test(texts, first, second)
    assert (result.only_first, result.only_second) == (1, 8)
    # Binomial(9, 1/2): 2 (1 + 9) / 512.
    assert result.p_value == pytest.approx(20 / 512)
    assert metrics.paired_test(texts, first, first).p_value == 1.0


def test_crops_of_one_photograph_change_places_together():
    texts = ["가"] * 12
    first, second = ["가"] * 6 + ["나"] * 6, ["나"] * 6 + ["가"] * 6
    assert metrics.paired_test(texts, first, second, list("aaaaaabbbbbb")).p_value == 1.0
    better = ["가"] * 12
    # Six crops better: 2 of 64 ways to flip them are as far from nought; as one photograph, both of 2.
    assert metrics.paired_test(texts, first, better).p_value == pytest.approx(2 / 64)
    assert metrics.paired_test(texts, first, better, list("aaaaaabbbbbb")).p_value == 1.0
    # Photographs that gain 1, 2 and 3 crops: 2 of 8 ways.
    assert metrics.paired_test(texts, first, better, list("aaaaaabccddd")).p_value == pytest.approx(2 / 8)


def test_the_test_of_photographs_keeps_its_level():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(60), 6)
    found = []
    for _ in range(300):
        readings = [np.repeat(rng.random(60) < 0.8, 6) for _ in range(2)]
        first, second = (np.where(right, "가", "나").tolist() for right in readings)
        found.append(metrics.paired_test(["가"] * 360, first, second, groups.tolist()).p_value < 0.05)
    assert np.mean(found) < 0.08


def test_mcnemar_holds_for_thousands_of_rows():
    n = 6000
    result = metrics.paired_test(["가"] * n, ["가"] * 3000 + ["나"] * 3000, ["나"] * 3000 + ["가"] * 3000)
    assert result.p_value == 1.0


def test_scores_carry_values_and_intervals():
    scores = metrics.score(["가나", "다 라", "마"], ["가나", "다라", "바"])
    assert (scores.n, scores.exact) == (3, pytest.approx(1 / 3))
    assert scores.exact_without_spaces == pytest.approx(2 / 3)
    assert scores.cer == pytest.approx(2 / 6)
    assert scores.intervals["exact"] == metrics.wilson_interval(1, 3)
    assert all(low <= getattr(scores, name) <= high for name, (low, high) in scores.intervals.items())


def test_scores_of_nothing_are_not_numbers():
    assert np.isnan(metrics.score([], []).exact)


def test_scores_refuse_lists_of_different_length():
    with pytest.raises(ValueError, match="2 texts, but 1"):
        metrics.score(["가", "나"], ["가"])


def test_scores_table_shows_a_column_for_each_name():
    scores = metrics.score(["가", "나"], ["가", "다"])
    table = metrics.scores_table({"fold 0": scores, "모두": scores})
    assert list(table.columns) == ["fold 0", "모두"]
    assert table.iloc[0, 0].startswith("50.00 % (")
    assert table.loc["rows", "모두"] == "2"


def _table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_join_follows_the_answers_and_not_the_position():
    predictions = _table(img_path=["b.png", "./a.png"], text=["비", "에이"], confidence=["0.5", "0.9"])
    joined = metrics.join_answers(predictions, _table(img_path=["./a.png", "./b.png"], text=["에이", "비"]))
    assert joined["img_path"].tolist() == ["./a.png", "./b.png"]
    assert joined["prediction"].tolist() == ["에이", "비"]
    assert joined["text"].tolist() == ["에이", "비"]
    assert joined["confidence"].tolist() == ["0.9", "0.5"]


def test_join_takes_decomposed_file_names_for_the_same():
    path = "./test/간판.png"
    joined = metrics.join_answers(
        _table(img_path=[unicodedata.normalize("NFD", path)], text=["가"]), _table(img_path=[path], text=["가"])
    )
    assert joined["prediction"].tolist() == ["가"]


@pytest.mark.parametrize(
    ("predicted", "expected", "message"),
    [
        (["a"], ["a", "b"], "1 img_path without a prediction: b"),
        (["a", "b"], ["a"], "1 predictions that the answers do not name: b"),
        (["a", "a"], ["a"], "repeated in the predictions: a"),
        (["a"], ["a", "./a"], "repeated in the answers"),
    ],
)
def test_join_names_what_does_not_match(predicted, expected, message):
    with pytest.raises(HangulOcrError, match=message):
        metrics.join_answers(_table(img_path=predicted, text=predicted), _table(img_path=expected, text=expected))


def test_join_names_a_missing_column():
    with pytest.raises(HangulOcrError, match="predictions have no column text"):
        metrics.join_answers(_table(img_path=["a"], label=["가"]), _table(img_path=["a"], text=["가"]))
