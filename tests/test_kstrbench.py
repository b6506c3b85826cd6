"""K-STR-Bench: subsets and lists with their facts, and predictions for its evaluator."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import crop_png
from data_sets import nfd, reasons, taken, write

from hangul_ocr.data.kstrbench import write_predictions
from hangul_ocr.data.sources import import_samples
from hangul_ocr.hangul import HangulOcrError

HEADER = "text_id,scene_id,label,is_only_korean,is_illegible,KSTR_is_artistic,KSTR_is_curve"


def subset(folder: Path, *rows: str, images: tuple[str, ...] | None = None, version: str = "v1.0") -> Path:
    ids = [row.split(",")[0] for row in rows] if images is None else images
    for seed, text_id in enumerate(ids):
        write(folder / "text_images" / str(seed % 2) / f"{text_id}.jpg", crop_png(seed))
    write(folder / "scene_images" / "gist_1.jpg", crop_png(99))
    write(folder / "scene.csv", "scene_id,width\ngist_1,640\n")
    write(folder / f"text.{version}.csv", "\ufeff" + "\n".join([HEADER, *rows]) + "\n")
    return folder


def test_a_subset_with_the_facts_of_its_table(tmp_path: Path) -> None:
    rows = [
        f"gist_1_1,gist_1,{nfd('치킨')},True,False,True,False",
        'gist_1_2,gist_1,"가, 나 다",1,0,TRUE,true',
        "gist_2_1,gist_2,노□방,True,False,False,False",
    ]
    folder = subset(tmp_path / "GIST_Signboard", *rows)
    write(folder / "labels" / "test.txt", "GIST_Signboard/text_images/0/gist_1_1.jpg\t치킨\n")
    samples, left_out = taken("kstrbench", folder)
    assert left_out == []
    first, second, third = samples.values()
    assert (first.key, first.text, first.group) == ("GIST_Signboard/gist_1_1", "치킨", "gist_1")
    flags = {"is_only_korean": True, "is_illegible": False}
    assert first.facts == {"text_id": "gist_1_1", "tags": ["artistic"], "split": "test", **flags}
    assert (second.text, second.facts["tags"]) == ("가, 나 다", ["artistic", "curve"])
    assert (third.facts["wildcard"], third.facts["tags"], "split" in third.facts) == (True, [], False)


def test_rows_and_images_that_do_not_match(tmp_path: Path) -> None:
    tail = "True,False,False,False"
    rows = [f"g_1,s,가,{tail}", f"g_2,s,나,{tail}", "g_3,s", f"g_4,s,,{tail}", "g_5,s,다,True,True,False,False"]
    folder = subset(tmp_path / "GIST", *rows, images=("g_1", "g_4", "g_5", "stray"))
    samples, left_out = taken("kstrbench", folder)
    assert list(samples) == ["GIST/g_1"]
    assert reasons(left_out) == {
        "missing image": 1,
        "damaged row": 1,
        "empty label": 1,
        "illegible": 1,
        "image without row": 1,
    }


def test_rows_with_an_open_quotation_mark_do_not_swallow_the_next(tmp_path: Path) -> None:
    tail = "True,False,False,False"
    rows = [f'g_1,s,"5,{tail}', f'g_2,s,"6,{tail}', f"g_3,s,가,{tail}", f'g_4,s,나",{tail}', f'g_5,s,"다,{tail}']
    folder = subset(tmp_path / "GIST", *rows, images=("g_3", "g_4"))
    samples, left_out = taken("kstrbench", folder)
    assert {key: sample.text for key, sample in samples.items()} == {"GIST/g_3": "가", "GIST/g_4": '나"'}
    assert {(record.key, record.reason) for record in left_out} == {
        (f"GIST/text.v1.0.csv:{line}", "damaged row") for line in (2, 3, 6)
    }


def test_a_row_of_several_lines_is_counted_by_line(tmp_path: Path) -> None:
    tail = "True,False,False,False"
    folder = subset(tmp_path / "GIST", f'g_1,s,"가\n나",{tail}', f"g_2,s,다,{tail}", images=("g_2",))
    samples, left_out = taken("kstrbench", folder)
    assert (list(samples), reasons(left_out)) == (["GIST/g_2"], {"damaged row": 2})


def test_the_newest_table_counts(tmp_path: Path) -> None:
    for version, label in (("v2.9", "가"), ("v2.10", "나"), ("v1.0", "다")):
        subset(tmp_path / "K", f"k_1,s,{label},True,False,False,False", version=version)
    assert [sample.text for sample in taken("kstrbench", tmp_path / "K")[0].values()] == ["나"]


def test_a_label_list_begins_above_the_subset(tmp_path: Path) -> None:
    rows = [f"g_{n},s_{n},글{n},True,False,{n == 1},False" for n in range(4)]
    folder = subset(tmp_path / "KSTR" / "GIST", *rows)
    lines = [f"GIST/text_images/{n % 2}/g_{n}.jpg\t글 {n}" for n in (1, 2)]
    write(
        folder / "labels" / "artistic.txt",
        "\n".join([*lines, "GIST/text_images/0/gone.jpg\t가", "GIST\\..\\..\\x\t나"]),
    )
    samples, left_out = taken("kstrbench", folder / "labels" / "artistic.txt")
    first, second = samples.values()
    assert (first.text, first.group, first.facts["text_id"]) == ("글 1", "s_1", "g_1")
    assert (first.facts["list"], first.facts["tags"], second.facts["tags"]) == ("artistic", ["artistic"], [])
    assert reasons(left_out) == {"missing image": 1, "unsafe path": 1}


def test_a_list_without_its_table(tmp_path: Path) -> None:
    write(tmp_path / "GIST" / "text_images" / "g_1.jpg", crop_png(1))
    path = write(tmp_path / "GIST" / "labels" / "test.txt", "GIST/text_images/g_1.jpg\t가\n")
    (sample,) = taken("kstrbench", path)[0].values()
    assert sample.facts == {"text_id": "g_1", "list": "test"}


def test_the_folder_of_the_lists_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "GIST"
    for number in range(2):
        write(folder / "text_images" / f"g_{number}.jpg", crop_png(number))
    for name, numbers in (("train", [0]), ("test", [1]), ("artistic", [1])):
        lines = [f"GIST/text_images/g_{number}.jpg\t글 {number}" for number in numbers]
        write(folder / "labels" / f"{name}.txt", "\n".join(lines))
    monkeypatch.chdir(folder / "labels")
    for path in (folder / "labels", Path(".")):
        items = list(import_samples("kstrbench", [path]))
        assert [(item.text, item.facts["list"]) for item in items] == [
            ("글 1", "test"),
            ("글 0", "train"),
            ("글 1", "artistic"),
        ]
    with pytest.raises(HangulOcrError, match=r"a folder called labels, or a list in it named itself; found .*\.txt"):
        list(import_samples("kstrbench", [folder]))


def test_another_layout_and_a_table_of_other_columns(tmp_path: Path) -> None:
    write(tmp_path / "x" / "scene.csv", "a,b\n")
    with pytest.raises(HangulOcrError, match=r"looked for K-STR-Bench.*found 1 \.csv"):
        list(import_samples("kstrbench", [tmp_path / "x"]))
    write(subset(tmp_path / "G", "g_1,s,가,True,False,False,False") / "text.v1.0.csv", "id,text\ng_1,가\n")
    with pytest.raises(HangulOcrError, match=r"text\.v1\.0\.csv: no columns text_id and label \(id, text\)"):
        list(import_samples("kstrbench", [tmp_path / "G"]))


def test_predictions_in_each_form_of_the_evaluator(tmp_path: Path) -> None:
    images = ["GIST/text_images/0/gist_12_3.jpg", "GIST\\text_images\\gist_12_4.jpg"]
    table = pd.DataFrame(
        {"img_path": images, "text": [nfd("치킨"), "퀸\t노래방\n"], "confidence": [1, 2]}, dtype=object
    )
    csv = write_predictions(table, tmp_path / "p.csv").read_text(encoding="utf-8")
    assert csv == "text_id,infer\ngist_12_3,치킨\ngist_12_4,퀸 노래방\n"
    txt = write_predictions(table, tmp_path / "p.txt").read_text(encoding="utf-8")
    assert txt == "GIST/text_images/0/gist_12_3.jpg\t치킨\nGIST/text_images/gist_12_4.jpg\t퀸 노래방\n"
    lines = write_predictions(table, tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"image_path": images[0], "pred": "치킨"}


def test_predictions_that_would_be_scored_wrongly_are_refused(tmp_path: Path) -> None:
    table = pd.DataFrame({"img_path": ["a/1.jpg", "b/1.jpg"], "text": ["가", "나"]}, dtype=object)
    with pytest.raises(HangulOcrError, match="'1' is predicted more than once"):
        write_predictions(table, tmp_path / "p.csv")
    with pytest.raises(HangulOcrError, match=r"reads \.csv, \.txt and \.jsonl"):
        write_predictions(table[:1], tmp_path / "p.tsv")
    with pytest.raises(HangulOcrError, match="no column 'text'"):
        write_predictions(table[["img_path"]], tmp_path / "p.csv")
    assert list(tmp_path.iterdir()) == []


def test_lists_in_folders_of_one_name_keep_their_texts_apart(tmp_path: Path) -> None:
    lists = []
    for part in ("one", "two"):
        folder = tmp_path / part / "labels"
        write(tmp_path / part / "GIST" / "text_images" / "g_1.jpg", crop_png(len(part)))
        write(folder / "test.txt", f"GIST/text_images/g_1.jpg\t{part}\n")
        lists.append(folder / "test.txt")
    samples, left_out = taken("kstrbench", *lists)
    assert left_out == []
    assert sorted(sample.text for sample in samples.values()) == ["one", "two"]
