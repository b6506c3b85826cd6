"""Every change keeps a crop's size and its text's ink, and the same seed makes the same change."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hangul_ocr.data.augment import OPERATIONS, augment

NAMES = [operation.__name__ for operation, _ in OPERATIONS]


def written(width: int = 120, height: int = 40) -> np.ndarray:
    image = np.full((height, width, 3), 230, np.uint8)
    cv2.putText(image, "HELLO", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 40, 60), 2)
    return image


@pytest.mark.parametrize("operation", [operation for operation, _ in OPERATIONS], ids=NAMES)
@pytest.mark.parametrize("shape", [(5, 3, 3), (40, 12, 3), (12, 90, 3), (24, 24)], ids=str)
def test_every_operation_keeps_the_size_of_any_crop(operation, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for seed in range(5):
        changed = operation(image, np.random.default_rng(seed), 1.0)
        assert changed.shape == shape
        assert changed.dtype == np.uint8


@pytest.mark.parametrize("operation", [operation for operation, _ in OPERATIONS], ids=NAMES)
def test_the_text_can_still_be_told_from_its_ground(operation):
    image = written()
    for seed in range(10):
        changed = operation(image, np.random.default_rng(seed), 1.0)
        assert np.ptp(np.percentile(changed, (2, 98))) > 60


def test_strength_nought_changes_nothing_and_a_seed_repeats_its_change():
    image = written()
    assert augment(image, np.random.default_rng(0), 0.0) is image
    first, second = (augment(image, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
    kinds = {augment(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(kinds) > 15


def test_grey_crops_come_back_with_a_channel():
    assert augment(written()[:, :, 0], np.random.default_rng(0)).shape == (40, 120, 1)
