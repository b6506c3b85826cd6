"""The weights that come with the package: small, safe to load, what their curve says, and able to read."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hangul_ocr.data.batches import batch_shape
from hangul_ocr.hangul import ASCII, HangulOcrError, ksx1001_syllables
from hangul_ocr.inference.predict import read_crops
from hangul_ocr.models.checkpoint import load_model, read_header
from hangul_ocr.settings import SHIPPED, ModelSettings, preset
from hangul_ocr.synthesis.fonts import find_fonts
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import SyntheticCrops
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import WordSource, load_words
from hangul_ocr.weights import CURVE, FOLDER, shipped_weights

LARGEST_MB = 12


@pytest.fixture(scope="module")
def header() -> dict:
    return read_header(shipped_weights())


def test_the_file_is_small_and_of_the_network_that_quick_trains(header):
    assert shipped_weights().stat().st_size < LARGEST_MB * 1e6
    assert replace(preset("quick").model, pretrained=False) == SHIPPED
    model = load_model(shipped_weights())
    assert model.settings == SHIPPED
    assert set(model.alphabet.characters) >= {*ASCII, *ksx1001_syllables()}
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_curve_ends_where_the_file_says(header):
    curve = pd.read_csv(FOLDER / CURVE)
    assert curve["crops"].is_monotonic_increasing
    row = curve.set_index("crops").loc[header["facts"]["crops"]]
    assert header["facts"]["valid_accuracy"] == pytest.approx(row["valid_accuracy"], abs=1e-6)
    # The last ones, at the rate's end; each cycle validates on other crops, so losses compare within one.
    assert header["facts"]["crops"] == curve["crops"].iloc[-1]
    cycle = curve["step"].eq(0).cumsum()
    last = curve[cycle.eq(cycle.max())]
    assert row["valid_loss"] < 1.01 * last["valid_loss"].min()
    assert row["step"] > 0


@pytest.mark.parametrize(("vertical", "least"), [(0.0, 0.8), (1.0, 0.6)])
def test_they_read_plain_words(vertical, least):
    """Whole labels, in the fonts that pip brings; far below what they reach, far above what luck or a slip leaves."""
    style = replace(Style.plain((36, 44)), vertical=vertical)
    source = SyntheticCrops(Renderer(find_fonts(), WordSource(load_words()), style, seed=11), length=60)
    readings = read_crops([load_model(shipped_weights())], source, candidates=1)
    texts = [source.crop(i, np.random.default_rng(0)).text for i in range(len(source))]
    right = [reading.strings[0] == text for reading, text in zip(readings, texts, strict=True)]
    assert np.mean(right) >= least


def test_a_stretch_draws_crops_out_along_their_text():
    stretched = ModelSettings(stretch=1.2)
    assert batch_shape(96, 32, ModelSettings()) == (32, 96)
    assert batch_shape(96, 32, stretched) == (32, 112)
    assert batch_shape(32, 96, stretched) == (112, 32)
    with pytest.raises(HangulOcrError, match=r"stretch.*from 0\.5 to 4"):
        ModelSettings(stretch=0.0)
