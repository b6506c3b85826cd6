"""The command line: the steps in order, each bad input in one line, and paths written exactly as given."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import crop_png, write_csv

from hangul_ocr import cli, inference, notebook_runner, steps, weights
from hangul_ocr.data.corrections import read_corrections
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.hangul import Alphabet
from hangul_ocr.labelled import file_parts, find_readers
from hangul_ocr.models.checkpoint import load_model, read_header, save_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.notebook_runner import NotebookFailed, NotebookResult
from hangul_ocr.results import OOF_CANDIDATES
from hangul_ocr.settings import Settings, preset
from hangul_ocr.suspects import load_candidates
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.training.kfold import learning_history, load_run
from hangul_ocr.weights import CURVE, SCOUT, WEIGHTS
from hangul_ocr.workspace import find_workspace

STEPS = (
    "sample-competition",
    "import",
    "lmdb",
    "pretrain",
    "train",
    "ensemble",
    "suspects",
    "submit",
    "report",
    "compare",
    "validate",
    "upload",
    "predict",
    "score",
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch) -> Path:
    """A workspace of its own, with nothing in it."""
    use(monkeypatch, tmp_path)
    return tmp_path


def use(patch: pytest.MonkeyPatch, root: Path) -> None:
    patch.delenv("HANGUL_OCR_STOP_AT", raising=False)
    for name in ("INPUT", "OUTPUT", "SUBMISSIONS"):
        patch.setenv(f"HANGUL_OCR_{name}", str(root / name.lower()))


@pytest.fixture(scope="module")
def trained_root(tmp_path_factory) -> Path:
    """A workspace in which the preset ``smoke`` was trained on a small sample competition, step by step."""
    root = tmp_path_factory.mktemp("trained")
    make_competition(root / "input" / "sample", 60, 20, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, root)
        for step in ("lmdb", "pretrain", "train", "ensemble", "submit"):
            assert cli.main([step, "--preset", "smoke"]) == 0
    return root


@pytest.fixture
def trained(trained_root: Path, monkeypatch) -> Path:
    use(monkeypatch, trained_root)
    return trained_root


def error_of(capsys, *arguments: str | Path) -> str:
    """Run a command that must fail with exit code 1 and one line; return the line."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def help_text(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_steps_in_order(capsys):
    text = help_text(capsys)
    places = [text.index(f"\n    {step}") for step in STEPS]
    assert places == sorted(places)


@pytest.mark.parametrize("step", [*STEPS, "settings", "run"])
def test_each_step_has_help_with_an_example(capsys, step):
    assert f"example: hangul-ocr {step} " in help_text(capsys, step)


def test_help_tells_what_is_read_written_and_returned(capsys):
    assert "130 interrupted. Images that cannot be read are named on stderr" in " ".join(help_text(capsys).split())
    told = {
        "predict": "folders with all that lie below them",
        "evaluate": "predictions.csv (img_path,text,confidence, img_path being the crop's key in the LMDB)",
        "compare": "the name of a run or ensemble, or a CSV with img_path, text (the label) and prediction",
    }
    for step, what in told.items():
        assert what in " ".join(help_text(capsys, step).split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["train", "--time-limit", "-3"],
        ["predict", "a.png"],
        *(["predict", "a.png", "--csv", "a.csv", "--sure", value] for value in ("1.1", "-0.1", "nan", "very")),
        ["lmdb", "--seed", "x"],
    ],
)
def test_wrong_usage_is_exit_code_two(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_sample_competition_is_made_and_never_over_another(workspace, capsys):
    arguments = ["sample-competition", str(workspace / "mine"), "--train", "12", "--test", "5", "--seed", "1"]
    assert cli.main(arguments) == 0
    assert len(read_table(workspace / "mine" / "train.csv")) == 12
    assert "not empty" in error_of(capsys, *arguments)


def test_settings_are_printed_as_json_that_can_be_read_again(capsys):
    assert cli.main(["settings", "--preset", "colab", "--seed", "4"]) == 0
    assert Settings.from_dict(json.loads(capsys.readouterr().out)) == preset("colab", seed=4)
    assert "preset 'nope' is unknown; choose one of smoke" in error_of(capsys, "settings", "--preset", "nope")


def test_a_settings_file_is_found_from_the_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("--preset", "--settings"):
        options = cli.build_parser().parse_args(["run", name, "mine.json"])
        assert cli._preset(options) == str(tmp_path / "mine.json")


def test_report_of_a_run_is_one_page_and_two_runs_are_compared(trained, capsys):
    assert cli.main(["report", "--preset", "smoke", "--max-megabytes", "1"]) == 0
    said = capsys.readouterr().out
    page = (trained / "output" / "report.html").read_text(encoding="utf-8")
    assert said.startswith(f"{trained / 'output' / 'report.html'}: ")
    assert "crops are here" in said
    assert "smoke-sample on sample" in page
    mended = read_table(trained / "output" / "runs" / "smoke-sample" / "oof.csv")
    mended.assign(prediction=mended["text"]).to_csv(trained / "mended.csv", index=False)
    out = trained / "compared"
    assert cli.main(["compare", "smoke-sample", str(trained / "mended.csv"), "--out", str(out)]) == 0
    assert "mended is better than smoke-sample" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        f"compare_smoke-sample_mended_{name}.png" for name in ("better", "changes", "worse")
    ]


