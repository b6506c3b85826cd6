"""Further LMDBs beside the competition's: what is taken of them, in which share, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import MINI_LABELS, crop_png

from hangul_ocr import cli
from hangul_ocr.data.batches import STEPS_PER_BLOCK, TrainingBlocks
from hangul_ocr.data.crops import Crop
from hangul_ocr.data.dacon import read_competition, train_samples
from hangul_ocr.data.extra import OUTSIDE, OWN, ChainedCrops, CropsBeside, extra_crops, open_extra
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import Sample
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.session import ALSO, find_session
from hangul_ocr.settings import ModelSettings, Settings, preset
from hangul_ocr.steps import EXTRA, LAST, _record_extra
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.workspace import Workspace

ALPHABET = Alphabet("가각나")
MODEL = ModelSettings(backbone="resnet10t")


def store(path: Path, *samples: tuple[str, str, int]) -> Path:
    items = [Sample(key, crop_png(seed), text, "elsewhere") for key, text, seed in samples]
    write_lmdb(path, items, alphabet=None, settings={})
    return path


@pytest.fixture
def own(tmp_path: Path) -> LmdbReader:
    return LmdbReader(store(tmp_path / "own", ("./a.png", "가", 1), ("./b.png", "나", 2)))


def test_what_must_not_be_learnt_is_left_out_and_counted(tmp_path, own):
    rows = [("c", "각", 3), ("x", "가", 1), ("./b.png", "나", 4), ("d", "뷁", 5), ("e", "xxx", 6), ("f", "", 7)]
    rows += [("g", "나", 1), ("h", "가나", 8), ("./a.png", "각", 9)]
    rows += [("./a.png ", "각", 1)]  # equal bytes alone are not found: not all images are read
    (found,) = open_extra([store(tmp_path / "more", *rows)], ALPHABET, own)
    assert [found.reader[row].key for row in found.rows] == ["c", "g", "h", "./a.png", "./a.png "]
    assert found.left_out == {OWN: 2, OUTSIDE: 1, "placeholder label": 1, "empty label": 1}
    assert found.line().endswith("(characters 뷁)")
    crops = extra_crops([found, found], strength=0, short_side=16)
    rng = np.random.default_rng(0)
    assert [crops.crop(i, rng).key for i in range(len(crops))] == ["c", "g", "h", "./a.png", "./a.png "] * 2


def test_a_crop_of_the_competition_is_known_by_its_bytes_after_its_label_was_corrected(tmp_path, own):
    rows = [("./a.png", "각", 1), ("z", "각", 3)]
    (found,) = open_extra([store(tmp_path / "more", *rows)], ALPHABET, own)
    assert (found.rows, found.left_out) == ([1], {OWN: 1})


def test_the_competition_itself_is_nothing_to_learn_from(mini_competition, tmp_path):
    for name in ("own", "again"):
        write_lmdb(tmp_path / name, train_samples(read_competition(mini_competition)), alphabet=None, settings={})
    with pytest.raises(HangulOcrError, match=f"again: 0 crops; left out: 24 {OWN}: nothing to learn from"):
        open_extra([tmp_path / "again"], Alphabet.for_texts(MINI_LABELS), LmdbReader(tmp_path / "own"))


def test_a_path_that_is_no_store_of_crops_is_refused(tmp_path, own):
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"cats", b"3")
    (tmp_path / "empty").mkdir()
    named = {"none": "no LMDB there", "empty": "no LMDB there", "foreign": "without num-samples"}
    for name, what in named.items():
        with pytest.raises(HangulOcrError, match=f"{name}: .*{what}"):
            open_extra([tmp_path / name], ALPHABET, own)
    twice = store(tmp_path / "more", ("c", "각", 3))
    with pytest.raises(HangulOcrError, match="named twice"):
        open_extra([twice, tmp_path / "own" / ".." / "more"], ALPHABET, own)


class Named:
    """A source whose crops are called by its name."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def crop(self, index, rng):
        return Crop(f"{self.name}{index}", np.full((20, 40, 3), 128, np.uint8), "가")


def keys_of(blocks, count):
    return [key for k in range(count) for step in blocks[k] for group in step for key in group.keys]


def test_an_epoch_shows_every_own_crop_once_and_the_others_in_their_share():
    mixed = CropsBeside(Named("own", 48), Named("other", 1000), 0.25)
    assert len(mixed) == 64
    keys = keys_of(TrainingBlocks(MODEL, ALPHABET, 8, 0, real=mixed), 64 // (8 * STEPS_PER_BLOCK))
    assert sorted(key for key in keys if key.startswith("own")) == sorted(f"own{i}" for i in range(48))
    others = [key for key in keys if key.startswith("other")]
    assert len(others) == 16
    assert len(set(others)) > 10
    weights = mixed.weights(np.full(48, 1 / 48))
    assert weights.sum() == pytest.approx(1)
    assert weights[48:].sum() == pytest.approx(0.25)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 32), (0.0, 0), (1.0, 64)])
