"""Looking at a set before training: groups and what joins them, twins, odd rows, alphabets, sources side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import crop_png, write_csv

from hangul_ocr import exploration
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.folds import conflicting_twins, find_groups, fold_table, make_folds
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import Sample
from hangul_ocr.data.survey import survey_files
from hangul_ocr.evaluation import overview
from hangul_ocr.evaluation.labels import OWN_CHARACTERS, alphabet_losses, odd_labels, odd_shapes, rank_suspects
from hangul_ocr.evaluation.pictures import groups_wall, suspects_wall
from hangul_ocr.evaluation.style import save_figure


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def competition(mini_competition: Path):
    """The mini competition with faults: a twin labelled otherwise, a file cut short, one gone, odd labels."""
    train = read_competition(mini_competition).train
    rows = train.to_numpy().tolist()
    paths = [path for path, _ in rows]
    shutil.copy(mini_competition / paths[0], mini_competition / paths[20])
    (mini_competition / paths[3]).write_bytes(crop_png(3)[:200])
    (mini_competition / paths[4]).unlink()
    rows[20][1] = "다른말"
    rows[8][1] = "\u1112\u1161\u11ab\u1100\u1173\u11af"
    rows[9][1] = "두  칸"
    rows[10][1] = "xxx"
    rows[11][1] = "이 글은 이 그림에 들어갈 수 없이 깁니다"
    write_csv(mini_competition / "train.csv", ("img_path", "text"), rows)
    return read_competition(mini_competition)


def test_every_crop_is_looked_at_and_faults_are_kept(competition):
    facts = exploration.crop_facts(competition)
    assert facts["img_path"].tolist() == competition.train["img_path"].tolist()
    faults = facts[facts["fault"] != ""]
    assert faults.index.tolist() == [3, 4]
    assert faults["fault"].iloc[1] == "no such file"
    assert facts.loc[0, ["width", "height"]].tolist() == [64, 24]
    assert facts["hash"].dtype == np.uint64
    assert (facts.loc[facts["fault"] == "", "contrast"] > 1).all()


def test_the_hashes_are_those_of_the_folds(mini_competition):
    competition = read_competition(mini_competition)
    facts = exploration.crop_facts(competition)
    samples = [
        Sample(row.img_path, (mini_competition / row.img_path).read_bytes(), row.text, "x")
        for row in competition.train.itertuples()
    ]
    write_lmdb(mini_competition.parent / "s", samples, alphabet=None, settings={})
    table = fold_table(LmdbReader(mini_competition.parent / "s"))
    assert (facts["hash"].to_numpy() == table["hash"].to_numpy()).all()
    assert find_groups(exploration.as_fold_table(facts))["group"].tolist() == make_folds(table, 2, 0)["group"].tolist()


def test_odd_rows_name_each_fault(competition):
    facts = exploration.crop_facts(competition)
    odd = exploration.odd_rows(competition, facts)
    paths = competition.train["img_path"].tolist()
    found = {(row.img_path, row.oddity) for row in odd.itertuples()}
    assert found == {
        (paths[0], exploration.TWINS),
        (paths[3], "unreadable image"),
        (paths[4], "unreadable image"),
        (paths[8], "not in NFC"),
        (paths[9], "two spaces in a row"),
        (paths[10], "placeholder"),
        (paths[11], "label too long for its crop"),
    }
    assert odd.loc[odd["oddity"] == exploration.TWINS, "detail"].tolist() == [f"{paths[20]} 다른말"]


def test_groups_say_what_joins_them_and_are_drawn(competition):
    facts = exploration.crop_facts(competition)
    groups = exploration.group_table(facts)
    first = groups[groups["group"] == competition.train["img_path"][0]].iloc[0]
    assert set(first["why"].split(", ")) == {"equal neighbours", "near-duplicates"}
    assert first["crops"] == 3
    assert first["labels"] == "가 · 다른말"
    assert exploration.group_pictures(competition, facts, groups).axes[0].images
    photographs = facts.assign(group=["one photo"] * 6 + [""] * (len(facts) - 6))
    assert "one photograph" in exploration.group_table(photographs)["why"].iloc[0]


def test_crops_that_are_all_alone_make_no_group():
    hashes = np.random.default_rng(0).integers(0, 2**63, 5, dtype=np.uint64)
    table = {
        "img_path": list("abcde"),
        "text": list("가나다라마"),
        "width": 60,
        "height": 20,
        "hash": hashes,
        "fault": "",
    }
    facts = pd.DataFrame(table)
    assert exploration.group_table(facts).empty
    assert exploration.group_pictures(None, facts, exploration.group_table(facts)).texts
    assert conflicting_twins(exploration.as_fold_table(facts)).empty


def test_a_crop_is_no_twin_of_one_with_its_own_label():
    table = pd.DataFrame(
        {
            "key": ["a", "b", "c"],
            "text": ["가", "가", "나"],
            "width": 60,
            "height": 20,
            "hash": np.array([0x0F0F_0F0F_1234_5678] * 3, np.uint64),
        }
    )
    assert conflicting_twins(table).to_numpy().tolist() == [["a", "가", "c", "나"], ["b", "가", "c", "나"]]


@pytest.mark.parametrize(
    ("text", "oddities"),
    [
        ("가게", []),
        ("A-1 가", []),
        ("", ["empty"]),
        ("XX", ["placeholder"]),
        (" 가", ["space at an end"]),
        ("가\u3000나", ["odd space"]),
        ("가\u200b나", ["odd space"]),
        ("ㅋㅋ", ["jamo that are no syllable"]),
        ("国 가", ["rare sign"]),
    ],
)
def test_oddities_of_labels(text, oddities):
    assert odd_labels([text])["oddity"].tolist() == oddities


def test_a_label_is_held_against_the_long_side_of_its_crop():
    texts, widths, heights = (
        ["가나다라마바사아", "가나다라마바사아", "가", "가", "가나"],
        [40, 200, 300, 20, 10],
        [20, 25, 20, 20, 50],
    )
    odd = odd_shapes(texts, widths, heights)
    assert odd["row"].tolist() == [0, 2]
    assert odd["oddity"].tolist() == ["label too long for its crop", "crop too long for its label"]
    assert odd["detail"].tolist() == ["4.0 times", "15.0 times"]


def test_own_characters_lose_what_no_other_label_has():
    losses = alphabet_losses(["가나", "나다", "다라", "라", "xxx"])
    assert losses.loc[OWN_CHARACTERS, ["characters", "rows_lost"]].tolist() == [4, 1]
    assert losses.loc[OWN_CHARACTERS, "share_lost"] == pytest.approx(0.25)
    assert overview.alphabet_losses(losses).axes[0].patches
    assert overview.alphabet_losses(losses.head(0)).texts


def test_sources_stand_side_by_side_clovaai_files_too(mini_competition, tmp_path):
    competition = read_competition(mini_competition)
    facts = exploration.crop_facts(competition)
    samples = [Sample(str(i), png(np.full((60, 20, 3), 9 * i, np.uint8)), "긴 글자", "x") for i in range(8)]
    write_lmdb(tmp_path / "signs", samples, alphabet=None, settings={})
    crops = exploration.source_crops(facts, competition.name, [tmp_path / "signs"], most=5)
    table = overview.source_table(crops)
    assert table.index.tolist() == ["mini", "signs"]
    assert table.loc["signs", ["crops", "with a space", "taller than wide", "median short side"]].tolist() == [
        5,
        1,
        1,
        20,
    ]
    figure = overview.sources_compared(crops)
    assert "signs (100 % of labels) has most spaces" in figure.get_suptitle()
    assert "One source: mini" in overview.sources_compared(crops[crops["source"] == "mini"]).get_suptitle()
    assert overview.sources_compared(crops.head(0)).texts


def test_a_survey_of_nothing_is_empty():
    assert survey_files([]).empty


# --- figures ----------------------------------------------------------------------------------------------------------

CROP = np.full((20, 60, 3), 200, np.uint8)
OOF = pd.DataFrame({"img_path": ["a", "b"], "text": ["가게 집", "뷁"], "prediction": ["기게집", "뷀"]})
OOF = OOF.assign(confidence=0.9, fold=0)
SOURCES = pd.DataFrame({"source": ["간판", "b"] * 4, "text": "가 나", "width": [60, 20] * 4, "height": 30})
FIGURES = {
    "suspects": lambda: suspects_wall([CROP, CROP], rank_suspects(OOF, {"a": [("기게집", -0.1), ("가게 집", -20.0)]})),
    "groups of few": lambda: groups_wall([[CROP, CROP]] * 3, [["가", "나"]] * 3, ["2 crops"] * 3),
    "groups of many": lambda: groups_wall([[CROP] * 9], [["가"] * 9], ["9 crops, 긴 이름 " * 20]),
    "alphabets": lambda: overview.alphabet_losses(alphabet_losses(["가 나", "뷁"])),
    "sources": lambda: overview.sources_compared(SOURCES),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_figures_are_drawn_without_a_missing_glyph_or_an_empty_panel(name, tmp_path):
    figure = FIGURES[name]()
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 1000
    assert all(axes.has_data() or axes.texts for axes in figure.axes)


def test_with_nothing_to_draw_a_sentence_says_so():
    for figure in (suspects_wall([], rank_suspects(OOF.head(0))), groups_wall([], [], [])):
        assert not figure.axes
        assert figure.texts


def test_a_data_set_is_tried_without_writing_it(tmp_path):
    lines = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(crop_png(i))
        lines.append(f"{i}.png\t글자{i}")
    (tmp_path / "gt.txt").write_text("\n".join([*lines, "gone.png\t없다"]) + "\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    counts, samples = exploration.try_import("list", [tmp_path])
    assert counts["count"].to_dict() == {"kept": 6, "missing image": 1}
    assert "gone.png" in counts.loc["missing image", "such as"]
    images, labels = exploration.sample_crops(samples, 3)
    assert labels == ["글자0", "글자2", "글자5"]
    assert images[0].shape == (24, 64, 3)
    assert sorted(tmp_path.iterdir()) == before
    assert exploration.try_import("list", [tmp_path], most=2)[0]["count"].to_dict() == {"kept": 2}
