"""The report as a file: whole, closed against the network and against labels that are code, and of bounded size."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pandas as pd
import pytest
from conftest import crop_png
from read_runs import read_run, workspace_in

from hangul_ocr import error_report, results, suspects
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.evaluation import errors
from hangul_ocr.evaluation.labels import LEAST_CONFIDENCE
from hangul_ocr.evaluation.report import Report, by_interest, crop_uri, render
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.submission import file_sha256, log_submission
from hangul_ocr.steps import Prepared
from hangul_ocr.training.kfold import ENVIRONMENT, Run

EVIL = "</script><img src=x onerror=alert(1)>{{DATA}} & ]]> <!--"
IMAGE = np.full((32, 96, 3), 90, np.uint8)


def report_of(texts: list[str], predictions: list[str], **columns: list) -> Report:
    oof = pd.DataFrame({"img_path": [f"{i}.png" for i in range(len(texts))], "text": texts, "prediction": predictions})
    frame = errors.error_frame(oof.assign(**columns))
    return Report("Errors", "of a test", frame, {path: crop_uri(IMAGE) for path in frame["img_path"]})


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_labels_reach_the_page_as_data_and_never_as_markup():
    page = render(report_of([EVIL, "가"], ["가", EVIL], source=[EVIL, "b"]))
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    assert data_of(page)["rows"][0]["text"] == EVIL
    assert "&lt;img src=x onerror" in page  # the slice's name in the table


def test_the_page_forbids_every_request_and_runs_its_own_script_alone():
    page = render(report_of(["가"], ["나"]))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page).group(1)
    assert policy.startswith("default-src 'none'; img-src data:; font-src data:;")
    script = re.search(r"<script>(.*?)</script>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!data:)|@import|fetch\(|XMLHttpRequest|innerHTML", page)
    assert "{{" not in page.replace("{{DATA}}", "")


def test_rows_views_and_orders_agree_with_the_table():
    page = render(report_of(["가나", "다", "라"], ["가너", "다", "라"], confidence=[0.9, 0.3, 0.8]))
    data = data_of(page)
    views = {view["name"]: view["rows"] for view in data["views"]}
    assert views["worst"] == [0]
    assert views["most uncertain right"] == [1, 2]
    assert data["rows"][0]["ops"] == [["=", "가", "가"], ["~", "나", "너"]]
    assert data["pairs"] == [["나", "너", 1]]


def test_rows_without_a_confidence_or_an_error_are_no_trouble():
    for texts, predictions in (([], []), (["가"], ["가"]), (["가"], [""])):
        assert len(data_of(render(report_of(texts, predictions)))["rows"]) == len(texts)


def test_large_crops_are_shrunk_and_keep_their_proportions():
    def opened(uri: str) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)

    assert opened(crop_uri(IMAGE)).shape == IMAGE.shape
    assert opened(crop_uri(np.zeros((1000, 3000, 3), np.uint8))).shape == (160, 480, 3)
    assert opened(crop_uri(np.zeros((4000, 200), np.uint8))).shape == (720, 36, 3)
    red = opened(crop_uri(np.full((32, 32, 3), (255, 0, 0), np.uint8)))
    assert red[..., 2].mean() > 200
    assert red[..., 0].mean() < 60


def test_the_wrong_and_sure_come_first_when_room_is_short():
    oof = pd.DataFrame({"img_path": list("abcd"), "text": ["가"] * 4, "prediction": ["가", "나", "나", "가"]})
    assert by_interest(errors.error_frame(oof.assign(confidence=[0.9, 0.2, 0.8, 0.1]))) == ["c", "b", "d", "a"]


# --- over a run --------------------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path, mini_competition: Path) -> tuple[Run, Prepared]:
    return read_run(tmp_path, mini_competition)


def changed(run: Run, change) -> None:
    write_table(change(read_table(run.folder / results.OOF)), run.folder / results.OOF)


def test_a_report_is_written_whole_and_says_what_it_shows(read, tmp_path):
    run, prepared = read
    written = error_report.write_report(run, prepared, tmp_path / "new" / "report.html")
    page = written.path.read_text(encoding="utf-8")
    n = len(prepared.train)
    assert len(data_of(page)["rows"]) == n
    assert written.coverage == f"All {n} crops are here, {-(-n // 3)} of them read wrongly."
    assert written.coverage in page
    assert [path.name for path in written.path.parent.iterdir()] == ["report.html"]


def test_a_small_room_leaves_out_the_least_interesting_and_says_so(read, tmp_path):
    run, prepared = read
    whole = error_report.write_report(run, prepared, tmp_path / "whole.html")
    page = whole.path.read_text(encoding="utf-8")
    charts = sum(map(len, re.findall(r"data:image/png;base64,[^\"]+", page)))
    crops = sum(len(row["image"]) + error_report._ROW_BYTES for row in data_of(page)["rows"])
    room = (charts + error_report._PAGE_BYTES + crops / 2) / 1e6
    written = error_report.write_report(run, prepared, tmp_path / "report.html", max_megabytes=room)
    data = data_of(written.path.read_text(encoding="utf-8"))
    assert 0 < len(data["rows"]) < len(prepared.train)
    assert written.megabytes <= room
    assert f"{len(data['rows'])} of {len(prepared.train)} crops are here" in written.coverage
    assert "--max-megabytes" in written.coverage


def test_rows_that_weigh_more_than_was_thought_leave_out_more(read, tmp_path, monkeypatch):
    run, prepared = read
    whole = error_report.write_report(run, prepared, tmp_path / "whole.html").megabytes
    monkeypatch.setattr(error_report, "_PAGE_BYTES", -10_000_000)
    written = error_report.write_report(run, prepared, tmp_path / "report.html", max_megabytes=0.99 * whole)
    shown = len(data_of(written.path.read_text(encoding="utf-8"))["rows"])
    assert written.megabytes <= 0.99 * whole
    assert 0 < shown < len(prepared.train)
    assert f"{shown} of {len(prepared.train)} crops are here" in written.coverage


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[2:], "2 of 24 rows are missing .first ./train/train_00001.png.; put the original"),
        (lambda t: pd.concat([t, t.head(1)]), "train_00001.png stands there more than once"),
        (lambda t: t.drop(columns="confidence"), "no column confidence"),
        (lambda t: t.assign(confidence=["sure", *t["confidence"][1:]]), "has the confidence 'sure', which is none"),
        (lambda t: t.assign(confidence=["1.5", *t["confidence"][1:]]), "has the confidence '1.5', which is none"),
        (lambda t: t.assign(fold=["0.5", *t["fold"][1:]]), "has the fold '0.5', which is none"),
        (lambda t: t.assign(text=["바뀐 글", *t["text"][1:]]), "is labelled “바뀐 글”, the crop itself “"),
        (lambda t: t.assign(img_path=["x.png", *t["img_path"][1:]]), "x.png is no crop of"),
    ],
)
def test_predictions_edited_by_hand_are_refused_and_the_old_report_stays(read, tmp_path, change, message):
    run, prepared = read
    (tmp_path / "report.html").write_text("old")
    changed(run, change)
    with pytest.raises(HangulOcrError, match=f"oof.csv: .*{message}"):
        error_report.write_report(run, prepared, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"


def test_each_label_that_is_surely_contradicted_has_a_suspicion_and_the_page_ranks_by_it(read):
    run, prepared = read
    frame = error_report.read_errors(run, prepared)
    sure = frame["confidence"] >= LEAST_CONFIDENCE
    assert (frame["suspicion"].notna() == (~frame["correct"] & sure & (frame["prediction"] != ""))).all()
    assert frame["suspicion"].notna().sum() > 1
    report = error_report.error_report(frame, prepared.train, "mine")
    data = data_of(render(report))
    suspects = next(view["rows"] for view in data["views"] if view["name"] == "suspected label errors")
    expected = frame.dropna(subset=["suspicion"]).sort_values("suspicion", ascending=False, kind="stable")
    assert [data["rows"][i]["path"] for i in suspects] == expected["img_path"].tolist()


def test_a_fold_that_was_not_read_at_all_is_no_missing_row(read):
    run, prepared = read
    changed(run, lambda t: t[t["fold"] == "0"])
    assert set(results.oof_errors(run, prepared.train, prepared.folds)["fold"]) == {0}


def test_a_folder_that_cannot_be_written_is_found_before_the_work(read, tmp_path, monkeypatch):
    run, prepared = read
    monkeypatch.setattr(error_report, "oof_errors", lambda *_: pytest.fail("worked for nothing"))
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(HangulOcrError, match=r"taken.report\.html: cannot be written .*taken is a file, no .*--out"):
        error_report.write_report(run, prepared, tmp_path / "taken" / "report.html")
    with pytest.raises(HangulOcrError, match="is a folder; name a file"):
        error_report.write_report(run, prepared, tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(read, tmp_path):
    run, prepared = read
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(HangulOcrError, match="Permission denied"):
        error_report.write_report(run, prepared, tmp_path / "closed" / "report.html")


def test_a_full_disk_leaves_the_old_report(read, tmp_path, monkeypatch):
    run, prepared = read
    (tmp_path / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(error_report, "atomic_write_text", full)
    with pytest.raises(HangulOcrError, match=r"No space left on device.; free space"):
        error_report.write_report(run, prepared, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"
    assert not list(tmp_path.glob(".report*"))


def test_pictures_that_were_damaged_are_counted_and_one_that_is_gone_is_an_error(read, tmp_path):
    run, prepared = read
    prepared.train.close()
    with lmdb.open(str(prepared.train.path), map_size=1 << 26) as store, store.begin(write=True) as transaction:
        transaction.put(b"image-000000001", crop_png(0)[:40])
    written = error_report.write_report(run, prepared, tmp_path / "report.html")
    assert written.coverage.endswith(" 1 pictures cannot be decoded.")
    prepared.train.close()
    with lmdb.open(str(prepared.train.path), map_size=1 << 26) as store, store.begin(write=True) as transaction:
        transaction.delete(b"image-000000001")
    with pytest.raises(HangulOcrError, match="image-000000001 is missing; the LMDB is incomplete, write it again"):
        error_report.write_report(run, prepared, tmp_path / "report.html")
    assert written.coverage in written.path.read_text(encoding="utf-8")


def test_runs_are_compared_by_name_or_file_with_their_crops(read, tmp_path):
    run, prepared = read
    other = read_table(run.folder / results.OOF).assign(prediction=prepared.train.texts())
    write_table(other[["img_path", "text", "prediction"]], tmp_path / "mended.csv")
    workspace = workspace_in(tmp_path)
    compared = results.compare_named(workspace, "mine", str(tmp_path / "mended.csv"), prepared.folds)
    assert compared.names == ("mine", "mended")
    assert (compared.test.only_first, compared.test.only_second) == (0, -(-len(other) // 3))
    figures = error_report.comparison_pictures(compared, prepared.train)
    assert list(figures) == ["changes", "better", "worse"]
    with pytest.raises(HangulOcrError, match=r"run 'their': no .*there are mine.; name another run"):
        results.compare_named(workspace, "mine", "their", prepared.folds)


def test_a_run_of_other_crops_or_labels_is_no_run_to_compare_with(read, tmp_path):
    run, _ = read
    facts = json.loads((run.folder / ENVIRONMENT).read_text(encoding="utf-8"))
    for name, data in {"alike": facts["data"], "relabelled": "0" * 64}.items():
        folder = run.folder.with_name(name)
        shutil.copytree(run.folder, folder)
        (folder / ENVIRONMENT).write_text(json.dumps(facts | {"data": data}), encoding="utf-8")
    (run.folder.with_name("broken")).mkdir()
    shutil.copy(run.folder / results.OOF, run.folder.with_name("broken"))
    assert results.other_runs(run) == ["alike"]


def test_a_fold_column_that_was_overwritten_is_refused(read):
    run, prepared = read
    path = run.folder / results.OOF
    write_table(read_table(path).assign(fold=0), path)
    with pytest.raises(HangulOcrError, match="is in fold 1, not 0"):
        results.oof_errors(run, prepared.train, prepared.folds)


def test_rows_deleted_from_a_whole_fold_are_noticed(read, tmp_path):
    run, prepared = read
    path = run.folder / results.OOF
    results.write_record(run.folder, {}, results.OOF)
    table = read_table(path)
    write_table(table[table["fold"] != "1"], path)
    for look in (
        lambda: results.oof_errors(run, prepared.train, prepared.folds),
        lambda: results.load_predictions(workspace_in(tmp_path), "mine"),
        lambda: suspects.find_suspects(run, prepared.train),
    ):
        with pytest.raises(HangulOcrError, match=r"oof.csv: edited since it was written; put the original"):
            look()


def test_a_runs_own_table_with_another_column_is_called_edited_to_compare_and_no_table_of_predictions(read, tmp_path):
    path = read[0].folder / results.OOF
    results.write_record(path.parent, {}, results.OOF)
    write_table(read_table(path).rename(columns={"prediction": "pred"}), path)
    with pytest.raises(HangulOcrError, match=r"oof.csv: edited since it was written; put the original"):
        results.load_predictions(workspace_in(tmp_path), "mine")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.iloc[2:], "its rows are not those of"),
        (lambda t: t.assign(confidence="high"), "has the confidence 'high'"),
        (lambda t: t.drop(columns="confidence"), "no column confidence"),
        (lambda t: t.assign(text="가"), "edited since it was written"),
    ],
)
def test_test_predictions_edited_by_hand_are_refused(read, edit, told):
    run, prepared = read
    test = prepared.competition.test["img_path"]
    path = run.folder / results.TEST_PREDICTIONS
    write_table(pd.DataFrame({"img_path": test, "text": "나", "confidence": 0.5}), path)
    results.write_record(run.folder, {}, results.TEST_PREDICTIONS)
    assert results.load_test_predictions(run, prepared.competition)["confidence"].tolist() == [0.5] * len(test)
    write_table(edit(read_table(path)), path)
    with pytest.raises(HangulOcrError, match=told):
        results.load_test_predictions(run, prepared.competition)


def test_what_was_handed_in_is_told_by_the_files_bytes(read, tmp_path):
    _, prepared = read
    file, log = tmp_path / "submission.csv", tmp_path / "log.csv"
    facts = {"commit": "", "cv_low": 0.8, "cv_high": 0.9, "file": file}
    for run, text, cv in (("A", "가", 0.85), ("B", "나", 0.86)):
        file.write_text(f"img_path,text\na.png,{text}\n", encoding="utf-8")
        log_submission(log, run=run, cv=cv, sha256=file_sha256(file), **facts)
    assert results.submission_rows(file, prepared.competition)[0] == ("handed in", "B, cross-validated 86.00 %")
    file.write_text("img_path,text\na.png,가\n", encoding="utf-8")
    assert results.submission_rows(file, prepared.competition)[0] == ("handed in", "A, cross-validated 85.00 %")
    write_table(read_table(log).assign(cv=""), log)
    assert results.submission_rows(file, prepared.competition)[0] == ("handed in", "A")
    file.write_text("img_path,text\na.png,다\n", encoding="utf-8")
    assert "does not know" in results.submission_rows(file, prepared.competition)[0][1]


def test_csv_files_are_called_by_what_tells_them_apart(tmp_path):
    assert results._short_name("v1.5") == "v1.5"
    assert results._short_name("runs/v1.5/oof.csv") == "v1.5"
    assert results._short_name("tables/mine.v2.csv") == "mine.v2"