def test_pretraining_mixes_real_crops_in_the_share_that_is_asked_for(share, expected):
    real = ChainedCrops([Named("a", 5), Named("b", 7)])
    assert len(real) == 12
    sources = {"real": real, "synthetic": Named("s", 1 << 40), "synthetic_share": 1 - share}
    keys = keys_of(TrainingBlocks(MODEL, ALPHABET, 8, 0, **sources), 1)
    assert sum(not key.startswith("s") for key in keys) == expected


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"extra_lmdbs": "a.lmdb"}, "extra_lmdbs = 'a.lmdb': must be of type list"),
        ({"extra_lmdbs": ["a", 3]}, "a list of folders"),
        ({"real_share": 1.5}, "real_share = 1.5: must be from 0 to 1"),
        ({"extra_share": 1.0}, "extra_share = 1.0: must be from 0 to below 1"),
    ],
)
def test_settings_that_make_no_sense(values, what):
    with pytest.raises(HangulOcrError, match=what):
        Settings.from_dict(values)


def test_a_whole_run_learns_from_further_stores(tmp_path, monkeypatch, capsys):
    """Pretraining and folds with the preset smoke; the stores are in the settings, what was used beside the weights."""
    make_competition(tmp_path / "input" / "sample", 60, 20, seed=3)
    for name in ("INPUT", "OUTPUT", "SUBMISSIONS"):
        monkeypatch.setenv(f"HANGUL_OCR_{name}", str(tmp_path / name.lower()))
    more = store(
        tmp_path / "more.lmdb", *((f"m{i}", "가나"[: 1 + i % 2], 100 + i) for i in range(9)), ("z", "\u3401", 1)
    )
    also = ["--preset", "smoke", "--also", str(more)]
    for missing in ("pretrain", "train", "run"):
        assert cli.main([missing, "--preset", "smoke", "--also", str(tmp_path / "none")]) == 1
        assert f"{tmp_path / 'none'}: no LMDB there" in capsys.readouterr().err
    assert not (tmp_path / "output" / "runs").exists() or not list((tmp_path / "output" / "runs").iterdir())
    assert cli.main(["pretrain", *also]) == 0
    assert cli.main(["train", *also]) == 0
    told = capsys.readouterr().out
    for stage in ("pretraining", "fold0", "fold1"):
        assert (
            f"{stage} learns from {more}: 9 crops; left out: 1 label outside the alphabet (characters \u3401)" in told
        )
    run = tmp_path / "output" / "runs" / "smoke-sample"
    assert json.loads((run / "settings.json").read_text())["extra_lmdbs"] == [str(more)]
    kept = json.loads((run / "fold0" / "extra_lmdbs.json").read_text())
    assert kept[0]["content"] == LmdbReader(more).manifest.content_hash
    assert cli.main(["train", "--preset", "smoke"]) == 1
    assert "made with other settings (extra_lmdbs" in capsys.readouterr().err
    assert cli.main(["ensemble", "--run", "smoke-sample"]) == 0
    assert preset("smoke").extra_lmdbs == []


def test_a_stage_that_has_begun_refuses_other_crops(tmp_path, own):
    folder = tmp_path / "stage"
    _record_extra(folder, open_extra([store(tmp_path / "more", ("c", "각", 3))], ALPHABET, own))
    other = open_extra([store(tmp_path / "more2", ("c", "각", 4))], ALPHABET, own)
    _record_extra(folder, other)
    assert json.loads((folder / EXTRA).read_text())[0]["path"] == str(tmp_path / "more2")
    (folder / LAST).parent.mkdir()
    (folder / LAST).touch()
    _record_extra(folder, other)
    with pytest.raises(HangulOcrError, match="began with other crops"):
        _record_extra(folder, open_extra([tmp_path / "more"], ALPHABET, own))


def test_notebooks_find_the_stores_of_the_command_and_paths_become_absolute(mini_competition, tmp_path, monkeypatch):
    workspace = Workspace("local", tmp_path, tmp_path / "input", tmp_path / "output", tmp_path / "submissions")
    (tmp_path / "mine.json").write_text(preset("smoke", extra_lmdbs=["more.lmdb"]).to_json(), encoding="utf-8")
    session = find_session(workspace, str(mini_competition), str(tmp_path / "mine.json"))
    assert session.settings.extra_lmdbs == [str(tmp_path / "more.lmdb")]
    monkeypatch.setenv(ALSO, os.pathsep.join(["/one.lmdb", "/two.lmdb"]))
    assert find_session(workspace, str(mini_competition), "smoke").settings.extra_lmdbs == ["/one.lmdb", "/two.lmdb"]
