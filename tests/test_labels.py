"""What the labels hold, counted before an alphabet is chosen."""

import math

import numpy as np
import pandas as pd
import pytest

from hangul_ocr.evaluation.labels import (
    alphabet_losses,
    alphabets,
    label_facts,
    label_probability,
    rank_suspects,
    shares_along,
)
from hangul_ocr.hangul import Alphabet

TEXTS = ["가게", "나무 집", "XXX", "뷁", "두  칸", "A1", "\u1100\u1161"]


def test_facts_count_what_decides_the_preprocessing():
    facts = label_facts(TEXTS)
    assert facts["labels"] == 7
    assert facts["with a space"] == 2
    assert facts["with two spaces in a row"] == 1
    assert facts["placeholders (xxx: illegible)"] == 1
    assert facts["not in NFC"] == 1


def test_losses_count_labels_that_an_alphabet_cannot_write_placeholders_aside():
    losses = alphabet_losses(TEXTS)
    assert losses.loc["2,350 syllables of KS X 1001, no space", "rows_lost"] == 4
    assert losses.loc["11,172 syllables and the space", "rows_lost"] == 1
    assert losses["rows_lost"].iloc[-1] == 0
    assert alphabet_losses([])["share_lost"].eq(0).all()


def test_our_alphabet_is_the_one_that_training_uses():
    assert list(alphabets(TEXTS).values())[-1] == Alphabet.for_texts(TEXTS).characters


def test_shares_move_along_the_rows():
    shares = shares_along({"late": np.arange(100) >= 50}, window=10)
    assert shares["late"].iloc[0] == 0
    assert shares["late"].iloc[-1] == 1
    assert shares["late"].is_monotonic_increasing
    assert shares_along({"few": [True, False]})["few"].mean() == pytest.approx(0.5)


# --- suspicious labels ------------------------------------------------------------------------------------------------


def oof(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["img_path", "text", "prediction", "confidence"]).assign(fold=0)


def test_a_label_that_the_model_finds_impossible_comes_before_one_that_it_finds_possible():
    table = oof(("a", "가", "나", 0.9), ("b", "다", "라", 0.9), ("c", "마", "마", 0.99), ("d", "바", "", 0.9))
    candidates = {
        "a": [("나", math.log(0.9)), ("가", math.log(0.08))],
        "b": [("라", math.log(0.9)), ("러", math.log(1e-4))],
    }
    found = rank_suspects(table, candidates)
    assert found["img_path"].tolist() == ["b", "a"]
    assert found["label_rank"].tolist() == ["", 2]
    assert found["label_probability"].tolist() == pytest.approx([1e-4, 0.08])
    assert found["suggestion"].tolist() == ["라", "나"]
    assert (found["action"] == "").all()


def test_of_equal_odds_the_farther_label_is_more_suspicious():
    found = rank_suspects(oof(("near", "간판집", "갈판집", 0.9), ("far", "간판집", "미용실", 0.9)))
    assert found["img_path"].tolist() == ["far", "near"]
    assert found["kind"].tolist() == ["substitution", "substitution"]
    assert found["likeness"].is_monotonic_increasing


def test_without_lists_a_label_has_what_the_confidence_leaves_over():
    assert label_probability("가", 0.75, None) == (0.25, "")
    assert label_probability("가", 0.75, [("나", -0.1), ("다", -1e9)]) == (0.0, "")
    table = oof(("a", "가", "나", 0.3), ("b", "가", "나", 0.99), ("c", "가", "나", 0.0))
    assert rank_suspects(table)["img_path"].tolist() == ["b", "a"]
    assert rank_suspects(table, least_confidence=0)["img_path"].tolist() == ["b", "a", "c"]
    assert rank_suspects(oof(("a", "가", "가", 1.0))).empty
