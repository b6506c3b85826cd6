"""Crops of a store: one damaged record is left out, counted and named, and the rest is read."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import crop_png

from hangul_ocr.data.batches import TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import LmdbCrops, crop_or_none
from hangul_ocr.data.images import UnreadableImage
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import Sample
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.settings import ModelSettings

ALPHABET = Alphabet("가나다")
MODEL = ModelSettings(backbone="resnet10t", backbone_args={"channels": (8, 8, 16, 16)}, hidden=16)
RNG = np.random.default_rng(0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    samples = [Sample(f"{i}.png", crop_png(i), "가나다"[i % 3], "mini") for i in range(12)]
    write_lmdb(tmp_path / "store", samples, alphabet=None, settings={})
    return tmp_path / "store"


def damage(store: Path, name: str, value: bytes | None) -> None:
    """Replace a value of the fourth record; None takes it away."""
    key = f"{name}-000000004".encode()
    with lmdb.open(str(store), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, value) if value is not None else transaction.delete(key)


DAMAGES = [
    ("label", b"\xff\xfe"),
    ("label", None),
    ("image", None),
    ("image", b"no image"),
    ("meta", b"\xff\xfe"),
    ("meta", b"[1"),
    ("meta", b"[1]"),
    ("label", "뷁".encode()),
]


@pytest.mark.parametrize(("name", "value"), DAMAGES)
def test_a_damaged_record_is_unreadable_and_named(store, name, value, capsys):
    damage(store, name, value)
    crops = LmdbCrops(LmdbReader(store), alphabet=ALPHABET)
    with pytest.raises(UnreadableImage, match=r"(record 4 of|3\.png in) .*store"):
        crops.crop(3, RNG)
    assert crop_or_none(crops, 3, RNG) is None
    assert "left out" in capsys.readouterr().err
    assert [crops.crop(i, RNG).text for i in (2, 4)] == ["다", "나"]


@pytest.mark.parametrize(("name", "value"), DAMAGES)
def test_training_and_validation_go_on_without_a_damaged_record(store, name, value):
    damage(store, name, value)
    crops = LmdbCrops(LmdbReader(store), alphabet=ALPHABET)
    blocks = TrainingBlocks(MODEL, ALPHABET, 6, 0, real=crops)
    lost = [reason for step in blocks[0] for group in step for reason in group.lost]
    assert lost
    assert len(set(lost)) == 1
    assert sum(len(group.texts) for group in fixed_groups(crops, MODEL, ALPHABET)) == 11


def test_a_store_without_its_labels_is_an_error(store):
    with lmdb.open(str(store), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for number in range(1, 13):
            transaction.delete(f"label-{number:09d}".encode())
    with pytest.raises(HangulOcrError, match="in a row cannot be read"):
        TrainingBlocks(MODEL, ALPHABET, 6, 0, real=LmdbCrops(LmdbReader(store)))[0]


def test_without_an_alphabet_any_label_will_do(store):
    damage(store, "label", "뷁".encode())
    assert LmdbCrops(LmdbReader(store)).crop(3, RNG).text == "뷁"
