"""Slices: what the picture tells, who belongs where, and the order of what to fix."""

import cv2
import numpy as np
import pandas as pd
import pytest

from hangul_ocr.evaluation import errors, slices
from hangul_ocr.evaluation.metrics import wilson_interval


def frame_of(groups: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Return an error frame whose column ``source`` has ``(right, wrong)`` rows of each name."""
    rows = [(name, i < right) for name, (right, wrong) in groups.items() for i in range(right + wrong)]
    return pd.DataFrame(rows, columns=["source", "correct"])


def test_order_is_what_fixing_gives_and_not_what_is_worst():
    """``rare`` is worst (all wrong, 2 rows), ``many`` has the most errors above the rest's rate."""
    report = slices.slice_report(frame_of({"rare": (0, 2), "many": (60, 40), "good": (95, 5)}))
    assert report["slice"].tolist() == ["many", "rare", "good"]
    many = report.iloc[0]
    assert many["excess"] == pytest.approx(40 - 100 * 7 / 102)
    assert many["gain"] == pytest.approx(many["excess"] / 202)
    assert (many["low"], many["high"]) == pytest.approx(wilson_interval(60, 100))
    assert (many["share_low"], many["share_high"]) == pytest.approx(wilson_interval(40, 47))
    assert report["share_of_errors"].sum() == pytest.approx(1)


def test_intervals_of_the_gain_hold_it_and_shrink_with_rows():
    small, large = (slices.slice_report(frame_of({"a": (6 * k, 4 * k), "b": (9 * k, k)})).iloc[0] for k in (1, 50))
    assert small["gain_low"] < small["gain"] < small["gain_high"]
    assert large["gain_high"] - large["gain_low"] < 0.3 * (small["gain_high"] - small["gain_low"])
    assert small["gain"] == pytest.approx(large["gain"])


def test_tags_may_overlap_and_a_tag_of_all_rows_cuts_nothing():
    frame = pd.DataFrame(
        {"correct": [True, False, False], "tags": [["blur", "all"], ["all", "curved", "blur"], ["all"]]}
    )
    found = {name: mask.tolist() for _, name, mask in slices.memberships(frame)}
    assert found == {"blur": [True, True, False], "curved": [False, True, False]}


def test_every_row_is_in_one_slice_of_each_dimension():
    rng = np.random.default_rng(0)
    oof = pd.DataFrame({"text": ["가" * n for n in range(1, 41)], "prediction": ["가"] * 40, "fold": [0, 1] * 20})
    oof = oof.assign(width=rng.integers(10, 200, 40), height=rng.integers(10, 200, 40))
    oof = oof.assign(contrast=rng.random(40), sharpness=rng.random(40))
    frame = slices.with_slices(errors.error_frame(oof))
    total = pd.DataFrame([(d, m.sum()) for d, _, m in slices.memberships(frame)]).groupby(0)[1].sum()
    assert set(total.index) >= {"length", "shape", "orientation", "size", "contrast", "sharpness or grain", "fold"}
    assert (total == 40).all()


def test_without_an_error_nothing_is_to_gain():
    report = slices.slice_report(frame_of({"a": (3, 0), "b": (3, 0)}))
    assert report["gain"].tolist() == [0, 0]
    assert "0.0 % (0.0 to 0.0)" in slices.readable(report)["share of all errors"].tolist()


def test_blur_and_faintness_are_told_apart():
    image = np.full((64, 200, 3), 255, np.uint8)
    cv2.putText(image, "abc", (5, 50), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (0, 0, 0), 4)
    faint = (image // 4 + 150).astype(np.uint8)
    plain, blurred, pale = map(slices.picture_facts, (image, cv2.GaussianBlur(image, (0, 0), 5), faint))
    assert plain["contrast"] > 0.9
    assert pale["contrast"] < 0.35
    assert pale["sharpness"] == pytest.approx(plain["sharpness"], rel=0.1)
    assert blurred["sharpness"] < 0.6 * plain["sharpness"]
    assert slices.picture_facts(image[..., 0]) == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300), (300, 2, 3)])
def test_odd_pictures_have_facts(shape):
    assert all(np.isfinite(list(slices.picture_facts(np.zeros(shape, np.uint8)).values())))
