"""Calibration on confidences whose truth is known."""

import numpy as np
import pytest

from hangul_ocr.evaluation import calibration


def rows(temperature: float, n: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences that need ``temperature`` to be true, and which rows are right."""
    rng = np.random.default_rng(0)
    truth = rng.random(n)
    return truth**temperature, rng.random(n) < truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature):
    confidences, correct = rows(temperature)
    assert calibration.fit_temperature(confidences, correct) == pytest.approx(temperature, rel=0.05)


def test_calibration_error_falls_and_is_fitted_on_other_folds():
    confidences, correct = rows(2.5)
    after = calibration.cross_calibrated(confidences, correct, np.arange(len(correct)) % 3)
    assert calibration.calibration_error(confidences, correct) > 0.15
    assert calibration.calibration_error(after, correct) < 0.02
    # A fold's own answers must not change its own confidences.
    flipped = np.where(np.arange(len(correct)) % 3 == 0, ~correct, correct)
    own = np.arange(len(correct)) % 3 == 0
    again = calibration.cross_calibrated(confidences, flipped, np.arange(len(correct)) % 3)
    np.testing.assert_array_equal(after[own], again[own])


def test_tempering_keeps_the_order_and_the_ends():
    p = np.array([0.0, 0.1, 0.5, 0.99, 1.0])
    for temperature in (0.1, 1.0, 7.0):
        after = calibration.tempered(p, temperature)
        assert (np.diff(after) > 0).all()
        assert (after[0], after[-1]) == (0, 1)


def test_error_of_one_bin_by_hand():
    assert calibration.calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False]) == pytest.approx(0.15)


def test_coverage_keeps_equal_confidences_together():
    curve = calibration.accuracy_coverage([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    assert curve["coverage"].tolist() == [0.25, 0.75, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 2 / 3, 0.5])
    table = calibration.coverage_at([0.9, 0.5, 0.5, 0.1], [True, True, False, False], wanted=(1.0, 0.6))
    assert table["share of rows kept"].tolist() == [0.25, 0.75]
    assert table["confidence from"].tolist() == [0.9, 0.5]


def test_missing_confidences_are_left_aside_and_none_is_no_error():
    assert calibration.calibration_error([np.nan, 1.0], [False, True]) == 0
    assert np.isnan(calibration.calibration_error([], []))
    assert calibration.fit_temperature([], []) == 1.0
    assert calibration.coverage_at([], [])["share of rows kept"].tolist() == [0] * 5