def test_compare_says_what_it_takes(trained, tmp_path, capsys):
    table = read_table(trained / "output" / "runs" / "smoke-sample" / "oof.csv")[["img_path", "text", "confidence"]]
    table.to_csv(tmp_path / "predicted.csv", index=False)
    message = error_of(capsys, "compare", "smoke-sample", tmp_path / "predicted.csv")
    assert "columns img_path, text (the label) and prediction" in message
    assert "delete" not in message
    labelled = table.assign(prediction=table["text"])
    for wrong in (labelled.iloc[:0], labelled.drop(columns="img_path"), pd.concat([labelled] * 2)):
        wrong.to_csv(tmp_path / "wrong.csv", index=False)
        message = error_of(capsys, "compare", "smoke-sample", tmp_path / "wrong.csv")
        assert "runs and ensembles by their names, and tables with the columns" in message
        assert "delete" not in message


def test_an_ensemble_is_compared_by_its_name_or_its_table(trained, tmp_path, capsys):
    assert cli.main(["ensemble", "--run", "smoke-sample", "--views", "wider"]) == 0
    out = ["--out", str(tmp_path)]
    assert cli.main(["compare", "smoke-sample", "smoke-sample-wider", *out]) == 0
    by_name = capsys.readouterr().out
    assert "accuracy of smoke-sample-wider" in by_name
    table = trained / "output" / "ensembles" / "smoke-sample-wider" / "ensemble_oof.csv"
    assert cli.main(["compare", "smoke-sample", str(table), *out]) == 0
    assert capsys.readouterr().out in by_name


def test_a_data_folder_that_is_none_stops_run_before_any_notebook(trained, capsys):
    assert "no train.csv in" in error_of(capsys, "run", "--preset", "smoke", "--data", "nosuch")
    assert not (trained / "output" / "notebooks").exists()


def test_input_that_cannot_be_read_stops_run_before_any_notebook(workspace, capsys):
    for name in ("open", "other"):
        (workspace / "input" / name).mkdir(parents=True)
    write_csv(workspace / "input" / "open" / "train.csv", ("one", "two", "three"), [("a", "b", "c")])
    assert "columns not recognised" in error_of(capsys, "run", "--preset", "smoke")
    write_csv(workspace / "input" / "other" / "train.csv", ("img_path", "text"), [("a.png", "가")])
    assert "several competitions" in error_of(capsys, "run", "--preset", "smoke")
    assert not (workspace / "output" / "notebooks").exists()


def test_compare_names_the_runs_there_are(trained, capsys):
    for arguments in (["compare", "smoke-sample", "nothing"], ["report", "--run", "nothing", "--preset", "smoke"]):
        assert "(there are smoke-sample); name another run" in error_of(capsys, *arguments)
    assert not (trained / "output" / "runs" / "nothing").exists()


def test_report_of_rows_that_were_deleted_by_hand(trained, capsys, tmp_path):
    shutil.copytree(trained / "output" / "runs" / "smoke-sample", trained / "output" / "runs" / "edited")
    oof = trained / "output" / "runs" / "edited" / "oof.csv"
    oof.write_text("".join(oof.read_text(encoding="utf-8").splitlines(keepends=True)[:-3]), encoding="utf-8")
    message = error_of(capsys, "report", "--run", "edited", "--out", tmp_path / "new" / "report.html")
    shutil.rmtree(oof.parent)  # the other tests look for the newest run
    assert "3 of" in message
    assert "rows are missing" in message
    assert not list((tmp_path / "new").iterdir())


