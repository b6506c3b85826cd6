"""The steps over real folders: which competition is taken, what is kept, what is refused; nothing is trained."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_csv
from read_runs import read_run

from hangul_ocr import steps
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.evaluation import plots
from hangul_ocr.exploration import disputed_crops
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.ensemble import Reading, combine
from hangul_ocr.models.checkpoint import save_model, save_tensors
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.results import RESCORED, scores_by_part, write_record
from hangul_ocr.session import run_name
from hangul_ocr.settings import DecodingSettings, Settings, TrainingSettings, load_settings, preset
from hangul_ocr.training import kfold
from hangul_ocr.training.kfold import Run, load_run, open_run
from hangul_ocr.training.loop import BEST, LAST, Progress
from hangul_ocr.workspace import Workspace

SMOKE = preset("smoke")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace("local", tmp_path, tmp_path / "input", tmp_path / "output", tmp_path / "submissions")


def stage_on_disk(folder: Path, **progress: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEST).touch()
    save_tensors(folder / LAST, {"x": torch.zeros(1)}, {"progress": vars(Progress(**progress))})
    return folder


# --- which competition ----------------------------------------------------------------------------------------------


def test_the_sample_gives_way_to_another_competition(workspace, mini_competition):
    shutil.copytree(mini_competition, workspace.input / "sample")
    assert steps.open_competition(workspace).name == "sample"
    shutil.copytree(mini_competition, workspace.input / "open")
    assert steps.open_competition(workspace).name == "open"
    shutil.copytree(mini_competition, workspace.input / "third")
    with pytest.raises(HangulOcrError, match="several competitions"):
        steps.open_competition(workspace)


def test_an_archive_unpacked_a_folder_too_deep_is_found_before_the_sample(workspace, mini_competition):
    shutil.copytree(mini_competition, workspace.input / "sample")
    shutil.copytree(mini_competition, workspace.input / "open" / "open")
    shutil.copytree(mini_competition, workspace.input / "open" / ".trash")
    assert steps.open_competition(workspace).folder == workspace.input / "open" / "open"
    assert steps.open_competition(workspace, "input/open/open/train.csv").folder == workspace.input / "open" / "open"


@pytest.mark.parametrize("place", ["open.zip", "dacon/OPEN.ZIP"])
def test_a_competition_that_is_still_packed_is_told_before_the_sample_is_taken(workspace, mini_competition, place):
    (workspace.input / place).parent.mkdir(parents=True)
    made = shutil.make_archive(str(workspace.root / "made"), "zip", mini_competition.parent, "mini")
    shutil.move(made, workspace.input / place)
    shutil.make_archive(str(workspace.input / "fonts"), "zip", mini_competition / "train")
    for _ in range(2):
        with pytest.raises(HangulOcrError, match=rf"{place}: a competition still packed; unpack it there, or move it"):
            steps.open_competition(workspace)
        shutil.copytree(mini_competition, workspace.input / "sample", dirs_exist_ok=True)
    assert steps.open_competition(workspace, "input/sample").name == "sample"
    (workspace.input / place).write_bytes((workspace.input / place).read_bytes()[:900])
    with pytest.raises(HangulOcrError, match=rf"{place}: cannot be read .*fetch it again"):
        steps.open_competition(workspace)
    shutil.copytree(mini_competition, workspace.input / "open")
    assert steps.open_competition(workspace).name == "open"


# --- what belongs together ------------------------------------------------------------------------------------------


def change_a_label(folder: Path) -> None:
    table = read_competition(folder).train
    write_csv(folder / "train.csv", ("img_path", "text"), table.assign(text=["새" * 3, *table["text"][1:]]).to_numpy())


def test_folds_are_kept_by_seed_and_dealt_anew_only_for_other_crops(workspace, mini_competition, monkeypatch):
    kept = workspace.output / "data" / "mini"
    steps.prepare(read_competition(mini_competition), workspace, SMOKE)
    steps.prepare(read_competition(mini_competition), workspace, replace(SMOKE, seed=1))
    names = ["folds2-seed0.csv", "folds2-seed1.csv"]
    assert sorted(path.name for path in kept.glob("folds*")) == names
    change_a_label(mini_competition)

    def no_space(*arguments, **options):
        raise HangulOcrError("the disk is full")

    competition = read_competition(mini_competition)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_lmdb", no_space)
        with pytest.raises(HangulOcrError, match="full"):
            steps.prepare(competition, workspace, SMOKE)
    assert sorted(path.name for path in kept.glob("folds*")) == names
    steps.prepare(read_competition(mini_competition), workspace, SMOKE)
    assert [path.name for path in kept.glob("folds*")] == names[:1]


def test_images_that_only_became_younger_keep_their_folds(workspace, mini_competition):
    steps.prepare(read_competition(mini_competition), workspace, replace(SMOKE, seed=1))
    (mini_competition / "train" / "train_00001.png").touch()
    steps.prepare(read_competition(mini_competition), workspace, SMOKE)
    assert len(list((workspace.output / "data" / "mini").glob("folds*"))) == 2


def test_a_run_does_not_go_on_over_other_labels_or_folds(workspace, mini_competition):
    prepared = steps.prepare(read_competition(mini_competition), workspace, SMOKE)
    for _ in range(2):
        steps.start_run(workspace, prepared, SMOKE, "mine")
    dealt = replace(prepared, folds=prepared.folds.assign(fold=1 - prepared.folds["fold"]))
    with pytest.raises(HangulOcrError, match="mine: made from other folds; name another run"):
        steps.start_run(workspace, dealt, SMOKE, "mine")
    change_a_label(mini_competition)
    changed = steps.prepare(read_competition(mini_competition), workspace, SMOKE)
    with pytest.raises(HangulOcrError, match=r"mine: made (from other data|with another alphabet); name another run"):
        steps.start_run(workspace, changed, SMOKE, "mine")


# --- what is finished -----------------------------------------------------------------------------------------------


def test_a_stage_is_finished_by_its_blocks_or_its_clock(tmp_path):
    stage = TrainingSettings(steps=20, seconds=60)
    assert steps.finished_stage(tmp_path / "none", stage) is None
    assert steps.finished_stage(stage_on_disk(tmp_path / "a", block=3, step=9), stage).finished
    assert steps.finished_stage(stage_on_disk(tmp_path / "b", block=2, step=20), stage) is None
    assert steps.finished_stage(stage_on_disk(tmp_path / "c", block=1, step=8, seconds=60), stage).finished


def test_stages_draw_crops_as_high_as_the_network_and_show_a_share_at_its_first_look(workspace, mini_competition):
    model = replace(SMOKE.model, short_side=48, glance=32)
    settings = replace(SMOKE, model=model, pretraining=replace(SMOKE.pretraining, glance_share=0.25))
    prepared = steps.prepare(read_competition(mini_competition), workspace, settings)
    run = steps.start_run(workspace, prepared, settings, "glancing")
    stream, _ = steps._synthetic(run, prepared, 0)
    assert stream.renderer.style.short_side == (28, 66)
    blocks = kfold._blocks(run, settings.pretraining, 0, synthetic=stream)
    sides = [{min(group.images.shape[1:3]) for step in blocks[n] for group in step} for n in (2, 3)]
    assert sides == [{48}, {32}]


def test_estimates_are_none_without_a_clock(tmp_path, capsys):
    run = Run(tmp_path, SMOKE, alphabet=None)
    assert steps.estimated_seconds(run) == {"pretrain": None, "train": None}
    stage_on_disk(tmp_path / "fold0", block=1, step=3)
    assert steps.estimated_seconds(run, [0])["train"] == 0
    on_clock = replace(run, settings=replace(SMOKE, fine_tuning=TrainingSettings(seconds=50)))
    assert steps.estimated_seconds(on_clock, [1])["train"] == 50
    steps.say_how_long(None)
    assert "no estimate" in capsys.readouterr().out


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "not \\[1, 2\\]"),
        ({"folds": "x"}, "folds = 'x': must be of type int"),
        ({"folds": 1}, "folds = 1"),
        ({"trained_folds": 4}, "trained_folds = 4: must be at most the number of folds, 3"),
        ({"model": 3}, "model = 3"),
        ({"model": {"short_side": 40}}, "model: short_side = 40: must be a multiple of 16"),
        ({"model": {"glance": 24}}, "model: glance = 24: must be 0, or less than short_side and a multiple of 16"),
        ({"model": {"glance": 32}}, "model: glance = 32: must be 0, or less than short_side"),
        ({"model": {"glance": -16}}, "model: glance = -16: must be 0, or less"),
        (
            {
                "model": {
                    "backbone": "clova_vgg",
                    "backbone_args": {"output_channel": 8},
                    "short_side": 64,
                    "glance": 16,
                }
            },
            "model: glance = 16: must be 0, or less than short_side and a multiple of 32",
        ),
        ({"pretraining": {"glance_share": 2}}, "pretraining: glance_share = 2: must be from 0 to 1"),
        ({"pretraining": {"steps": 0}}, "pretraining: steps = 0"),
        ({"pretraining": {"stepz": 1}}, "pretraining: unknown name 'stepz'"),
        ({"fine_tuning": {"crops_per_step": -1}}, "fine_tuning: crops_per_step = -1"),
        ({"fine_tuning": {"number_type": "float8"}}, "number_type = 'float8': must be one of auto"),
    ],
)
def test_faults_of_a_settings_file_name_the_file(tmp_path, content, what):
    (tmp_path / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(HangulOcrError, match=f"mine.json: .*{what}"):
        load_settings(tmp_path / "mine.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_settings_are_read_in_what_shells_write_them_in(tmp_path, encoding):
    path = tmp_path / "mine.json"  # `hangul-ocr settings > mine.json` is UTF-16 from Windows PowerShell 5
    path.write_bytes(preset("quick", seed=7).to_json().encode(encoding))
    assert load_settings(path) == preset("quick", seed=7)
    path.write_bytes("{ 한글".encode("cp949"))
    with pytest.raises(HangulOcrError, match="not valid JSON"):
        load_settings(path)


@pytest.mark.parametrize("name", ["smoke", "quick", "scratch", "colab", "full"])
def test_presets_survive_json(name):
    assert Settings.from_dict(json.loads(preset(name).to_json())) == preset(name)


def test_only_another_seed_than_the_settings_own_shows_in_the_name(tmp_path, mini_competition):
    (tmp_path / "mine.json").write_text(preset("smoke", seed=7).to_json(), encoding="utf-8")
    competition = read_competition(mini_competition)
    names = [run_name(str(tmp_path / "mine.json"), seed, competition) for seed in (None, 7, 0)]
    assert names == ["mine-mini", "mine-mini", "mine-mini-seed0"]


# --- readings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [1, 2])
def test_no_disputed_crops_are_an_empty_wall(folds):
    members = pd.DataFrame({"img_path": ["a", "b"], **{f"fold {k}": ["가", "나"] for k in range(folds)}})
    images, captions = disputed_crops(members.assign(**{RESCORED: ["가", "나"]}), test=None)
    assert (images, captions) == ([], [])
    plots.image_wall(images, captions, columns=3, title="none")


def test_an_impossible_string_is_measured_by_its_own_model():
    # The second model's own floor is -14; the first's bad third string must not push it to -50.
    reading = Reading(["가", "뷁", "다"], np.array([[-9.0, -1.0, -40.0], [-4.0, -np.inf, -4.0]]), ["뷁", "가"])
    assert combine(reading) == ("가", pytest.approx(np.exp(-6.5)))
    mild = Reading(["가", "뷁", "다"], np.array([[-19.0, -1.0, -60.0], [-4.0, -np.inf, -4.0]]), ["뷁", "가"])
    assert combine(mild)[0] == "뷁"


def test_missing_predictions_count_as_wrong_and_are_counted(capsys):
    answers = pd.DataFrame({"img_path": ["./a.png", "./b.png"], "text": ["가", "나"]})
    scores = scores_by_part(pd.DataFrame({"img_path": ["a.png"], "text": ["가"]}), answers)
    assert scores["all"].exact == 0.5
    assert "1 of 2 predictions are missing and count as wrong" in capsys.readouterr().out
    with pytest.raises(HangulOcrError, match="predictions: no column 'text'"):
        scores_by_part(answers.rename(columns={"text": "label"}), answers)


# --- where a fold began ---------------------------------------------------------------------------------------------


def test_a_fold_that_has_begun_refuses_other_weights(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for number, path in enumerate((first, second)):
        save_tensors(path, {"x": torch.full((1,), number)}, {})
    run = Run(tmp_path / "run", SMOKE, None)
    folder = stage_on_disk(run.fold_folder(0), block=1)
    steps._record_start(folder, first)
    assert json.loads((folder / steps.START).read_text(encoding="utf-8"))["path"] == str(first)
    steps._require_same_start(folder, first)
    with pytest.raises(HangulOcrError, match="began from"):
        steps.train_run(run, None, init_from=second)
    with pytest.raises(HangulOcrError, match="no such checkpoint"):
        steps._record_start(folder, tmp_path / "gone.safetensors")


def test_another_way_to_weigh_strings_needs_no_other_run(tmp_path, mini_competition):
    run, prepared = read_run(tmp_path, mini_competition)
    made_from = steps._made_from(run, prepared.train)
    assert not steps._is_current(run, made_from, "oof.csv"), "nobody knows what it was made from"
    write_record(run.folder, made_from, "oof.csv")
    assert steps._is_current(run, made_from, "oof.csv")
    assert not steps._is_current(run, made_from, "oof.csv", "oof_candidates.jsonl"), "one is missing"
    weighed = replace(run.settings, decoding=DecodingSettings(length_bonus=0.5))
    again = open_run(run.folder, weighed, run.alphabet)
    assert load_run(run.folder).settings == weighed
    assert not steps._is_current(again, steps._made_from(again, prepared.train), "oof.csv")
    with pytest.raises(HangulOcrError, match="other settings"):
        open_run(run.folder, replace(weighed, seed=5), run.alphabet)


def test_readings_are_of_the_weights_that_there_are_whatever_their_dates(tmp_path, mini_competition):
    run, prepared = read_run(tmp_path, mini_competition)
    write_record(run.folder, steps._made_from(run, prepared.train), "oof.csv")
    weights = run.fold_folder(0) / BEST
    before = weights.stat()
    torch.manual_seed(99)
    save_model(weights, Recognizer(run.settings.model, run.alphabet))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not steps._is_current(run, steps._made_from(run, prepared.train), "oof.csv")


def test_an_edited_lexicon_is_another_way_to_weigh_strings(tmp_path, mini_competition):
    words = tmp_path / "words.txt"
    words.write_text("치킨\n피자\n", encoding="utf-8")
    run, prepared = read_run(tmp_path, mini_competition)
    settings = replace(run.settings, decoding=DecodingSettings(lexicon=str(words), lexicon_bonus=1.0))
    run = open_run(run.folder, settings, run.alphabet)
    write_record(run.folder, steps._made_from(run, prepared.train), "oof.csv")
    words.write_text("피자\n\n치킨\n", encoding="utf-8")
    assert steps._is_current(run, steps._made_from(run, prepared.train), "oof.csv"), "the same words"
    words.write_text("치킨\n", encoding="utf-8")
    assert not steps._is_current(run, steps._made_from(run, prepared.train), "oof.csv")
