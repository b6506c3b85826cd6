"""Ensembles of runs and views over real folders: what is read, kept, resumed and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import crop_png, write_csv

from hangul_ocr import ensembles, steps
from hangul_ocr.data.batches import fixed_groups
from hangul_ocr.data.crops import TALL, LmdbCrops
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.tables import read_table
from hangul_ocr.ensembles import ENSEMBLE_OOF, RECORD, Ensemble
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference import predict
from hangul_ocr.inference.joining import CHOSEN, WAYS
from hangul_ocr.inference.parts import PARTS
from hangul_ocr.inference.views import VIEWS
from hangul_ocr.models.checkpoint import load_model, save_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.results import MEMBERS, OOF, TEST_CANDIDATES, TEST_PREDICTIONS
from hangul_ocr.settings import ModelSettings, Settings, preset
from hangul_ocr.steps import Prepared
from hangul_ocr.training.kfold import Run, open_run
from hangul_ocr.training.loop import BEST, Stage
from hangul_ocr.workspace import Workspace, make_accelerator, seed_everything

SMOKE = preset("smoke")
OTHER = replace(
    SMOKE,
    seed=5,
    model=ModelSettings(backbone_args={"channels": [8, 8, 8, 16]}, hidden=16, decoder="attention", max_length=6),
)
LABELS = ("가", "나무", "서울 시장", "커피숍", "미용실", "한의원")


class House:
    """A competition of 24 train and 8 test crops with two runs of untrained networks, of unlike kinds and folds."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace("local", root, root / "input", root / "output", root / "submissions")
        folder = root / "input" / "mini"
        train, test = [f"./t{i:02d}.png" for i in range(24)], [f"./x{i}.png" for i in range(8)]
        folder.mkdir(parents=True)
        for seed, name in enumerate(train + test):
            (folder / name).write_bytes(crop_png(seed, *((24, 64) if seed % 6 == 5 else (64, 24))))
        write_csv(folder / "train.csv", ("img_path", "text"), [(p, LABELS[i // 4]) for i, p in enumerate(train)])
        write_csv(folder / "test.csv", ("img_path",), [(path,) for path in test])
        write_csv(folder / "sample_submission.csv", ("img_path", "text"), [(path, "") for path in test])
        self.competition = read_competition(folder)
        self.prepared = self.prepare(SMOKE)
        self.first = self.run("first", SMOKE, self.prepared.alphabet)
        self.run("second", OTHER, self.prepared.alphabet)

    def prepare(self, settings: Settings) -> Prepared:
        return steps.prepare(self.competition, self.workspace, settings)

    def run(self, name: str, settings: Settings, alphabet: Alphabet, data: str = "") -> Run:
        facts = self.prepare(settings).hashes() | ({"data": data} if data else {})
        run = open_run(self.workspace.output / "runs" / name, settings, alphabet, facts)
        for fold in range(settings.trained_folds):
            seed_everything(settings.seed + fold)
            save_model(run.fold_folder(fold) / BEST, Recognizer(settings.model, alphabet))
        return run

    def open(self, *further: str, views: tuple[str, ...] = ()) -> Ensemble:
        return ensembles.open_ensemble(self.workspace, self.first, self.prepared, further, views)


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[House, Ensemble]:
    house = House(tmp_path_factory.mktemp("finished"))
    ensemble = house.open("second", views=("wider",))
    ensembles.predict(ensemble)
    return house, ensemble


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_members_of_unlike_networks_folds_and_views_are_read_and_joined(finished):
    house, ensemble = finished
    assert ensemble.folder.name == "first+second-wider"
    assert ensemble.members == ["first", "first, wider", "second", "second, wider"]
    oof = ensembles.load_oof(ensemble)
    assert set(oof["img_path"]) == set(house.competition.train["img_path"])
    assert {*ensemble.members, *WAYS, CHOSEN} <= set(oof.columns)
    table = ensembles.load_comparison(ensemble)
    assert table["kept"].sum() == 1
    assert list(read_table(ensemble.folder / TEST_PREDICTIONS)["img_path"]) == list(house.competition.test["img_path"])
    assert {TEST_CANDIDATES, MEMBERS} <= set(files_of(ensemble.folder))
    assert not (ensemble.folder / PARTS).exists()
    record = ensembles.load_record(ensemble)
    assert sum(record["choice"]["weights"]) == pytest.approx(1)
    assert ensembles.weights_table(record)["weight, %"].sum() == pytest.approx(100, abs=0.3)


def test_out_of_fold_no_model_reads_a_crop_that_it_was_trained_on(house, monkeypatch):
    seen = []

    def note(ensemble, checkpoints, reader, rows, *rest):
        seen.extend((path, reader.keys()[row]) for paths in checkpoints for path in paths for row in rows)
        return [None] * len(rows)

    monkeypatch.setattr(ensembles, "_read", note)
    ensemble = house.open("second")
    ensembles._read_out_of_fold(ensemble)
    assert len(seen) == 2 * 24
    for path, key in seen:
        of_run = [run.folder for run in ensemble.runs].index(path.parent.parent)
        assert path.parent.name == f"fold{ensemble.folds[of_run][key]}"


def test_killed_and_started_again_it_ends_with_the_same_bytes(house, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 5)
    ensemble = house.open("second", views=("shifted",))
    whole, read = predict._read_chunk, []

    def killed(*arguments):
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(1)
        return whole(*arguments)

    monkeypatch.setattr(predict, "_read_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        ensembles.predict(ensemble)
    assert not (ensemble.folder / RECORD).exists()
    before = len(list((ensemble.folder / PARTS).rglob("*.json")))
    again = []
    monkeypatch.setattr(predict, "_read_chunk", lambda *a: again.append(1) or whole(*a))
    ensembles.predict(ensemble)
    resumed = files_of(ensemble.folder)
    shutil.rmtree(ensemble.folder)
    afresh = []
    monkeypatch.setattr(predict, "_read_chunk", lambda *a: afresh.append(1) or whole(*a))
    ensembles.predict(ensemble)
    assert before == 3
    assert len(again) == len(afresh) - 3
    assert files_of(ensemble.folder) == resumed


def test_finished_work_is_not_done_again_and_other_weights_begin_anew(house, monkeypatch):
    ensemble = house.open(views=("wider",))
    ensembles.predict(ensemble)
    with monkeypatch.context() as patch:
        patch.setattr(ensembles, "read_crops", None)
        ensembles.predict(ensemble)
        save_model(house.first.fold_folder(0) / BEST, Recognizer(SMOKE.model, house.prepared.alphabet))
        with pytest.raises(HangulOcrError, match="older than the weights or the crops"):
            ensembles.hand_in(ensemble, house.workspace)
        with pytest.raises(TypeError):
            ensembles.choose(ensemble)


def test_the_ensemble_is_handed_in_with_its_honest_score(finished, capsys):
    house, ensemble = finished
    path = ensembles.hand_in(ensemble, house.workspace)
    log = read_table(path.with_name("log.csv"))
    assert log["run"].tolist() == ["first+second-wider"]
    assert float(log["cv"][0]) == pytest.approx(ensembles.load_record(ensemble)["score"]["accuracy"], abs=1e-4)
    assert "nothing to compare it with" in capsys.readouterr().out
    ensembles.hand_in(ensemble, house.workspace)
    assert "the same as the former one" in capsys.readouterr().out
    assert len(read_table(path.with_name("log.csv"))) == 1


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_fold_missing_names_the_command_that_trains_it(house):
    shutil.rmtree(house.workspace.output / "runs" / "second" / "fold1")
    with pytest.raises(HangulOcrError, match=r"run second: fold 1 is not trained; .*train --run second --fold 1"):
        house.open("second")
    assert not (house.workspace.output / "ensembles").exists()


def test_a_run_of_other_crops_or_named_twice_is_refused(house):
    house.run("strange", SMOKE, house.prepared.alphabet, data="0" * 64)
    with pytest.raises(HangulOcrError, match="strange: made from other data"):
        house.open("strange")
    with pytest.raises(HangulOcrError, match="run first is named twice"):
        house.open("first")
    with pytest.raises(HangulOcrError, match="not a run folder"):
        house.open("ghost")
    with pytest.raises(HangulOcrError, match="view 'upside' is unknown; choose among shifted"):
        house.open(views=("upside",))


def test_a_member_with_another_alphabet_is_named_and_takes_part(house, capsys):
    house.run("short", OTHER, Alphabet(house.prepared.alphabet.characters.replace("숍", "")))
    ensemble = house.open("short")
    assert "run short cannot write 1 characters of the labels (숍)" in capsys.readouterr().out
    assert len(ensembles.predict(ensemble)) == 8


def test_edited_files_are_refused(house):
    ensemble = house.open(views=("wider",))
    ensembles.predict(ensemble)
    path = ensemble.folder / ENSEMBLE_OOF
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:-3]), encoding="utf-8")
    with pytest.raises(HangulOcrError, match=r"ensemble_oof\.csv: edited since it was written; delete"):
        ensembles.choose(ensemble)
    (ensemble.folder / TEST_PREDICTIONS).unlink()
    with pytest.raises(HangulOcrError, match=r"test_predictions\.csv: not there; run notebook 05"):
        ensembles.hand_in(ensemble, house.workspace)
    (ensemble.folder / RECORD).write_text('{"choice": {}}', encoding="utf-8")
    with pytest.raises(HangulOcrError, match=r"ensemble\.json: damaged"):
        ensembles.choose(ensemble)
    assert not (house.workspace.submissions / "submission.csv").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda oof: oof.iloc[3:], "3 rows missing, 0 repeated"),
        (lambda oof: pd.concat([oof, oof.head(2)]), ".* more than once"),
        (lambda oof: oof.assign(text=["딴 말", *oof["text"][1:]]), "1 rows missing, 1 repeated, changed"),
        (lambda oof: oof.drop(columns="fold"), "no column fold"),
        (lambda oof: oof.assign(confidence="sure"), ".* which is none"),
        (lambda oof: oof.iloc[:0], "no rows"),
    ],
)
def test_an_oof_file_edited_by_hand_is_refused(house, spoil, told):
    spoil(steps.read_oof(house.first, house.prepared)).to_csv(house.first.folder / OOF, index=False)
    with pytest.raises(HangulOcrError, match=rf"oof\.csv: {told}.*delete it and run"):
        steps.read_oof(house.first, house.prepared)


