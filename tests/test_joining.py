"""Ways to join members: what is learnt, what is kept, and that the reported score is honest."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference.ensemble import UNKNOWN, Reading, by_member, with_stand_ins
from hangul_ocr.inference.joining import (
    CHOSEN,
    CONFIDENT,
    FITTED,
    RESCORED,
    SINGLE,
    VOTE,
    WAYS,
    Stack,
    apply,
    comparison,
    fit,
    judge,
)

STRINGS = ["가", "나", "다", "라"]


def readings_of(sharpness: list[float], count: int = 300, seed: int = 0) -> tuple[list[Reading], list[str]]:
    """Crops that each member reads with noise; the higher its sharpness, the better it is."""
    rng = np.random.default_rng(seed)
    readings, texts = [], []
    for _ in range(count):
        right = int(rng.integers(4))
        raw = rng.normal(size=(len(sharpness), 4))
        raw[:, right] += sharpness
        scores = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
        readings.append(Reading(STRINGS, scores, [STRINGS[i] for i in scores.argmax(axis=1)]))
        texts.append(STRINGS[right])
    return readings, texts


def accuracy(strings: list[str], texts: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(strings, texts, strict=True)]))


def test_fitted_weights_prefer_the_better_member_and_give_calibrated_probabilities():
    readings, texts = readings_of([2.5, 0.1, 1.0], 2000)
    stack = Stack.of(readings)
    choice = fit(FITTED, stack, texts, ["a", "b", "c"])
    assert choice.weights[0] > choice.weights[2] > choice.weights[1]
    assert sum(choice.weights) == pytest.approx(1)
    fresh, answers = readings_of([2.5, 0.1, 1.0], 2000, seed=1)
    strings, chances = apply(choice, Stack.of(fresh))
    assert float(chances.mean()) == pytest.approx(accuracy(strings, answers), abs=0.03)
    for way in (SINGLE, VOTE, RESCORED):
        assert accuracy(strings, answers) >= accuracy(apply(fit(way, stack, texts, "abc"), Stack.of(fresh))[0], answers)


def test_a_useless_member_gets_no_say():
    readings, texts = readings_of([2.0, -1.0], 1000)
    assert fit(FITTED, Stack.of(readings), texts, ["good", "bad"]).weights[1] == pytest.approx(0, abs=0.02)
    assert fit(SINGLE, Stack.of(readings), texts, ["good", "bad"]).single == "good"


def test_members_that_are_always_wrong_still_choose_a_string():
    scores = np.log([[0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.01, 0.97]])
    stack = Stack.of([Reading(STRINGS, scores, ["나", "라"])] * 50)
    choice = fit(FITTED, stack, ["가"] * 50, ["a", "b"])
    assert choice.weights == pytest.approx([0.5, 0.5])
    strings, chances = apply(choice, stack)
    assert set(strings) <= {"나", "라"}
    assert np.isfinite(chances).all()


def test_each_way_takes_the_string_that_it_should():
    chances = [[0.5, 0.4, 0.05, 0.05], [0.5, 0.4, 0.05, 0.05], [0.001, 0.9, 0.05, 0.049]]
    stack = Stack.of([Reading(STRINGS, np.log(chances), ["가", "가", "나"])])
    found = {way: apply(fit(way, stack, ["가"], "abc"), stack)[0][0] for way in WAYS}
    assert found[VOTE] == found[SINGLE] == "가"
    assert found[CONFIDENT] == found[RESCORED] == "나"


def test_without_the_right_string_among_the_candidates_weights_stay_equal():
    readings, _ = readings_of([1.0, 1.0], 20)
    choice = fit(FITTED, Stack.of(readings), ["없다"] * 20, ["a", "b"])
    assert choice.weights == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("way", WAYS)
def test_confidence_counts_the_crops_whose_right_string_no_member_listed(way):
    readings, texts = readings_of([2.5, 2.0], 3000)
    texts = [text if i % 5 else "없다" for i, text in enumerate(texts)]
    choice = fit(way, Stack.of(readings), texts, ["a", "b"])
    strings, chances = apply(choice, Stack.of(readings))
    assert float(chances.mean()) == pytest.approx(accuracy(strings, texts), abs=0.06)


def test_crops_with_different_numbers_of_candidates_share_a_stack():
    one = Reading(["가"], np.array([[-0.1], [-0.2]]), ["가", "가"])
    two = Reading(["나", "다"], np.array([[-2.0, -0.1], [-0.1, -2.0]]), ["다", "나"], np.array([0.0, 1.0]))
    strings, chances = apply(fit(RESCORED, Stack.of([one, two]), ["가", "다"], "ab"), Stack.of([one, two]))
    assert strings == ["가", "다"]  # the prior decides
    assert chances[0] == pytest.approx(1.0)
    assert 0.5 < chances[1] <= 1


def test_the_nested_predictions_of_a_part_do_not_depend_on_its_labels():
    readings, texts = readings_of([0.5, 0.4, 0.6], 240)
    stack, parts, members = Stack.of(readings), np.arange(240) % 3, ["a", "b", "c"]
    held = parts == 1
    spoilt = [STRINGS[0] if h else t for h, t in zip(held, texts, strict=True)]
    first = judge(stack, texts, parts, members)
    second = judge(stack, spoilt, parts, members)
    pd.testing.assert_frame_equal(first.predictions[held], second.predictions[held])
    assert np.array_equal(first.confidence[held], second.confidence[held])


def test_what_reads_most_right_is_kept_and_compared_with_the_best_single():
    readings, texts = readings_of([1.5, 1.4, 1.5], 600)
    members = ["a", "b", "c"]
    judged = judge(Stack.of(readings), texts, np.arange(600) % 3, members)
    own = pd.DataFrame({name: [r.own[i] for r in readings] for i, name in enumerate(members)})
    table = comparison(judged, own, texts, groups=np.arange(600) // 2).set_index("name")
    ways = table.loc[list(WAYS), "accuracy"]
    assert table.index[table["kept"]].tolist() == [ways.idxmax()] == [judged.choice.way]
    assert table.loc[members, "accuracy"].idxmax() == judged.choice.single
    assert table.loc[judged.choice.single, ["gained", "lost", "p_value"]].tolist() == [0, 0, 1.0]
    assert table.loc[judged.choice.way, "p_value"] < 0.01
    assert (table["low"] < table["accuracy"]).all()
    assert CHOSEN in table.index


def test_members_that_are_alike_are_beaten_only_by_what_beats_the_better_of_them():
    """Chosen on two parts, the best single member is the worse one on the third: no measure of what joining gains."""
    wrong = {"a": [1, 0, 2], "b": [0, 1, 1]}  # crops of each part that a member misreads; b is better in all
    readings, texts = [], ["가"] * 60
    for i in range(60):
        own = ["나" if i % 20 < wrong[name][i // 20] else "가" for name in "ab"]
        scores = np.log([[0.9, 0.1] if text == "가" else [0.1, 0.9] for text in own])
        readings.append(Reading(["가", "나"], scores, own))
    judged = judge(Stack.of(readings), texts, np.arange(60) // 20, ["a", "b"])
    own = pd.DataFrame({name: [r.own[i] for r in readings] for i, name in enumerate("ab")})
    table = comparison(judged, own, texts).set_index("name")
    assert judged.choice.single == "b"
    assert table.loc["b", ["gained", "lost"]].tolist() == [0, 0]
    assert table.loc["a", ["gained", "lost"]].tolist() == [1, 2]
    assert table.loc[SINGLE, "accuracy"] < table.loc["b", "accuracy"]


def test_one_part_cannot_judge():
    readings, texts = readings_of([1.0, 1.0], 10)
    with pytest.raises(HangulOcrError, match="only one is trained"):
        judge(Stack.of(readings), texts, [0] * 10, "ab")


def test_fold_models_of_a_run_are_one_member():
    scores = np.log([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    joined = by_member(Reading(["가", "나"], scores, ["가", "나", "가"]), [[0, 1], [2]])
    assert joined.scores == pytest.approx(np.array([scores[:2].mean(axis=0), scores[2]]))
    assert joined.own == ["나", "가"]


# --- characters that a member does not know -------------------------------------------------------------------------


def test_an_unknown_character_is_what_the_member_sees_in_its_place():
    alphabet = Alphabet("가나븕")
    strings = ["가뷁", "가븕", "나븕", "뷁"]
    scores = with_stand_ins(strings, [-math.inf, -0.3, -2.0, -math.inf], alphabet)
    assert scores[:3] == pytest.approx([-0.3 + UNKNOWN, -0.3, -2.0])
    assert scores[3] == -math.inf  # no candidate of that length: nothing to stand in


def test_a_sure_member_that_knows_the_character_outvotes_one_that_does_not():
    strings = ["뷁", "븕"]
    knows = [math.log(0.999), math.log(0.0001)]
    not_known = with_stand_ins(strings, [-math.inf, -0.1], Alphabet("븕"))
    unsure = [math.log(0.6), math.log(0.4)]
    assert np.argmax(np.mean([knows, not_known], axis=0)) == 0
    assert np.argmax(np.mean([unsure, not_known], axis=0)) == 1
