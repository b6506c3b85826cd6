"""The two networks that come with the package: small, safe to load, what their curves say, and able to read."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hangul_ocr.data.batches import RATIOS, batch_shape
from hangul_ocr.hangul import ASCII, HangulOcrError, ksx1001_syllables
from hangul_ocr.inference.ensemble import combine
from hangul_ocr.inference.predict import read_crops
from hangul_ocr.models.checkpoint import load_model, read_header
from hangul_ocr.settings import SHIPPED, ModelSettings, preset
from hangul_ocr.synthesis.fonts import find_fonts
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import SyntheticCrops
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import WordSource, load_words
from hangul_ocr.weights import shipped_scout, shipped_weights
from hangul_ocr.workspace import make_accelerator

LARGEST_MB = 12


FILES = pytest.mark.parametrize("path", [shipped_weights(), shipped_scout()], ids=["large", "small"])


def test_the_large_one_is_the_network_that_quick_trains():
    assert replace(preset("quick").model, pretrained=False) == SHIPPED
    assert load_model(shipped_weights()).settings == SHIPPED


def test_both_together_are_small():
    assert shipped_weights().stat().st_size + shipped_scout().stat().st_size < LARGEST_MB * 1e6
    assert shipped_scout().stat().st_size < shipped_weights().stat().st_size / 2


@FILES
def test_they_write_all_common_characters_with_whole_numbers(path):
    model = load_model(path)
    assert set(model.alphabet.characters) >= {*ASCII, *ksx1001_syllables()}
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@FILES
def test_the_curve_ends_where_the_file_says(path):
    facts, curve = read_header(path)["facts"], pd.read_csv(path.with_suffix(".csv"))
    assert curve["crops"].is_monotonic_increasing
    row = curve.set_index("crops").loc[facts["crops"]]
    assert facts["valid_accuracy"] == pytest.approx(row["valid_accuracy"], abs=1e-6)
    # The last ones, at the rate's end; each cycle validates on other crops, so losses compare within one.
    assert facts["crops"] == curve["crops"].iloc[-1]
    cycle = curve["step"].eq(0).cumsum()
    last = curve[cycle.eq(cycle.max())]
    assert row["valid_loss"] < 1.01 * last["valid_loss"].min()
    assert row["step"] > 0


def _plain_words(vertical, length=60):
    """Return a source of whole labels in the fonts that pip brings, and the labels."""
    style = replace(Style.plain((36, 44)), vertical=vertical)
    source = SyntheticCrops(Renderer(find_fonts(), WordSource(load_words()), style, seed=11), length=length)
    return source, [source.crop(i, np.random.default_rng(0)).text for i in range(length)]


@FILES
@pytest.mark.parametrize(("vertical", "least"), [(0.0, 0.8), (1.0, 0.6)])
def test_they_read_plain_words(path, vertical, least):
    """Far below what they reach, far above what luck or a slip leaves."""
    source, texts = _plain_words(vertical)
    readings = read_crops([load_model(path)], source, candidates=1)
    assert np.mean([reading.strings[0] == text for reading, text in zip(readings, texts, strict=True)]) >= least


def test_without_a_demand_the_small_one_reads_alone_and_with_it_the_large_one_helps():
    source, texts = _plain_words(0.0)
    large, small = load_model(shipped_weights()), load_model(shipped_scout())

    def read(models, **more):
        return read_crops(models, source, 1, make_accelerator("float32"), **more)

    alone = read([small])
    first = read([large], scout=small, sure=0.0)
    both = read([large], scout=small)
    assert all(len(reading.own) == 1 for reading in first)
    greedy = [a for a, b in zip(alone, first, strict=True) if a.scores[0, 0] > np.log(0.5)]
    assert len(greedy) > len(texts) / 2  # where the greedy string is the likeliest for sure
    for one, other in zip(alone, first, strict=True):
        if one in greedy:
            assert one.strings[0] == other.strings[0]
    decided = [len(reading.own) for reading in both]
    assert set(decided) <= {1, 2}
    assert decided.count(1) > len(texts) / 2
    chosen = [combine(reading)[0] for reading in both]
    assert np.mean([a == b for a, b in zip(chosen, texts, strict=True)]) >= 0.8


def test_a_batch_has_the_nearest_ratio_as_a_factor():
    for ratio in np.geomspace(1.0, 30, 300):
        size = round(1000 * ratio)
        nearest = min(RATIOS, key=lambda r: abs(np.log(r / (size / 1000))))
        assert batch_shape(size, 1000, ModelSettings()) == (32, int(32 * nearest))


def test_a_stretch_draws_crops_out_along_their_text():
    stretched = ModelSettings(stretch=1.2)
    assert batch_shape(96, 32, ModelSettings()) == (32, 96)
    assert batch_shape(96, 32, stretched) == (32, 112)
    assert batch_shape(32, 96, stretched) == (112, 32)
    with pytest.raises(HangulOcrError, match=r"stretch.*from 0\.5 to 4"):
        ModelSettings(stretch=0.0)