# --- bad input ------------------------------------------------------------------------------------------------------


def test_no_train_csv(workspace, capsys):
    (workspace / "empty").mkdir()
    message = error_of(capsys, "lmdb", "--data", workspace / "empty")
    assert f"no train.csv in {workspace / 'empty'}" in message
    assert "put the competition there" in message


def test_columns_not_recognised(mini_competition, workspace, capsys):
    write_csv(mini_competition / "train.csv", ("one", "two", "three"), [("a", "b", "c")])
    message = error_of(capsys, "lmdb", "--data", mini_competition)
    assert "train.csv: columns not recognised (one, two, three)" in message


def test_image_path_that_leaves_the_folder(mini_competition, workspace, capsys):
    write_csv(mini_competition / "train.csv", ("img_path", "text"), [("../secret.png", "가")])
    assert "'../secret.png' leaves the folder" in error_of(capsys, "pretrain", "--data", mini_competition)


def test_all_labels_empty(mini_competition, workspace, capsys):
    write_csv(mini_competition / "train.csv", ("img_path", "text"), [("./train/train_00001.png", "")])
    assert "all 1 labels are empty" in error_of(capsys, "train", "--data", mini_competition)


def test_corrupted_images_are_skipped_counted_and_listed(mini_competition, workspace, capsys):
    (mini_competition / "train" / "train_00001.png").write_bytes(b"")
    (mini_competition / "train" / "train_00002.png").write_bytes(crop_png(2)[:200])
    (mini_competition / "train" / "train_00003.png").unlink()
    assert cli.main(["lmdb", "--data", str(mini_competition), "--preset", "smoke"]) == 0
    shown = capsys.readouterr().out
    assert "unreadable image" in shown
    assert "missing image" in shown
    assert "the largest by their first crop: 2 (./train/train_000" in shown
    left_out = read_table(workspace / "output" / "data" / mini_competition.name / "train.lmdb" / "left_out.csv")
    assert left_out["key"].tolist() == [f"./train/train_0000{n}.png" for n in (1, 2, 3)]


def test_run_folder_of_another_settings_file(trained, tmp_path, capsys):
    cli.main(["settings", "--preset", "smoke", "--seed", "7"])
    (tmp_path / "mine.json").write_text(capsys.readouterr().out, encoding="utf-8")
    message = error_of(capsys, "pretrain", "--run", "smoke-sample", "--settings", tmp_path / "mine.json")
    assert "smoke-sample: made with other settings (seed: 7 here, 0 there); name another run" in message


