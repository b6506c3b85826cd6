"""What the labels hold, counted before an alphabet is chosen."""

import numpy as np
import pytest

from hangul_ocr.evaluation.labels import alphabet_losses, alphabets, label_facts, shares_along
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
