"""A labelled store that nothing was trained on: read, scored, cut by K-STR-Bench's tags, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import crop_png
from data_sets import write
from read_runs import read_run, workspace_in

from hangul_ocr import cli, labelled
from hangul_ocr.data.tables import read_table
from hangul_ocr.evaluation.slices import slice_report
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference import predict
from hangul_ocr.labelled import find_readers, read_labelled

HEADER = "text_id,scene_id,label,is_only_korean,is_illegible,KSTR_is_artistic,KSTR_is_curve"
COUNT = 12


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A subset of K-STR-Bench as its files lie, imported by the command: every third crop is artistic."""
    folder = tmp_path / "GIST"
    rows = [f"g_{i},scene_{i // 2},가게{i},True,False,{i % 3 == 0},False" for i in range(COUNT)]
    for i in range(COUNT):
        write(folder / "text_images" / f"g_{i}.jpg", crop_png(i))
    write(folder / "text.v1.0.csv", "\n".join([HEADER, *rows]) + "\n")
    assert cli.main(["import", "kstrbench", str(folder), "--out", str(tmp_path / "kstr.lmdb"), "--workers", "1"]) == 0
    return tmp_path / "kstr.lmdb"


def test_a_benchmark_is_read_scored_and_cut_by_its_tags(store, tmp_path):
    workspace = workspace_in(tmp_path)
    found = read_labelled(workspace, store, find_readers(workspace))
    assert found.predictions == tmp_path / "output" / "labelled" / "kstr-shipped" / "predictions.csv"
    assert list(read_table(found.predictions).columns) == ["img_path", "text", "confidence"]
    assert len(found.frame) == COUNT
    tags = slice_report(found.frame).query("dimension == 'tag'")
    assert tags[["slice", "n"]].to_numpy().tolist() == [["artistic", COUNT // 3]]
    assert found.frame["group"].nunique() == COUNT // 2
    assert "artistic" in found.report.path.read_text(encoding="utf-8")
    assert not (found.predictions.parent / "parts").exists()


def test_how_sure_a_first_look_must_be_reaches_the_readings(store, tmp_path, monkeypatch):
    workspace, counts, read = workspace_in(tmp_path), [], labelled.read_crops

    def counted(*arguments, **more):
        readings = read(*arguments, **more)
        counts.append({len(reading.own) for reading in readings})
        return readings

    monkeypatch.setattr(labelled, "read_crops", counted)
    for sure in (0.0, 1.0):
        read_labelled(workspace, store, find_readers(workspace, "", sure), tmp_path / f"{sure}")
    assert counts == [{1}, {2}]


def test_reading_goes_on_where_it_was_stopped(store, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 5)
    workspace, read = workspace_in(tmp_path), predict._read_chunk
    expected = read_labelled(workspace, store, find_readers(workspace), tmp_path / "whole").predictions.read_bytes()
    sizes: list[int] = []

    def stopping(readers, crops, *rest):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(crops))
        return read(readers, crops, *rest)

    monkeypatch.setattr(predict, "_read_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        read_labelled(workspace, store, find_readers(workspace), tmp_path / "stopped")
    assert not (tmp_path / "stopped" / labelled.PREDICTIONS).exists()
    sizes.clear()
    again = read_labelled(workspace, store, find_readers(workspace), tmp_path / "stopped")
    assert sizes == [2]
    assert again.predictions.read_bytes() == expected


def test_what_a_run_was_trained_on_is_refused(store, mini_competition, tmp_path):
    run, prepared = read_run(tmp_path, mini_competition)
    workspace = workspace_in(tmp_path)
    with pytest.raises(HangulOcrError, match="run mine was trained on these crops; its honest errors are in"):
        read_labelled(workspace, prepared.train.path, find_readers(workspace, "mine"))
    content = labelled.LmdbReader(store).manifest.content_hash
    (run.fold_folder(0) / "extra_lmdbs.json").write_text(json.dumps([{"content": content}]), encoding="utf-8")
    with pytest.raises(HangulOcrError, match="was trained on these crops"):
        read_labelled(workspace, store, find_readers(workspace, "mine"))
    with pytest.raises(HangulOcrError, match="12 of 12 crops have no label"):
        labelled._require_labels(_Unlabelled(store))


class _Unlabelled(labelled.LmdbReader):
    def texts(self) -> list[str]:
        return [""] * len(self)


def test_the_command_prints_scores_and_slices(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_OUTPUT", str(tmp_path / "output"))
    assert cli.main(["evaluate", str(store), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "exact match without spaces" in shown
    assert "artistic" in shown
    assert f"{tmp_path / 'out' / 'report.html'}: " in shown
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == COUNT


def test_crops_of_no_photograph_have_an_interval_all_the_same(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_OUTPUT", str(tmp_path / "output"))
    for i in range(COUNT):
        write(tmp_path / "set" / f"{i}.png", crop_png(i))
    write(tmp_path / "set" / "gt.txt", "".join(f"{i}.png\t글자{i}\n" for i in range(COUNT)))
    assert cli.main(["import", "list", str(tmp_path / "set"), "--out", str(tmp_path / "l.lmdb"), "--workers", "1"]) == 0
    workspace = workspace_in(tmp_path)
    found = read_labelled(workspace, tmp_path / "l.lmdb", find_readers(workspace))
    assert found.frame["group"].nunique() == COUNT


@pytest.mark.parametrize("option", ["--csv", "--n-best"])
def test_predict_does_not_write_over_what_it_reads(tmp_path, capsys, option):
    write(tmp_path / "a.png", crop_png(0))
    write(tmp_path / "list.csv", "img_path,text\na.png,가\n")
    before = (tmp_path / "list.csv").read_bytes()
    outputs = {"--csv": str(tmp_path / "out.csv")} | {option: str(tmp_path / "list.csv")}
    arguments = [part for pair in outputs.items() for part in pair]
    assert cli.main(["predict", str(tmp_path / "list.csv"), *arguments]) == 1
    assert "would be overwritten; name another file" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_bytes() == before