def test_settings_file_that_is_none(workspace, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    assert "bad.json: not valid JSON" in error_of(capsys, "settings", "--settings", tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"colour": 1}', encoding="utf-8")
    assert "'colour'" in error_of(capsys, "settings", "--settings", tmp_path / "bad.json")


def test_checkpoint_of_another_alphabet(trained, capsys):
    path = trained / "output" / "runs" / "smoke-sample" / "fold0" / "best.safetensors"
    kept = path.read_bytes()
    save_model(path, Recognizer(preset("smoke").model, Alphabet("가나다")))
    try:
        message = error_of(capsys, "ensemble", "--preset", "smoke")
    finally:
        path.write_bytes(kept)
    assert "fold0/best.safetensors: its alphabet differs" in message


@pytest.mark.parametrize("content", [None, b"\x80\x04cos\nsystem\n."])
def test_weights_to_start_from_that_are_none(trained, tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "w.safetensors").write_bytes(content)
    message = error_of(
        capsys, "train", "--preset", "smoke", "--run", "other", "--init-from", tmp_path / "w.safetensors"
    )
    assert ("no such checkpoint" if content is None else "not a safetensors file") in message
    assert message == error_of(
        capsys, "pretrain", "--preset", "smoke", "--run", "other", "--init-from", tmp_path / "w.safetensors"
    )
    error_of(capsys, "train", "--preset", "smoke", "--run", "other", "--fold", "9")
    assert not (trained / "output" / "runs" / "other").exists()


def test_a_start_that_fails_leaves_no_run_folder(trained, tmp_path, capsys):
    values = json.loads(preset("smoke").to_json())
    values["model"]["hidden"] = 48
    (tmp_path / "wider.json").write_text(json.dumps(values), encoding="utf-8")
    start = ("--run", "fails", "--init-from", trained / "output/runs/smoke-sample/fold0/best.safetensors")
    for step in ("pretrain", "train"):
        message = error_of(capsys, step, "--settings", tmp_path / "wider.json", *start)
        assert "best.safetensors: " in message
        assert "the settings want" in message
    assert "pretrain under --from-scratch" in error_of(capsys, "pretrain", "--preset", "quick", *start)
    assert not (trained / "output" / "runs" / "fails").exists()


def test_folds_need_a_pretraining_or_weights(trained, capsys):
    message = error_of(capsys, "train", "--preset", "smoke", "--run", "no-pretraining")
    assert "pretraining is not finished; run notebook 04 or `hangul-ocr pretrain` first" in message
    assert not (trained / "output" / "runs" / "no-pretraining").exists()
    assert "fold 9: the settings have folds 0 to 1" in error_of(capsys, "train", "--preset", "smoke", "--fold", "9")


def test_steps_before_their_time_name_the_step_to_run(trained, capsys):
    for command in ("ensemble", "submit", "suspects", "report"):
        message = error_of(capsys, command, "--preset", "smoke", "--run", "early")
        assert "run 'early': no " in message
        assert "smoke-sample" in message
    assert not (trained / "output" / "runs" / "early").exists(), "a name mistyped"
    assert "run name '../x'" in error_of(capsys, "train", "--preset", "smoke", "--run", "../x")


def test_submission_from_outdated_predictions_is_refused(trained, capsys):
    run = trained / "output" / "runs" / "smoke-sample"
    submission = trained / "submissions" / "submission.csv"
    before, weights = submission.stat().st_mtime_ns, run / "fold0" / "best.safetensors"
    kept, times = weights.read_bytes(), weights.stat()
    weights.write_bytes((run / "fold1" / "best.safetensors").read_bytes())
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as copies and archives keep it
    try:
        message = error_of(capsys, "submit", "--preset", "smoke")
    finally:
        weights.write_bytes(kept)
    assert "oof.csv: made from other weights or crops; run notebook 05" in message
    assert submission.stat().st_mtime_ns == before


def test_a_damaged_run_is_left_aside_with_a_warning(trained, capsys):
    damaged = trained / "output" / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "settings.json").write_text('{"colour": 1}', encoding="utf-8")
    try:
        found = steps.finished_runs(find_workspace())
    finally:
        (damaged / "settings.json").unlink()
        damaged.rmdir()
    assert "warning: run damaged is left aside" in capsys.readouterr().err
    assert "smoke-sample" in [run.folder.name for run in found]


def test_validate_makes_no_sample_competition(workspace, tmp_path, capsys):
    assert "no train.csv" in error_of(capsys, "validate", tmp_path / "submission.csv")
    assert not (workspace / "input" / "sample").exists()


