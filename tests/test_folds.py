"""Folds: the same crop never on both sides, whatever the order of rows."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hangul_ocr.data.dacon import read_competition, train_samples
from hangul_ocr.data.folds import (
    difference_hash,
    ensure_folds,
    fold_table,
    largest_groups,
    load_folds,
    make_folds,
    natural_key,
    perceptual_hashes,
    save_folds,
)
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.hangul import HangulOcrError


def make_table(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return rows with labels that all differ, and hashes far apart."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 2, 3, 4, 5, 9], n, p=[0.1, 0.3, 0.25, 0.2, 0.1, 0.05])
    tall = rng.random(n) < 0.2
    return pd.DataFrame(
        {
            "key": [f"./train/{i}.png" for i in range(n)],
            "text": [f"{i:04d}가나다라마"[-length:] + chr(0xAC00 + i) for i, length in enumerate(lengths)],
            "width": np.where(tall, 30, 90),
            "height": np.where(tall, 90, 30),
            "group": "",
            "hash": rng.integers(0, 2**63, n, dtype=np.uint64),
        }
    )


def fold_of(folds: pd.DataFrame) -> dict[str, int]:
    return dict(zip(folds["key"], folds["fold"], strict=True))


def group_of(folds: pd.DataFrame) -> dict[str, str]:
    return dict(zip(folds["key"], folds["group"], strict=True))


@pytest.fixture
def reader(mini_competition: Path) -> LmdbReader:
    path = mini_competition.parent / "store"
    write_lmdb(path, train_samples(read_competition(mini_competition)), alphabet=None, settings={})
    return LmdbReader(path)


def test_every_row_is_in_one_fold_and_no_group_in_two() -> None:
    table = make_table()
    table.loc[::7, "group"] = [f"photo {i // 3}" for i in range(len(table.loc[::7]))]
    folds = make_folds(table, 5, 0)
    assert list(folds.columns) == ["key", "group", "fold"]
    assert sorted(folds["key"]) == sorted(table["key"])
    assert set(folds["fold"]) == set(range(5))
    assert (folds.groupby("group")["fold"].nunique() == 1).all()


def test_rows_in_another_order_give_the_same_folds() -> None:
    table = make_table()
    table["text"] = [f"글{i // 2}" for i in range(len(table))]
    folds = make_folds(table, 4, 7)
    assert make_folds(table.sample(frac=1, random_state=1), 4, 7).equals(folds)
    assert folds["key"].tolist() == table["key"].tolist()


def test_the_seed_decides() -> None:
    table = make_table()
    assert make_folds(table, 4, 1).equals(make_folds(table, 4, 1))
    assert not make_folds(table, 4, 1).equals(make_folds(table, 4, 2))


def test_folds_are_stratified_by_length_and_shape() -> None:
    table = make_table(1000)
    merged = make_folds(table, 5, 0).merge(table.drop(columns="group"), on="key")
    shares = merged.assign(tall=merged["height"] > merged["width"], short=merged["text"].str.len() <= 3)
    for name in ("tall", "short"):
        per_fold = shares.groupby("fold")[name].mean()
        assert per_fold.max() - per_fold.min() < 0.03
    sizes = merged["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 10


def test_near_duplicates_with_equal_labels_stay_together() -> None:
    table = make_table()
    near = int(table["hash"][3]) ^ 0b1011 ^ (1 << 40)
    table.loc[300, ["text", "width", "height"]] = table.loc[3, ["text", "width", "height"]].tolist()
    table["hash"] = table["hash"].where(table.index != 300, np.uint64(near)).astype(np.uint64)
    groups = group_of(make_folds(table, 5, 0))
    assert groups["./train/300.png"] == groups["./train/3.png"] == "./train/3.png"


@pytest.mark.parametrize(("bits", "together"), [(1, True), (0b11111, False)])
def test_other_labels_only_join_if_the_crops_are_all_but_equal(bits: int, together: bool) -> None:
    table = make_table()
    table.loc[300, ["width", "height"]] = table.loc[3, ["width", "height"]].tolist()
    twin = np.uint64(int(table["hash"][3]) ^ bits)
    table["hash"] = table["hash"].where(table.index != 300, twin).astype(np.uint64)
    groups = group_of(make_folds(table, 5, 0))
    assert (groups["./train/300.png"] == groups["./train/3.png"]) is together


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1, 0x0F0F_0F0F_1234_5678])
def test_flat_or_coinciding_crops_do_not_become_one_giant_group(value: int) -> None:
    table = make_table()
    table["hash"] = np.full(len(table), value, dtype=np.uint64)
    assert largest_groups(make_folds(table, 5, 0)).iloc[0] == 1


def test_equal_labels_of_neighbouring_files_stay_together() -> None:
    table = make_table(1200)
    table.loc[[100, 104, 700], "text"] = "커피숍"
    groups = group_of(make_folds(table, 5, 0))
    assert groups["./train/100.png"] == groups["./train/104.png"]
    assert groups["./train/100.png"] != groups["./train/700.png"]


def test_a_label_that_is_everywhere_does_not_chain() -> None:
    table = make_table(1200)
    table.loc[::3, "text"] = "가"
    assert largest_groups(make_folds(table, 5, 0)).iloc[0] == 1


def test_a_group_that_runs_away_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    table = make_table()
    table.loc[:199, "group"] = "one photograph"
    with caplog.at_level(logging.WARNING):
        folds = make_folds(table, 2, 0)
    assert "200 of 400 rows are one group" in caplog.text
    assert largest_groups(folds).iloc[0] == 200


@pytest.mark.parametrize(("n", "n_folds"), [(3, 5), (10, 1), (0, 2)])
def test_too_few_groups_for_the_folds(n: int, n_folds: int) -> None:
    with pytest.raises(HangulOcrError, match=f"{n_folds} folds of {n} groups"):
        make_folds(make_table(400).head(n), n_folds, 0)


def test_one_group_of_everything_is_too_few() -> None:
    with pytest.raises(HangulOcrError, match="1 groups"):
        make_folds(make_table(40).assign(group="one"), 2, 0)


@pytest.mark.filterwarnings("error")
def test_a_handful_of_rows_is_enough() -> None:
    folds = make_folds(make_table(6), 3, 0)
    assert folds["fold"].value_counts().tolist() == [2, 2, 2]


def test_repeated_keys_are_refused() -> None:
    table = make_table(20).assign(key="same")
    with pytest.raises(HangulOcrError, match="'same' repeats"):
        make_folds(table, 2, 0)


def test_file_order_counts_numbers() -> None:
    assert sorted(["b10", "b9", "a", "b9c", "10"], key=natural_key) == ["10", "a", "b9", "b9c", "b10"]


def test_the_hash_survives_size_contrast_and_compression() -> None:
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (5, 9), dtype=np.uint8), (180, 100)) for _ in range(2)]
    changed = cv2.resize(images[0], (90, 50), interpolation=cv2.INTER_AREA)
    changed = (changed * 0.6 + 40).astype(np.uint8)
    changed = cv2.imdecode(cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)
    first, second, other = (difference_hash(image) for image in (images[0], changed, images[1]))
    assert (first ^ second).bit_count() <= 4
    assert (first ^ other).bit_count() > 12
    assert difference_hash(np.full((20, 60), 255, np.uint8)) == 0


def test_hashes_come_in_the_order_of_the_store(reader: LmdbReader) -> None:
    hashes = perceptual_hashes(reader)
    assert hashes.dtype == np.uint64
    image = cv2.imdecode(np.frombuffer(reader.image_bytes(7), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert (int(hashes[7]) ^ difference_hash(image)).bit_count() <= 2


def test_folds_are_dealt_once(reader: LmdbReader, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    first = ensure_folds(path, reader, 3, seed=0)
    assert first["key"].tolist() == reader.keys()
    written = path.read_bytes()
    assert ensure_folds(path, reader, 3, seed=1).equals(first)
    assert path.read_bytes() == written
    with pytest.raises(HangulOcrError, match="has 3 folds, not 4"):
        ensure_folds(path, reader, 4, seed=0)
    twins = fold_table(reader).groupby("text")["key"].apply(list)
    assert all(len({fold_of(first)[key] for key in keys}) == 1 for keys in twins)


def test_saved_folds_come_back(tmp_path: Path) -> None:
    folds = make_folds(make_table(40), 3, 0)
    save_folds(tmp_path / "folds.csv", folds)
    assert fold_of(load_folds(tmp_path / "folds.csv")) == fold_of(folds)
    keys = folds["key"].tolist()[::-1]
    assert load_folds(tmp_path / "folds.csv", keys)["key"].tolist() == keys


def test_folds_of_other_samples_are_refused(tmp_path: Path) -> None:
    save_folds(tmp_path / "folds.csv", make_folds(make_table(40), 3, 0))
    keys = make_table(41)["key"]
    for others in (keys, keys[:39]):
        with pytest.raises(HangulOcrError, match=r"folds\.csv: folds of other samples"):
            load_folds(tmp_path / "folds.csv", others)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "key,group,fold\nx,x,first\n", "key,group,fold\nx,x,1\nx,x,2\n"])
def test_a_file_that_holds_no_folds(tmp_path: Path, text: str) -> None:
    (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(HangulOcrError, match=r"folds\.csv"):
        load_folds(tmp_path / "folds.csv")
