"""Corrections of labels: what a table may say, what it does to a store, and that it holds for every later step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from conftest import crop_png, write_csv
from data_sets import outdoor_json, photograph, write

from hangul_ocr import cli, steps
from hangul_ocr.data.building import build_lmdb
from hangul_ocr.data.corrections import Applied, read_corrections
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.lmdb_store import LmdbReader, matches
from hangul_ocr.data.lmdb_writer import with_corrections, write_lmdb
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import plan
from hangul_ocr.data.tables import read_table
from hangul_ocr.data.verify import faults
from hangul_ocr.data.workers import Workers
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.settings import preset
from hangul_ocr.workspace import Workspace

HEADER = ("img_path", "action", "text")
FIRST, SECOND, THIRD = (f"./train/train_{number:05d}.png" for number in (1, 2, 3))


def table(path: Path, *rows: tuple[str, ...], header: tuple[str, ...] = HEADER) -> Path:
    write_csv(path, header, rows)
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace("local", tmp_path, tmp_path / "input", tmp_path / "output", tmp_path / "submissions")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([("a.png", "delete", "")], "row 1: action 'delete' is unknown; write drop or relabel"),
        ([("a.png", "drop", ""), ("b.png", "", "가")], "row 2 has no action"),
        ([("a.png", "relabel", " ")], r"row 1: 'a.png' cannot be labelled '' \(empty label\)"),
        ([("a.png", "relabel", "xxx")], "placeholder label"),
        ([("a.png", "drop", ""), ("./a.png", "relabel", "가")], r"row 2: './a.png' is corrected before \(.*row 1\)"),
        ([("", "drop", "x")], "row 1: no img_path"),
        ([], "no row has an action"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, what):
    with pytest.raises(HangulOcrError, match=f"c.csv: .*{what}"):
        read_corrections(table(tmp_path / "c.csv", *rows))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_of_corrections_with_other_separators(tmp_path, separator):
    rows = [["img_path", "action", "text"], ["a.png", "drop", ""], ["b.png", "relabel", '"가,;나"'], ["", "", ""]]
    path = tmp_path / "c.csv"
    path.write_text("\r\n".join(separator.join(row) for row in rows), "utf-8-sig")
    found = read_corrections(path)
    assert (found.of("a.png").text, found.of("b.png").text) == (None, "가,;나")
    path.write_text(f"img_path{separator}action{separator}text\na{separator}drop\n", "utf-8")
    name = {";": "semicolon", "\t": "tab"}[separator]
    with pytest.raises(HangulOcrError, match=f"line 2 has 2 fields, the header 3; quote values that hold a {name}"):
        read_corrections(path)


def test_only_corrections_may_have_other_separators(tmp_path):
    """A submission with semicolons must not pass for one that the competition takes."""
    path = tmp_path / "c.csv"
    path.write_text("img_path;text\na.png;가\n", "utf-8")
    with pytest.raises(HangulOcrError, match="parted by a semicolon"):
        read_table(path)


def test_a_crop_is_corrected_by_one_of_several_tables(tmp_path):
    first = table(tmp_path / "a.csv", ("a.png", "drop", ""))
    second = table(tmp_path / "b.csv", ("a.png", "drop", ""), ("b.png", "relabel", "\u1100\u1161"))
    with pytest.raises(HangulOcrError, match=r"b\.csv: row 1: 'a.png' is corrected before .*a\.csv: row 1"):
        read_corrections(first, second)
    assert read_corrections(second).of("./b.png").text == "가"
    with pytest.raises(HangulOcrError, match="no column 'action'"):
        read_corrections(table(tmp_path / "c.csv", ("a", "b"), header=("img_path", "text")))


def test_filled_in_suspects_are_corrections_and_undecided_rows_are_passed_over(tmp_path):
    rows = [("a.png", "가", "나", "relabel"), ("b.png", "다", "라", ""), ("c.png", "마", "바", "DROP")]
    found = read_corrections(table(tmp_path / "s.csv", *rows, header=("img_path", "text", "suggestion", "action")))
    assert list(found) == ["a.png", "c.png"]
    assert (found.of("a.png").text, found.of("a.png").was) == ("나", "가")
    assert found.of("c.png").text is None
    found.save(tmp_path / "kept.csv")
    again = read_corrections(tmp_path / "kept.csv")
    assert again.sha256 == found.sha256
    with pytest.raises(HangulOcrError, match="no row has an action"):
        read_corrections(table(tmp_path / "n.csv", rows[1], header=("img_path", "text", "suggestion", "action")))


def items():
    for number, text in enumerate(("가", "나", "다", "라")):
        yield Sample(f"{number}.png", crop_png(number), text, "s", facts={"centres": [[0.5, 0.5]]})
    yield LeftOut("4.png", "placeholder label", "xxx")


def test_a_store_is_corrected_and_its_manifest_says_how(tmp_path):
    rows = [("0.png", "drop", "", ""), ("./1.png", "relabel", "너", "나"), ("2.png", "relabel", "더", "두")]
    rows += [("4.png", "relabel", "마", ""), ("9.png", "drop", "", "")]
    corrections = read_corrections(table(tmp_path / "c.csv", *rows, header=(*HEADER, "was")))
    manifest = write_lmdb(tmp_path / "s", items(), alphabet=None, settings={"a": 1}, corrections=corrections)
    reader = LmdbReader(tmp_path / "s")
    assert dict(zip(reader.keys(), reader.texts(), strict=True)) == {"1.png": "너", "2.png": "다", "3.png": "라"}
    assert reader[0].facts["label_was"] == "나"
    assert "centres" not in reader[0].facts
    assert "centres" in reader[1].facts
    assert manifest.left_out == {"dropped by corrections": 1, "placeholder label": 1}
    applied = Applied(**reader.manifest.corrections)
    assert applied == Applied(corrections.sha256, 1, 1, ["4.png", "9.png"], ["2.png"])
    told = applied.lines()
    assert told[0] == "corrections: 1 dropped, 1 labelled anew"
    assert "2 corrections are of no record here: 4.png, 9.png" in told[1]
    assert "1 corrections are of other labels" in told[2]
    assert list(faults(tmp_path / "s")) == []
    assert matches(tmp_path / "s", with_corrections({"a": 1}, corrections))
    assert not matches(tmp_path / "s", {"a": 1})


def test_a_label_that_nobody_could_read_is_learnt_after_all(tmp_path):
    boxes = [([10 + 60 * i, 20, 50, 30], "xxx") for i in range(3)]
    write(tmp_path / "set" / "p.json", outdoor_json("p", boxes))
    write(tmp_path / "set" / "p.jpg", photograph())
    write(tmp_path / "set" / "gt.txt", "1.png\t\n2.png\txxx\n")
    for name in ("1.png", "2.png"):
        write(tmp_path / "set" / name, crop_png(1))
    rows = [("p#1", "relabel", "간판", "xxx"), ("p#2", "relabel", "약국", "yyy"), ("set/1.png", "relabel", "치킨", "")]
    corrections = read_corrections(table(tmp_path / "c.csv", *rows, header=(*HEADER, "was")))
    found = {}
    for source in ("aihub-outdoor", "list"):
        planned = partial(plan, source, [tmp_path / "set"])
        build_lmdb(
            tmp_path / source, planned, ImportSettings(), settings={}, workers=Workers(1), corrections=corrections
        )
        with LmdbReader(tmp_path / source) as reader:
            found |= dict(zip(reader.keys(), reader.texts(), strict=True))
            assert reader.manifest.left_out["placeholder label"] == {"aihub-outdoor": 2, "list": 1}[source]
    assert found == {"p#1": "간판", "set/1.png": "치킨"}


def test_an_interrupted_import_remembers_what_it_corrected(tmp_path, monkeypatch, capsys):
    corrections = read_corrections(table(tmp_path / "c.csv", ("0.png", "drop", ""), ("3.png", "relabel", "러")))
    monkeypatch.setattr("hangul_ocr.data.lmdb_writer._BATCH_BYTES", 1)

    def broken():
        for number, item in enumerate(items()):
            if number == 2:
                raise HangulOcrError("the cable was pulled")
            yield item

    def build(path, plan):
        return build_lmdb(path, plan, ImportSettings(), settings={}, workers=Workers(1), corrections=corrections)

    whole = build(tmp_path / "whole", items)
    monkeypatch.setattr("hangul_ocr.data.workers._FINISHED", 1)
    with pytest.raises(HangulOcrError, match="cable"):
        build(tmp_path / "s", broken)
    resumed = build(tmp_path / "s", items)
    assert "begun anew" not in capsys.readouterr().err
    assert (resumed.corrections, resumed.content_hash) == (whole.corrections, whole.content_hash)
    assert (resumed.corrections["dropped"], resumed.corrections["relabelled"]) == (1, 1)


def test_corrections_of_a_competition_hold_for_every_later_step(workspace, mini_competition, tmp_path):
    competition, settings = read_competition(mini_competition), preset("smoke")
    before = steps.prepare(competition, workspace, settings)
    path = table(tmp_path / "c.csv", (FIRST, "drop", ""), (SECOND.removeprefix("./"), "relabel", "가지"))
    steps.keep_corrections(competition, workspace, path)
    path.unlink()
    for _ in range(2):
        prepared = steps.prepare(competition, workspace, settings)
        keys = set(prepared.train.keys())
        assert FIRST not in keys
        assert prepared.train[prepared.train.index_of(SECOND)].text == "가지"
        assert set(prepared.folds["key"]) == keys
    assert steps.corrections_lines(prepared) == ["corrections: 1 dropped, 1 labelled anew"]
    steps.forget_corrections(competition, workspace)
    after = steps.prepare(competition, workspace, settings)
    assert after.train.manifest.content_hash == before.train.manifest.content_hash
    assert steps.corrections_lines(after) == []


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("./train/nobody.png", "drop", "", ""), "no crop is called './train/nobody.png'"),
        ((THIRD, "relabel", "새", "다른"), "is labelled '나무', not '다른'"),
        ((THIRD, "relabel", "나무", ""), "is labelled '나무' as it is"),
    ],
)
def test_what_does_not_fit_the_competition_is_refused_and_the_former_ones_stay(
    workspace, mini_competition, tmp_path, row, what
):
    competition = read_competition(mini_competition)
    steps.keep_corrections(competition, workspace, table(tmp_path / "good.csv", (FIRST, "drop", "")))
    with pytest.raises(HangulOcrError, match=what):
        steps.keep_corrections(competition, workspace, table(tmp_path / "c.csv", row, header=(*HEADER, "was")))
    assert list(steps.kept_corrections(competition, workspace)) == [FIRST]


def test_a_left_out_crop_is_to_be_corrected_in_the_data_set(workspace, mini_competition, tmp_path):
    train = read_competition(mini_competition).train
    write_csv(mini_competition / "train.csv", ("img_path", "text"), [(FIRST, "xxx"), *train.to_numpy().tolist()[1:]])
    competition = read_competition(mini_competition)
    with pytest.raises(HangulOcrError, match=r"is left out already \(placeholder label\)"):
        steps.keep_corrections(competition, workspace, table(tmp_path / "c.csv", (FIRST, "relabel", "가")))


def test_both_commands_take_corrections(mini_competition, tmp_path, monkeypatch, capsys):
    for name in ("INPUT", "OUTPUT", "SUBMISSIONS"):
        monkeypatch.setenv(f"HANGUL_OCR_{name}", str(tmp_path / name.lower()))
    path = table(tmp_path / "c.csv", (FIRST, "drop", ""))
    data = ["--data", str(mini_competition), "--preset", "smoke"]
    assert cli.main(["lmdb", *data, "--corrections", str(path)]) == 0
    assert "corrections: 1 dropped, 0 labelled anew" in capsys.readouterr().out
    assert cli.main(["lmdb", *data, "--no-corrections"]) == 0
    assert "corrections" not in capsys.readouterr().out
    out = tmp_path / "out.lmdb"
    command = ["import", "dacon", str(mini_competition), "--out", str(out), "--workers", "1"]
    assert cli.main([*command, "--corrections", str(path)]) == 0
    assert "corrections: 1 dropped" in capsys.readouterr().out
    assert "dropped by corrections" in read_table(out / "left_out.csv")["reason"].tolist()
