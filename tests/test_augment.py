"""Every change keeps a crop's size and its text's ink, and the same seed makes the same change."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from hangul_ocr.data.augment import OPERATIONS, _light, _posterise, _rotate, augment

NAMES = [operation.__name__ for operation, _ in OPERATIONS]


def written(width: int = 120, height: int = 40) -> np.ndarray:
    image = np.full((height, width, 3), 230, np.uint8)
    cv2.putText(image, "HELLO", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 40, 60), 2)
    return image


def two_tones(text: int, ground: int) -> np.ndarray:
    """Return a crop of bars in the tone ``text``: (10, 10) lies in one of them, (0, 0) on the ground."""
    image = np.full((32, 96, 3), ground, np.uint8)
    image[8:24, 10:86:4] = text
    return image


# Night signs, ink on wood, light on light, and plain print: (text, ground).
TONES = [(0, 60), (20, 60), (60, 10), (10, 100), (90, 130), (100, 125), (125, 100), (190, 250), (250, 200), (20, 230)]


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


@pytest.mark.parametrize(("text", "ground"), TONES)
@pytest.mark.parametrize("operation", [_light, _posterise], ids=["light", "posterise"])
def test_text_stays_darker_or_lighter_than_its_ground_in_any_light(operation, text, ground):
    image = two_tones(text, ground)
    for seed in range(300):
        changed = operation(image, np.random.default_rng(seed), 1.0).astype(int)
        contrast = (changed[10, 10, 0] - changed[0, 0, 0]) * np.sign(text - ground)
        assert contrast > 0.4 * min(abs(text - ground), 100), seed


def test_a_lamp_in_a_dark_crop_does_not_cost_it_its_text():
    image = two_tones(0, 60)
    image[:4, -16:] = 255
    for seed in range(300):
        changed = _light(image, np.random.default_rng(seed), 1.0).astype(int)
        assert changed[0, 0, 0] - changed[10, 10, 0] > 20, seed


@pytest.mark.parametrize("characters", [3, 5, 8, 12])
@pytest.mark.parametrize("tall", [False, True])
def test_a_turn_cuts_no_ink_off_the_ends_of_a_tight_long_crop(characters, tall):
    image = np.zeros((32, 32 * characters), np.uint8)
    for x, y in itertools.product((2, 28, 32 * characters - 30, 32 * characters - 4), (2, 28)):
        image[y : y + 2, x : x + 2] = 255  # the corners of the first and the last character
    image = image.T.copy() if tall else image
    for seed in range(60):
        turned = _rotate(image, np.random.default_rng(seed), 1.0)
        count, _, boxes, _ = cv2.connectedComponentsWithStats((turned > 60).astype(np.uint8))
        assert count == 1 + 8, seed
        assert (boxes[1:, cv2.CC_STAT_AREA] < 16).all(), seed  # a corner on the edge would be smeared along it


def test_posterised_white_stays_white():
    image = np.full((20, 20, 3), 255, np.uint8)
    image[5:10] = 0
    assert min(_posterise(image, np.random.default_rng(seed), 1.0).max() for seed in range(60)) > 230


def test_strength_nought_changes_nothing_and_a_seed_repeats_its_change():
    image = written()
    assert augment(image, np.random.default_rng(0), 0.0) is image
    first, second = (augment(image, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
    kinds = {augment(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(kinds) > 15


def test_grey_crops_come_back_with_a_channel():
    assert augment(written()[:, :, 0], np.random.default_rng(0)).shape == (40, 120, 1)
