"""The registry of sources, sets that hold crops already, and `hangul-ocr import`."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from conftest import crop_png
from data_sets import outdoor_json, photograph, reasons, size_of, taken, write, write_zip

from hangul_ocr import cli
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import SOURCES, import_samples, plan
from hangul_ocr.data.survey import survey_store
from hangul_ocr.data.tables import read_table
from hangul_ocr.hangul import HangulOcrError


def write_clova(path: Path, records: list[tuple[bytes | None, bytes | None]]) -> Path:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for number, (image, label) in enumerate(records, start=1):
            if image is not None:
                transaction.put(b"image-%09d" % number, image)
            if label is not None:
                transaction.put(b"label-%09d" % number, label)
        transaction.put(b"num-samples", str(len(records)).encode())
    return path


def test_a_competition_is_a_source(mini_competition: Path) -> None:
    samples, left_out = taken("dacon", mini_competition)
    assert (len(samples), left_out) == (24, [])
    assert "./train/train_00001.png" in samples


def test_several_competitions_keep_their_crops_apart(mini_competition: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_competition, tmp_path / "other" / "mini")
    samples, _ = taken("dacon", mini_competition, tmp_path / "other" / "mini")
    assert len(samples) == 48


def test_a_look_at_a_store_passes_over_records_that_cannot_be_read(tmp_path: Path, capsys) -> None:
    records = [(crop_png(1), "글".encode()), (b"none", b"b"), (crop_png(3), b"\xb0\xa1"), (None, b"a")]
    write_clova(tmp_path / "MJ", records)
    with LmdbReader(tmp_path / "MJ") as reader:
        assert survey_store(reader, range(4))["text"].tolist() == ["글"]
    assert "3 of 4 records cannot be read" in capsys.readouterr().out


def damage_a_page(store: Path) -> None:
    """Spoil the flags of one page of records; a page is 4,096 bytes, its flags lie at byte 10, and 2 marks a leaf."""
    data = bytearray((store / "data.mdb").read_bytes())
    leaves = [at for at in range(2 * 4096, len(data), 4096) if int.from_bytes(data[at + 10 : at + 12], "little") == 2]
    spoilt = next(at for at in leaves if b"num-samples" not in data[at : at + 4096])
    data[spoilt + 10 : spoilt + 12] = bytes(2)
    (store / "data.mdb").write_bytes(data)


def test_a_damaged_store_is_told_by_its_own_records(tmp_path: Path, capsys) -> None:
    write_clova(tmp_path / "MJ", [(crop_png(n), f"글{n}".encode()) for n in range(400)])
    damage_a_page(tmp_path / "MJ")
    samples, left_out = taken("lmdb", tmp_path / "MJ")
    lost = reasons(left_out)["damaged record"]
    assert 0 < lost < 400
    assert len(samples) == 400 - lost
    with LmdbReader(tmp_path / "MJ") as reader:
        assert len(survey_store(reader, range(400))) == 400 - lost
    assert f"{lost} of 400 records cannot be read" in capsys.readouterr().out


def test_clovas_lmdbs_are_a_source(tmp_path: Path) -> None:
    good = [(crop_png(n), f"글{n}".encode()) for n in range(2)]
    bad = [(None, b"a"), (crop_png(3), None), (crop_png(4), b"\xb0\xa1"), (b"none", b"b"), (crop_png(5), b"xxx")]
    write_clova(tmp_path / "MJ" / "train", [*good, *bad])
    write_clova(tmp_path / "MJ" / "valid", good)
    samples, left_out = taken("lmdb", tmp_path / "MJ")
    assert list(samples) == [f"MJ/{part}/{n:09d}" for part in ("train", "valid") for n in (1, 2)]
    assert samples["MJ/train/000000002"].text == "글1"
    assert reasons(left_out) == {"damaged record": 3, "unreadable image": 1, "placeholder label": 1}
    assert list(taken("lmdb", tmp_path / "MJ" / "valid")[0]) == ["valid/000000001", "valid/000000002"]


def test_labels_of_other_peoples_lmdbs_are_cleaned(tmp_path: Path) -> None:
    labels = ["가 ", "\ufeff나", "다\r", "\u200b라\u200f", "\u200b"]
    write_clova(tmp_path / "MJ", [(crop_png(n), label.encode()) for n, label in enumerate(labels)])
    samples, left_out = taken("lmdb", tmp_path / "MJ")
    assert [sample.text for sample in samples.values()] == ["가", "나", "다", "라"]
    assert reasons(left_out) == {"empty label": 1}


def test_meta_of_another_kind_is_a_damaged_record(tmp_path: Path) -> None:
    write_clova(tmp_path / "MJ", [(crop_png(n), "글".encode()) for n in range(3)])
    with lmdb.open(str(tmp_path / "MJ"), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"meta-000000001", b'{"key": 5}')
        transaction.put(b"meta-000000002", b'{"key": ["a"]}')
    samples, left_out = taken("lmdb", tmp_path / "MJ")
    assert (list(samples), reasons(left_out)) == (["MJ/000000003"], {"damaged record": 2})


def test_a_store_with_a_damaged_manifest_can_still_be_imported(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "s", [Sample("k", crop_png(1), "가 ", "x")], alphabet=None, settings={})
    with lmdb.open(str(tmp_path / "s"), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"manifest", b"{")
    assert taken("lmdb", tmp_path / "s")[0]["k"].text == "가 "


def test_unfinished_stores_are_not_taken_for_whole_ones(tmp_path: Path) -> None:
    for name in ("a", "b.tmp", "c.former", "d", "e/unfinished"):
        write_lmdb(tmp_path / "in" / name, [Sample(name, crop_png(1), "가", "x")], alphabet=None, settings={})
    write(tmp_path / "in" / "d" / "progress.json", "{}")
    write_lmdb(
        tmp_path / "in" / "f", [Sample(n, crop_png(1), "가", "x") for n in "pq"], alphabet=None, settings={}, shards=2
    )
    os.replace(tmp_path / "in" / "f", tmp_path / "in" / "f.tmp")
    (tmp_path / "in" / "f.tmp" / "manifest.json").unlink()
    samples, left_out = taken("lmdb", tmp_path / "in")
    assert list(samples) == ["a"]
    assert {(record.key, record.reason) for record in left_out} == {
        (f"in/{name}", "unfinished store") for name in ("b.tmp", "c.former", "d", "e/unfinished", "f.tmp")
    }
    for path in ("b.tmp", "b.tmp/data.mdb", "f.tmp", "f.tmp/shard-000-of-002"):
        with pytest.raises(HangulOcrError, match=r"not finished.*run the import that writes it again"):
            taken("lmdb", tmp_path / "in" / path)


def test_our_own_lmdbs_come_back_as_they_were(tmp_path: Path) -> None:
    items = [Sample(f"k{n}", crop_png(n), "가", "x", f"photo {n}", {"kind": "sign"}) for n in range(3)]
    write_lmdb(tmp_path / "s", items, alphabet=None, settings={})
    samples, left_out = taken("lmdb", tmp_path / "s")
    assert left_out == []
    for item in items:
        assert samples[item.key].facts == {"kind": "sign", "width": 64, "height": 24}
        assert (samples[item.key].group, samples[item.key].image) == (item.group, item.image)


def test_several_lmdbs_of_ours_keep_their_equal_keys(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_lmdb(tmp_path / name, [Sample("k", crop_png(number), "가", "x", "photo")], alphabet=None, settings={})
    samples, left_out = taken("lmdb", tmp_path / "a", tmp_path / "b")
    assert left_out == []
    assert {key: (sample.image, sample.group) for key, sample in samples.items()} == {
        "a/k": (crop_png(0), "a/photo"),
        "b/k": (crop_png(1), "b/photo"),
    }


def test_a_folder_that_holds_no_lmdb(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"")
    with pytest.raises(HangulOcrError, match=r"looked for LMDBs.*found 1 \.txt"):
        list(import_samples("lmdb", [tmp_path]))


def test_an_unknown_source_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(HangulOcrError, match="source 'icdar' is unknown; choose one of dacon, aihub-outdoor"):
        list(import_samples("icdar", [tmp_path]))
    with pytest.raises(HangulOcrError, match="no path given"):
        list(import_samples("list", []))


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_folder_is_one_line_for_every_source(tmp_path: Path, capsys, source: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["import", source, str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(told) == 1
    assert not (tmp_path / "out").exists()


def test_the_list_of_sources_costs_nothing() -> None:
    code = "import sys, hangul_ocr.data.sources; print(sorted({'cv2', 'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_writes_an_lmdb_and_says_what_it_left_out(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "set"
    for n in range(3):
        write(folder / f"{n}.png", crop_png(n))
    write(folder / "gt.txt", "0.png\t가\n1.png\txxx\n2.png\t나\n0.png\t다\nno tab\n")
    assert cli.main(["import", "list", str(folder), "--out", str(tmp_path / "out.lmdb"), "--margin", "0.1"]) == 0
    shown = capsys.readouterr().out
    for line in ("read", "kept", "left out", "  placeholder label", "  duplicate key", "  damaged line"):
        assert f"\n{line} " in f"\n{shown}"
    assert [int(line.split()[-1]) for line in shown.splitlines()[:3]] == [5, 2, 3]
    with LmdbReader(tmp_path / "out.lmdb") as reader:
        assert reader.texts() == ["가", "나"]
        assert (reader.manifest.read, reader.manifest.kept) == (5, 2)
        assert reader.manifest.settings["import"]["margin"] == 0.1
    assert len(read_table(tmp_path / "out.lmdb" / "left_out.csv")) == 3


def test_photographs_in_zips_go_into_an_lmdb_with_their_group(tmp_path: Path, capsys) -> None:
    boxes = [([10, 20, 90, 40], "가"), ([10, 90, 90, 40], "나"), ([1, 2, 30, 40], "xxx")]
    write_zip(tmp_path / "TL1.zip", {"간판_1.json": json.dumps(outdoor_json("간판_1", boxes)).encode()})
    write_zip(tmp_path / "TS1.zip", {"간판_1.JPG": photograph()})
    zips = [str(tmp_path / name) for name in ("TS1.zip", "TL1.zip")]
    assert cli.main(["import", "aihub-outdoor", *zips, "--out", str(tmp_path / "out")]) == 0
    assert "placeholder label            1" in capsys.readouterr().out
    with LmdbReader(tmp_path / "out") as reader:
        assert [(meta["key"], meta["group"]) for meta in reader.metas()] == [
            ("간판_1#1", "간판_1"),
            ("간판_1#2", "간판_1"),
        ]
        assert (reader.metas()[0]["width"], reader.metas()[0]["height"]) == (94, 44)


def test_work_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    write(tmp_path / "a.json", outdoor_json("a", [([10, 20, 90, 40], "가")]))
    write(tmp_path / "a.jpg", photograph())
    write(tmp_path / "gt.txt", "a.jpg\t가\n")
    for source in ("aihub-outdoor", "list"):
        (work,) = (item for item in plan(source, [tmp_path]) if not isinstance(item, LeftOut))
        (sample,) = pickle.loads(pickle.dumps(work)).samples(ImportSettings())
        assert sample.text == "가"


@pytest.mark.parametrize(
    "arguments", [["import", "icdar", "x", "--out", "y"], ["import", "list", "x"], ["import", "list"]]
)
def test_wrong_usage_of_import(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_import_refuses_senseless_settings(tmp_path: Path, capsys) -> None:
    assert cli.main(["import", "list", str(tmp_path), "--out", str(tmp_path / "o"), "--margin", "7"]) == 1
    assert "margin 7.0: choose one from 0 to 1" in capsys.readouterr().err


def test_predictions_for_kstrbench_from_the_command_line(tmp_path: Path, capsys) -> None:
    write(tmp_path / "out.csv", "img_path,text,confidence\nGIST/g_1.jpg,치킨,0.9\n")
    assert cli.main(["kstrbench-predictions", str(tmp_path / "out.csv"), str(tmp_path / "k.csv")]) == 0
    assert (tmp_path / "k.csv").read_text(encoding="utf-8") == "text_id,infer\ng_1,치킨\n"
    assert "1 predictions" in capsys.readouterr().out


def test_crops_are_shrunk_if_asked_whatever_they_come_from(mini_competition: Path, tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.png", crop_png(0, 640, 400))
    write(tmp_path / "set" / "gt.txt", "a.png\t가\n")
    write_clova(tmp_path / "lmdb", [(crop_png(1, 640, 400), "나".encode())])
    settings = ImportSettings(shrink=True)
    for source, path, size in (("list", "set", (160, 100)), ("lmdb", "lmdb", (160, 100)), ("dacon", "mini", (64, 24))):
        sample = next(iter(taken(source, tmp_path / path, settings=settings)[0].values()))
        assert sample.image[:3] == b"\xff\xd8\xff"
        assert size_of(sample.image) == size
    assert cli.main(["import", "list", str(tmp_path / "set"), "--out", str(tmp_path / "s"), "--shrink"]) == 0
    assert LmdbReader(tmp_path / "s").metas()[0]["width"] == 160