def test_seed_replaces_that_of_a_settings_file(tmp_path, capsys):
    (tmp_path / "mine.json").write_text(preset("smoke", seed=7).to_json(), encoding="utf-8")
    for arguments, seed in (([], 7), (["--seed", "5"], 5), (["--seed", "0"], 0)):
        assert cli.main(["settings", "--settings", str(tmp_path / "mine.json"), *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["seed"] == seed


def test_nothing_to_predict_with(workspace, tmp_path, capsys, monkeypatch):
    (workspace / "a.png").write_bytes(crop_png(1))
    arguments = ("predict", workspace / "a.png", "--csv", workspace / "out.csv")
    assert "not a run folder" in error_of(capsys, *arguments, "--run", "ghost")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert "install the whole package" in error_of(capsys, *arguments)
    assert not (workspace / "out.csv").exists()


def test_full_disk_keeps_the_former_file(trained, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.png").write_bytes(crop_png(1))
    (tmp_path / "out.csv").write_text("former")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    message = error_of(capsys, "predict", tmp_path / "a.png", "--csv", tmp_path / "out.csv")
    assert "out.csv: the disk is full" in message
    assert (tmp_path / "out.csv").read_text() == "former"


def test_a_submission_of_other_rows_is_refused_with_every_reason(trained, tmp_path, capsys):
    good = read_table(trained / "submissions" / "submission.csv")
    assert cli.main(["validate", str(trained / "submissions" / "submission.csv")]) == 0
    good.iloc[::-1].to_csv(tmp_path / "reversed.csv", index=False)
    assert "rows are in another order" in error_of(capsys, "validate", tmp_path / "reversed.csv")
    good.iloc[:, 1] = "가"
    good.to_csv(tmp_path / "excel.csv", index=False, encoding="cp949")
    assert "cp949, not UTF-8" in error_of(capsys, "validate", tmp_path / "excel.csv")


def test_a_submission_handed_in_twice_is_logged_once_and_that_is_said(trained, capsys):
    log = trained / "submissions" / "log.csv"
    before = log.read_bytes()
    assert cli.main(["submit", "--preset", "smoke"]) == 0
    assert "log.csv: not logged again, the same file of smoke-sample is its row 1" in capsys.readouterr().out
    assert log.read_bytes() == before


# --- stopping and going on ------------------------------------------------------------------------------------------


def test_time_limit_saves_stops_with_code_three_and_goes_on(trained, tmp_path, capsys):
    changed = json.loads(preset("smoke").to_json())
    changed["pretraining"]["steps"] = 24
    (tmp_path / "longer.json").write_text(json.dumps(changed), encoding="utf-8")
    command = ["pretrain", "--settings", str(tmp_path / "longer.json")]
    assert cli.main([*command, "--time-limit", "0.0001"]) == 3
    assert "pretraining stopped on time" in capsys.readouterr().err
    assert cli.main(command) == 0
    rows = read_table(trained / "output" / "runs" / "longer-sample" / "pretraining" / "metrics.csv")
    assert rows["step"].tolist()[-1] == "24"


def notebook_result(name: str, error: str | None = None) -> NotebookResult:
    return NotebookResult(name, 65.0, 3, 3, Path(f"{name}.ipynb"), None, error)


def test_run_ends_with_a_table_of_scores_places_and_times(trained, capsys, monkeypatch):
    given = {}

    def pretend(*arguments, **options) -> list[NotebookResult]:
        given.update(arguments[2] | options)
        return [notebook_result("01_eda")]

    monkeypatch.setattr(notebook_runner, "run_notebooks", pretend)
    assert cli.main(["run", "--preset", "smoke"]) == 0
    shown = capsys.readouterr().out
    for line in ("cross-validated accuracy", "n = 20", "a font never trained on", "figures", "time of 01_eda", "1:05"):
        assert line in shown
    assert (given["PRESET"], given["DATA"], given["SEED"]) == ("smoke", "", None)
    assert cli.main(["run", "--run", "smoke-sample", "--data", str(trained / "input")]) == 0
    assert given["PRESET"] == str(trained / "output" / "runs" / "smoke-sample" / "settings.json")


def test_run_that_stops_on_time_is_no_failure_and_another_error_is(trained, capsys, monkeypatch):
    def stop(*arguments, **options) -> None:
        raise NotebookFailed([notebook_result("04_train", error)])

    monkeypatch.setattr(notebook_runner, "run_notebooks", stop)
    error = "cell 5 (result = ...): StoppedOnTime: pretraining stopped on time"
    assert cli.main(["run", "--preset", "smoke"]) == 3
    error = "cell 5 (result = ...): ValueError: no"
    assert "04_train: cell 5" in error_of(capsys, "run", "--preset", "smoke")


def test_interrupt_is_exit_code_130(trained, capsys, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "pretrain_run", interrupted)
    assert cli.main(["pretrain", "--preset", "smoke"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


# --- weights that ship ----------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(trained: Path, tmp_path: Path, monkeypatch, capsys) -> Path:
    """The smoke run's pretraining as if it came with the package, and the file of settings that begin from it."""
    run, folder = trained / "output" / "runs" / "smoke-sample", tmp_path / "weights"
    assert cli.main(["export-weights", str(run / "pretraining/best.safetensors"), "--out", str(folder / WEIGHTS)]) == 0
    shutil.copy(run / "pretraining" / "metrics.csv", folder / CURVE)
    shutil.copy(folder / WEIGHTS, folder / SCOUT)
    monkeypatch.setattr(weights, "FOLDER", folder)
    cli.main(["settings", "--preset", "smoke"])
    values = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    (tmp_path / "mine.json").write_text(json.dumps(values | {"start": "shipped"}), encoding="utf-8")
    return tmp_path / "mine.json"


def test_exported_weights_are_half_as_large_and_read_the_same(shipped, trained):
    original = trained / "output" / "runs" / "smoke-sample" / "pretraining" / "best.safetensors"
    exported = weights.FOLDER / WEIGHTS
    assert exported.stat().st_size < 0.75 * original.stat().st_size
    first, second = load_model(original).state_dict(), load_model(exported).state_dict()
    assert all(torch.allclose(first[name], second[name].to(first[name].dtype), atol=1e-2) for name in first)
    assert read_header(exported)["facts"] == read_header(original)["facts"]


def test_a_pretraining_of_ones_own_goes_on_from_the_shipped_weights(shipped, trained, capsys):
    values = json.loads(shipped.read_text(encoding="utf-8")) | {"start": "continued", "seed": 5}
    shipped.write_text(json.dumps(values), encoding="utf-8")
    assert cli.main(["pretrain", "--settings", str(shipped), "--run", "continued"]) == 0
    folder = trained / "output" / "runs" / "continued" / "pretraining"
    assert json.loads((folder / "init_from.json").read_text())["path"] == str(weights.FOLDER / WEIGHTS)
    seen = read_header(weights.FOLDER / WEIGHTS)["facts"]["crops"]
    assert pd.read_csv(folder / "metrics.csv")["crops"].tolist()[0] == seen > 0
    # What has begun goes on, and what is finished stays, whatever weights ship by then.
    weights_of_fold = trained / "output" / "runs" / "smoke-sample" / "fold0" / "best.safetensors"
    save_again = ["export-weights", str(weights_of_fold), "--out", str(weights.FOLDER / WEIGHTS)]
    (weights.FOLDER / WEIGHTS).unlink()
    assert cli.main(save_again) == 0
    assert cli.main(["pretrain", "--settings", str(shipped), "--run", "continued"]) == 0
    values["model"]["hidden"] = 48
    shipped.write_text(json.dumps(values), encoding="utf-8")
    assert cli.main(["pretrain", "--settings", str(shipped), "--run", "other"]) == 1
    assert "the settings want" in capsys.readouterr().err
    assert not (trained / "output" / "runs" / "other").exists()


def test_folds_begin_from_the_shipped_weights_without_pretraining(shipped, trained, capsys):
    options = ["--settings", str(shipped), "--run", "from-shipped"]
    assert cli.main(["pretrain", *options]) == 0
    assert str(weights.FOLDER / WEIGHTS) in capsys.readouterr().out
    assert cli.main(["train", *options, "--fold", "0"]) == 0
    folder = trained / "output" / "runs" / "from-shipped"
    assert not (folder / "pretraining").exists()
    start = json.loads((folder / "fold0" / "init_from.json").read_text(encoding="utf-8"))
    assert start["path"] == str(weights.FOLDER / WEIGHTS)
    curve = learning_history(load_run(folder), ["pretraining"])
    assert curve["stage"].unique().tolist() == ["pretraining"]
    assert {"crops", "valid_accuracy"} <= set(curve.columns)


def test_pretraining_goes_on_from_weights_and_counts_their_crops(shipped, trained, capsys):
    start = weights.FOLDER / WEIGHTS
    options = ["--preset", "smoke", "--run", "second", "--seed", "1", "--init-from", str(start)]
    assert cli.main(["pretrain", *options]) == 0
    folder = trained / "output" / "runs" / "second" / "pretraining"
    before, crops = read_header(start)["facts"]["crops"], read_table(folder / "metrics.csv")["crops"].astype(int)
    assert before > 0
    assert crops.tolist() == [before, 2 * before]  # as many steps again
    other = trained / "output" / "runs" / "smoke-sample" / "fold0" / "best.safetensors"
    assert "began from" in error_of(capsys, "pretrain", *options[:-1], other)
    assert "--from-scratch" in error_of(capsys, "pretrain", "--settings", shipped, "--init-from", start)


def test_a_network_that_is_not_the_shipped_one_is_refused(shipped, trained, tmp_path, capsys):
    values = json.loads(shipped.read_text(encoding="utf-8"))
    values["model"]["hidden"] = 48
    shipped.write_text(json.dumps(values), encoding="utf-8")
    message = error_of(capsys, "train", "--settings", shipped, "--run", "wider", "--fold", "0")
    assert "the settings want" in message or "use its settings" in message


def test_predict_reads_with_the_shipped_weights_unless_a_run_is_named(shipped, trained, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(crop_png(1))
    arguments = ["predict", str(tmp_path / "a.png"), "--csv", str(tmp_path / "out.csv")]
    assert cli.main(arguments) == 0
    assert "by the weights that ship" in capsys.readouterr().out
    assert cli.main([*arguments, "--run", "smoke-sample"]) == 0
    assert "by run smoke-sample" in capsys.readouterr().out
    fold = trained / "output" / "runs" / "smoke-sample" / "fold0" / "best.safetensors"
    assert cli.main([*arguments, "--run", str(fold)]) == 0
    assert "by the weights best" in capsys.readouterr().out
    assert "gone.safetensors" in error_of(capsys, *arguments, "--run", "gone.safetensors")


def test_settings_take_the_network_of_any_weights(trained, capsys):
    fold = trained / "output" / "runs" / "smoke-sample" / "fold0" / "best.safetensors"
    assert cli.main(["settings", "--network", str(fold)]) == 0
    printed = Settings.from_dict(json.loads(capsys.readouterr().out))
    assert printed == replace(preset("scratch"), model=load_model(fold).settings)
    assert cli.main(["settings", "--preset", "quick", "--network", str(fold)]) == 0
    printed = Settings.from_dict(json.loads(capsys.readouterr().out))
    assert printed == replace(preset("quick"), model=load_model(fold).settings, start="scratch")
    assert "gone.safetensors" in error_of(capsys, "settings", "--network", "gone.safetensors")


# --- predict and score ----------------------------------------------------------------------------------------------


def test_predict_keeps_paths_as_given_and_fills_what_it_cannot_read(trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "사진 모음"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.png", "deeper/c.png")):
        (folder / name).write_bytes(crop_png(number))
    (folder / "broken.png").write_bytes(crop_png(9)[:100])
    write_csv(folder / "list.csv", ("id", "img_path"), [("1", "./b.png"), ("2", "deeper/c.png"), ("3", "gone.png")])
    monkeypatch.chdir(tmp_path)
    inputs = ["./사진 모음/b.png", "사진 모음", "사진 모음/list.csv"]
    assert cli.main(["predict", *inputs, "--csv", "out.csv", "--n-best", "lists.jsonl"]) == 0
    table = read_table(tmp_path / "out.csv")
    expected = ["./사진 모음/b.png", *(f"사진 모음/{n}" for n in ("a.png", "b.png", "broken.png", "deeper/c.png"))]
    assert table["img_path"].tolist() == [*expected, "./b.png", "deeper/c.png", "gone.png"]
    assert list(table.columns) == ["img_path", "text", "confidence"]
    same = table.loc[table["img_path"].str.endswith("b.png")]
    assert same["text"].nunique() == 1
    blank = table.loc[table["img_path"].isin(["사진 모음/broken.png", "gone.png"])]
    assert blank["text"].tolist() == ["", ""]
    assert blank["confidence"].astype(float).tolist() == [0.0, 0.0]
    shown = capsys.readouterr()
    assert "not read: gone.png: no such file" in shown.err
    assert "2 of them not readable" in shown.out
    assert len((tmp_path / "lists.jsonl").read_text(encoding="utf-8").splitlines()) == len(table)


def test_predict_of_many_images_goes_on_where_it_was_stopped(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference.predict, "CHUNK", 4)
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        target = tmp_path / "many" / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(crop_png(number)[: 100 if number in (1, 6) else None])
    command = ["predict", "many", "--run", "smoke-sample", "--csv"]
    assert cli.main([*command, "whole.csv"]) == 0
    expected, read, sizes = capsys.readouterr(), inference.predict._read_chunk, []

    def stopping(readers, crops, *rest):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(crops))
        return read(readers, crops, *rest)

    monkeypatch.setattr(inference.predict, "_read_chunk", stopping)
    assert cli.main([*command, "stopped.csv"]) == 130
    assert not (tmp_path / "stopped.csv").exists()
    sizes.clear()
    assert cli.main([*command, "stopped.csv"]) == 0
    assert sizes == [2]
    assert (tmp_path / "stopped.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not read")]
    assert told == [line for line in expected.err.splitlines() if line.startswith("not read")]
    assert len(told) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"many", "whole.csv", "stopped.csv"}


def test_predict_begins_anew_with_an_image_that_changed(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(inference.predict, "CHUNK", 2)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(crop_png(number))
    source, readers = inference.predict.find_crops([str(tmp_path)]), find_readers(find_workspace(), "smoke-sample")
    parts = file_parts(tmp_path / "out.csv", readers, source, 1)
    assert file_parts(tmp_path / "out.csv", readers, source, 1).folder == parts.folder
    assert file_parts(tmp_path / "out.csv", readers, source, 5).folder != parts.folder
    shipped, unsure = (find_readers(find_workspace(), "", sure) for sure in (0.9, 0.5))
    folders = {file_parts(tmp_path / "out.csv", them, source, 1).folder for them in (readers, shipped, unsure)}
    assert len(folders) == 3
    (tmp_path / "1.png").write_bytes(crop_png(9))
    assert file_parts(tmp_path / "out.csv", readers, source, 1).folder != parts.folder


def test_predict_refuses_what_holds_no_image(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    write_csv(tmp_path / "list.csv", ("file",), [("a.png",)])
    out = ("--csv", tmp_path / "out.csv")
    assert "no images there" in error_of(capsys, "predict", tmp_path / "empty", *out)
    assert "no such file or folder" in error_of(capsys, "predict", tmp_path / "ghost", *out)
    assert "no column img_path (found: file)" in error_of(capsys, "predict", tmp_path / "list.csv", *out)
    assert "none of the 1 images can be read" in error_of(capsys, "predict", tmp_path / "bad.png", *out)


def test_score_prints_every_metric_for_each_kind_of_font(trained, tmp_path, capsys):
    answers = trained / "input" / "sample" / "answers" / "test_answers.csv"
    perfect = read_table(answers)[["img_path", "text"]]
    perfect.to_csv(tmp_path / "perfect.csv", index=False)
    assert cli.main(["score", str(tmp_path / "perfect.csv"), str(answers)]) == 0
    shown = capsys.readouterr().out
    for name in ("exact match (the competition's score)", "1-NED", "jaso 1-NED", "a font never trained on"):
        assert name in shown
    assert "100.00 %" in shown
    perfect.assign(img_path="x.png").to_csv(tmp_path / "other.csv", index=False)
    message = error_of(capsys, "score", tmp_path / "other.csv", answers)
    assert "(predictions x.png, answers test/" in message
    assert "read the answers' CSV instead of a folder" in message


def test_score_takes_what_predict_wrote_of_the_folder(trained, tmp_path, capsys):
    answers = trained / "input" / "sample" / "answers" / "test_answers.csv"
    found = read_table(answers)[["img_path", "text"]]
    found["img_path"] = "../input/sample/" + found["img_path"].str.removeprefix("./")
    found.to_csv(tmp_path / "folder.csv", index=False)
    assert cli.main(["score", str(tmp_path / "folder.csv"), str(answers)]) == 0
    assert "100.00 %" in capsys.readouterr().out


def test_lists_of_candidates_may_hold_any_line_separator(tmp_path):
    row = {"img_path": "a.png", "candidates": [["가\u2028나", -0.5]]}
    (tmp_path / "lists.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_candidates(tmp_path / "lists.jsonl") == {"a.png": [("가\u2028나", -0.5)]}


def test_suspects_become_corrections_and_decisions_are_not_overwritten(trained, tmp_path, capsys):
    out = tmp_path / "suspects.csv"
    command = ["suspects", "--preset", "smoke", "--out", out, "--most", "6", "--confidence", "0"]
    assert cli.main([str(part) for part in command]) == 0
    found = read_table(out)
    assert list(found.columns[:4]) == ["img_path", "text", "suggestion", "action"]
    lists = load_candidates(trained / "output" / "runs" / "smoke-sample" / OOF_CANDIDATES)
    assert set(lists) == set(read_table(trained / "output" / "runs" / "smoke-sample" / "oof.csv")["img_path"])
    assert (trained / "output" / "figures" / "suspects.png").stat().st_size > 1000
    assert cli.main([str(part) for part in command]) == 0
    capsys.readouterr()
    sure = ["--out", str(tmp_path / "none.csv"), "--confidence", "1.1"]
    assert cli.main(["suspects", "--preset", "smoke", *sure]) == 0
    assert "no label is contradicted" in capsys.readouterr().out
    assert not (tmp_path / "none.csv").exists()
    found.loc[0, "action"] = "drop"
    write_table(found, out)
    assert "holds 1 decisions" in error_of(capsys, *command)
    competition = read_competition(trained / "input" / "sample")
    read_corrections(out).require(dict(zip(competition.train["img_path"], competition.train["text"], strict=True)))


def test_suspects_of_other_labels_are_refused(trained, tmp_path, capsys, monkeypatch):
    shutil.copytree(trained / "output", tmp_path / "output")
    monkeypatch.setenv("HANGUL_OCR_OUTPUT", str(tmp_path / "output"))
    path = tmp_path / "output" / "runs" / "smoke-sample" / "oof.csv"
    table = read_table(path)
    table.loc[3, "text"] = "딴말"
    write_table(table, path)
    assert f"(1, first {table.loc[3, 'img_path']})" in error_of(capsys, "suspects", "--preset", "smoke")