def test_a_template_of_other_columns_is_refused(house):
    (house.competition.folder / "sample_submission.csv").write_text("id,answer\n1,\n", encoding="utf-8")
    with pytest.raises(HangulOcrError, match=r"sample_submission\.csv"):
        read_competition(house.competition.folder)


def test_one_member_alone_and_one_fold_alone_are_judged_too(house):
    shutil.rmtree(house.first.fold_folder(1))
    settings = replace(SMOKE, trained_folds=1)
    house.first = replace(house.first, settings=settings)
    ensemble = house.open()
    record = ensembles.choose(ensemble)
    assert record["choice"]["way"] == WAYS[0]
    assert record["score"]["n"] == (house.prepared.folds["fold"] == 0).sum()


def test_a_fold_without_numbers_leaves_the_reading_to_the_others(house):
    broken = house.first.fold_folder(1) / BEST
    model = load_model(broken)
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(float("nan"))
    save_model(broken, model)
    predictions = steps.read_test(house.first, house.prepared)
    members = read_table(house.first.folder / MEMBERS)
    assert set(members["fold 1"]) == {""}
    assert predictions["text"].tolist() == members["fold 0"].tolist()
    ensemble = house.open("second")
    assert len(ensembles.predict(ensemble)) == 8


def test_a_fold_that_was_not_trained_to_the_end_is_named(house, capsys):
    stage = replace(SMOKE.fine_tuning, workers=0)
    model = load_model(house.first.fold_folder(1) / BEST)
    groups = fixed_groups(LmdbCrops(house.prepared.train), SMOKE.model, model.alphabet)
    accelerator = make_accelerator("float32")
    Stage("cut short", model, None, groups, stage, house.first.fold_folder(1), accelerator)._save_last()
    house.open("second")
    assert "run first: folds not trained to the end, read as they are: 1" in capsys.readouterr().out


def test_a_view_leaves_a_crop_the_way_it_lies():
    nearly = np.zeros((100, 80, 3), np.uint8)
    for image in (nearly, np.ascontiguousarray(nearly.transpose(1, 0, 2)), np.zeros((161, 100, 3), np.uint8)):
        for name in VIEWS.keys() - {"turned"}:  # which is for crops that lie on their side
            seen = predict.view(predict.Crop("k", image, "가"), name).image
            assert (seen.shape[0] > TALL * seen.shape[1]) == (image.shape[0] > TALL * image.shape[1]), name


def test_views_are_the_same_every_time_and_keep_the_kind_of_image():
    crop = predict.Crop("k", predict.decode_image(crop_png(1)), "가")
    for name in VIEWS:
        first, second = predict.view(crop, name), predict.view(crop, name)
        assert (first.key, first.text, first.image.dtype) == ("k", "가", crop.image.dtype)
        assert first.image.shape[2] == 3
        assert (first.image == second.image).all()


def test_settings_of_the_record_are_plain_json(finished):
    record = json.loads((finished[1].folder / RECORD).read_text(encoding="utf-8"))
    assert record["members"] == finished[1].members
