"""The competition reader: real-world CSV files, paths and labels, and every refusal."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from conftest import crop_png, write_csv

from hangul_ocr.data import dacon
from hangul_ocr.data.dacon import Competition, find_competition, fingerprint, read_competition, train_samples
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples
from hangul_ocr.hangul import HangulOcrError


def left_out(competition: Competition) -> dict[str, str]:
    return {item.key: item.reason for item in train_samples(competition) if isinstance(item, LeftOut)}


def rewrite(folder: Path, *rows: tuple[str, str], header: tuple[str, ...] = ("img_path", "text"), **kw: str) -> None:
    write_csv(folder / "train.csv", header, rows, **kw)


def add_image(folder: Path, name: str, seed: int = 99) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(crop_png(seed))


# --- finding it


def test_the_competition_is_found_in_the_folder_or_one_below(mini_competition: Path) -> None:
    assert find_competition(mini_competition) == mini_competition
    assert find_competition(mini_competition.parent) == mini_competition


@pytest.mark.parametrize("place", ["open/open", "open/open/open"])
def test_an_archive_unpacked_too_deep_is_found(mini_competition: Path, tmp_path: Path, place: str) -> None:
    shutil.copytree(mini_competition, tmp_path / "input" / place)
    (tmp_path / "input" / ".trash").mkdir()
    shutil.copy(mini_competition / "train.csv", tmp_path / "input" / ".trash")
    shutil.copy(mini_competition / "train.csv", tmp_path / "input" / place / "test")
    assert find_competition(tmp_path / "input") == tmp_path / "input" / place
    shutil.copytree(mini_competition, tmp_path / "input" / "other" / "other")
    with pytest.raises(HangulOcrError, match=r"several competitions \(.*open.*other/other\)"):
        find_competition(tmp_path / "input")


def test_train_csv_stands_for_its_folder_and_no_other_file_does(mini_competition: Path) -> None:
    expected = list(import_samples("dacon", [mini_competition]))
    assert list(import_samples("dacon", [mini_competition / "train.csv"])) == expected
    with pytest.raises(HangulOcrError, match=r"test\.csv: a file.*name the folder that holds train\.csv"):
        find_competition(mini_competition / "test.csv")
    shutil.make_archive(str(mini_competition), "zip", mini_competition)
    with pytest.raises(HangulOcrError, match=r"mini\.zip: a file.*unpack it"):
        find_competition(mini_competition.with_suffix(".zip"))


def test_several_competitions_are_named(mini_competition: Path) -> None:
    shutil.copytree(mini_competition, mini_competition.parent / "other")
    with pytest.raises(HangulOcrError, match=r"mini.*other"):
        find_competition(mini_competition.parent)


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_no_train_csv(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HangulOcrError, match=r"no train\.csv"):
        find_competition(tmp_path / name)


def test_a_packed_download_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "open.zip").write_bytes(b"PK")
    with pytest.raises(HangulOcrError, match=r"unpack open\.zip"):
        find_competition(tmp_path)


# --- reading tables


def test_the_competition_as_it_comes(mini_competition: Path) -> None:
    competition = read_competition(mini_competition)
    assert len(competition.train) == 24
    assert list(competition.train.columns) == ["img_path", "text"]
    assert competition.template_paths() == list(competition.test["img_path"])
    assert (competition.template_key, competition.template_text) == ("img_path", "text")
    assert competition.columns.id is None
    samples = list(train_samples(competition))
    assert all(isinstance(sample, Sample) for sample in samples)
    assert samples[0].key == "./train/train_00001.png"
    assert samples[0].source == "mini"
    assert samples[5].facts == {"width": 24, "height": 64}
    tests = list(dacon.test_samples(competition))
    assert [sample.text for sample in tests] == [""] * 8


def test_labels_that_look_like_nulls_are_words(mini_competition: Path) -> None:
    texts = Counter(sample.text for sample in train_samples(read_competition(mini_competition)))
    assert texts["NA"] == texts["null"] == 2


def test_a_cp949_table_reads_the_same(mini_competition: Path) -> None:
    expected = read_competition(mini_competition)
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        text = (mini_competition / name).read_text(encoding="utf-8-sig")
        (mini_competition / name).write_bytes(text.replace("\n", "\r\n").encode("cp949"))
    assert read_competition(mini_competition).train.equals(expected.train)


def test_an_undecodable_table_is_named(mini_competition: Path) -> None:
    (mini_competition / "train.csv").write_bytes("img_path,text\n./a.png,가".encode("utf-16"))
    with pytest.raises(HangulOcrError, match=r"train\.csv.*neither UTF-8 nor cp949"):
        read_competition(mini_competition)


def test_byte_order_marks_inside_disappear(mini_competition: Path) -> None:
    rewrite(mini_competition, ("\ufeff./train/train_00001.png", "\ufeff가"), header=("\ufeffimg_path", "text"))
    competition = read_competition(mini_competition)
    assert competition.train.to_dict("records") == [{"img_path": "./train/train_00001.png", "text": "가"}]


def test_nfd_labels_and_file_names(mini_competition: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "한글 간판")
    add_image(mini_competition, f"train/{decomposed}/{decomposed}.png")
    add_image(mini_competition, "train/한국.png")
    rows = [
        ("./train/한글 간판/한글 간판.png", decomposed),
        (unicodedata.normalize("NFD", "./train/한국.png"), "한국"),
    ]
    rewrite(mini_competition, *rows)
    samples = list(train_samples(read_competition(mini_competition)))
    assert [sample.text for sample in samples] == ["한글 간판", "한국"]
    assert [sample.key for sample in samples] == ["./train/한글 간판/한글 간판.png", "./train/한국.png"]


def test_windows_paths(mini_competition: Path) -> None:
    rewrite(mini_competition, (r"train\train_00001.png", "가"))
    assert left_out(read_competition(mini_competition)) == {}


def test_the_sister_competition(tmp_path: Path) -> None:
    for name in ("train/TRAIN_00000.png", "test/TEST_00000.png", "test/TEST_00001.png"):
        add_image(tmp_path, name)
    write_csv(tmp_path / "train.csv", ("id", "img_path", "label"), [("TRAIN_00000", "./train/TRAIN_00000.png", "가")])
    tests = [(f"TEST_0000{i}", f"./test/TEST_0000{i}.png") for i in (0, 1)]
    write_csv(tmp_path / "test.csv", ("id", "img_path"), tests)
    write_csv(tmp_path / "sample_submission.csv", ("id", "label"), [("TEST_00001", ""), ("TEST_00000", "")])
    competition = read_competition(tmp_path)
    assert (competition.template_key, competition.template_text) == ("id", "label")
    assert competition.template_paths() == ["./test/TEST_00001.png", "./test/TEST_00000.png"]
    (sample,) = train_samples(competition)
    assert (sample.text, sample.facts["id"]) == ("가", "TRAIN_00000")


def test_another_layout_by_its_content(mini_competition: Path) -> None:
    rewrite(mini_competition, ("train/train_00001.png", "가"), header=("crop", "글자"))
    write_csv(mini_competition / "test.csv", ("no", "crop"), [("1", "test/test_00001.png")])
    write_csv(mini_competition / "sample_submission.csv", ("crop", "글자"), [("test/test_00001.png", "?")])
    competition = read_competition(mini_competition)
    assert (competition.columns.path, competition.columns.text) == ("crop", "글자")
    assert (competition.template_key, competition.template_text) == ("crop", "글자")
    assert competition.template_paths() == ["test/test_00001.png"]


def test_a_test_table_of_another_layout_is_named(mini_competition: Path) -> None:
    write_csv(mini_competition / "test.csv", ("crop",), [("./test/test_00001.png",)])
    blamed = r"mini/test\.csv: train\.csv calls .*'img_path', test\.csv has no such column \(found: crop\)"
    with pytest.raises(HangulOcrError, match=blamed):
        read_competition(mini_competition)


@pytest.mark.parametrize("header", [("path", "text"), ("crop", "글자")])
@pytest.mark.parametrize("other", ["test.csv", "sample_submission.csv"])
def test_renamed_columns_of_train_csv_are_told_of_train_csv(
    mini_competition: Path, header: tuple[str, str], other: str
) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", "가"), header=header)
    if other != "test.csv":
        (mini_competition / "test.csv").unlink()
    told = rf"mini/train\.csv: no column 'img_path', which {other} has \(found: {', '.join(header)}\); .*img_path, text"
    with pytest.raises(HangulOcrError, match=told):
        read_competition(mini_competition)


def test_a_renamed_id_is_told_of_train_csv(mini_competition: Path) -> None:
    rewrite(mini_competition, ("A", "./train/train_00001.png", "가"), header=("ID", "img_path", "label"))
    write_csv(mini_competition / "test.csv", ("id", "img_path"), [("B", "./test/test_00001.png")])
    write_csv(mini_competition / "sample_submission.csv", ("id", "label"), [("B", "")])
    with pytest.raises(HangulOcrError, match=r"mini/train\.csv: no column 'id', which sample_submission\.csv has"):
        read_competition(mini_competition)


@pytest.mark.parametrize(
    "header",
    [("a", "b"), ("img_path", "text", "label"), ("img_path", "x", "y"), ("path", "file", "text"), ("text",), ("id",)],
)
def test_columns_that_are_not_recognised(mini_competition: Path, header: tuple[str, ...]) -> None:
    for name in ("test.csv", "sample_submission.csv"):
        (mini_competition / name).unlink()
    rewrite(mini_competition, ("가",) * len(header), header=header)
    with pytest.raises(HangulOcrError, match=r"train\.csv: columns not recognised"):
        read_competition(mini_competition)


def test_further_columns_are_kept(mini_competition: Path) -> None:
    row = ("./train/train_00001.png", "가", "sign", "shop", "photo 7")
    rewrite(mini_competition, row, header=("img_path", "text", "kind", "source", "group"))
    (sample,) = train_samples(read_competition(mini_competition))
    assert (sample.facts["kind"], sample.source, sample.group) == ("sign", "shop", "photo 7")


def test_training_needs_no_test_tables(mini_competition: Path) -> None:
    (mini_competition / "test.csv").unlink()
    (mini_competition / "sample_submission.csv").unlink()
    competition = read_competition(mini_competition)
    assert len(list(train_samples(competition))) == 24
    assert list(dacon.test_samples(competition)) == []
    with pytest.raises(HangulOcrError, match=r"sample_submission\.csv: not found"):
        competition.template_paths()


def test_a_template_of_another_download(mini_competition: Path) -> None:
    write_csv(mini_competition / "sample_submission.csv", ("img_path", "text"), [("./test/test_00777.png", "")])
    competition = read_competition(mini_competition)
    with pytest.raises(HangulOcrError, match="test_00777"):
        competition.template_paths()


def test_a_comma_in_an_unquoted_label_is_not_cut_off(mini_competition: Path) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", "가,나"))
    with pytest.raises(HangulOcrError, match="line 2 has 3 fields"):
        read_competition(mini_competition)
    rewrite(mini_competition, ("./train/train_00001.png", '"가,나"'))
    assert read_competition(mini_competition).train["text"].tolist() == ["가,나"]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolon"), ("\t", "tab")])
@pytest.mark.parametrize("table", ["train.csv", "test.csv", "sample_submission.csv"])
def test_a_table_with_other_separators_says_which(
    mini_competition: Path, separator: str, name: str, table: str
) -> None:
    lines = [separator.join(("id", "img_path", "text")), separator.join(("1", "./train/train_00001.png", "가, 나"))]
    (mini_competition / table).write_text("\n".join(lines), encoding="utf-8-sig")
    with pytest.raises(HangulOcrError, match=rf"{table}: its columns are parted by a {name} .*save it .* a comma"):
        read_competition(mini_competition)


@pytest.mark.parametrize("content", ["", "img_path,text\n", 'img_path,text\n./a.png,"가\n', "img_path,img_path\n"])
def test_broken_tables_are_named(mini_competition: Path, content: str) -> None:
    (mini_competition / "train.csv").write_text(content, encoding="utf-8")
    with pytest.raises(HangulOcrError, match=r"train\.csv"):
        read_competition(mini_competition)


def test_blank_rows_at_the_end_are_no_rows(mini_competition: Path) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", "가"), ("", ""), ("", ""))
    assert len(read_competition(mini_competition).train) == 1


# --- paths


@pytest.mark.parametrize("path", ["../secret.png", "train/../../x.png", "/etc/passwd", "C:/x.png", r"..\x.png", ""])
def test_a_path_that_leaves_the_folder(mini_competition: Path, path: str) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", "가"), (path, "나"))
    with pytest.raises(HangulOcrError, match=r"train\.csv.*leaves the folder"):
        read_competition(mini_competition)


def test_a_test_path_that_leaves_the_folder(mini_competition: Path) -> None:
    write_csv(mini_competition / "test.csv", ("img_path",), [("../x.png",)])
    with pytest.raises(HangulOcrError, match=r"test\.csv"):
        read_competition(mini_competition)


def test_a_link_that_leaves_the_folder(mini_competition: Path, tmp_path: Path) -> None:
    add_image(tmp_path, "outside/x.png")
    os.symlink(tmp_path / "outside", mini_competition / "linked")
    rewrite(mini_competition, ("linked/x.png", "가"))
    with pytest.raises(HangulOcrError, match=r"linked/x\.png.*a link leads out"):
        list(train_samples(read_competition(mini_competition)))


def test_a_linked_competition_folder_is_fine(mini_competition: Path, tmp_path: Path) -> None:
    os.symlink(mini_competition, tmp_path / "input")
    assert left_out(read_competition(tmp_path / "input")) == {}


def test_repeated_paths_are_named(mini_competition: Path) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", "가"), ("train/train_00001.png", "나"))
    with pytest.raises(HangulOcrError, match=r"train_00001\.png"):
        read_competition(mini_competition)


# --- what is left out


def test_what_cannot_be_used_is_left_out_and_named(mini_competition: Path) -> None:
    train = mini_competition / "train"
    whole = (train / "train_00001.png").read_bytes()
    for name, data in {"empty": b"", "cut": whole[: len(whole) // 2], "junk": b"\x89PNG junk" * 9}.items():
        (train / f"{name}.png").write_bytes(data)
    (train / "folder.png").mkdir()
    names = ["train_00001", "empty", "cut", "junk", "folder", "gone"]
    rows = [(f"train/{name}.png", "가") for name in names]
    labels = [("train/train_00002.png", " "), ("train/train_00003.png", "XXX"), ("train/train_00004.png", "xx")]
    rewrite(mini_competition, *rows, *labels)
    competition = read_competition(mini_competition)
    assert left_out(competition) == {
        "train/empty.png": "unreadable image",
        "train/cut.png": "unreadable image",
        "train/junk.png": "unreadable image",
        "train/folder.png": "missing image",
        "train/gone.png": "missing image",
        "train/train_00002.png": "empty label",
        "train/train_00003.png": "placeholder label",
        "train/train_00004.png": "placeholder label",
    }
    details = {item.key: item.detail for item in train_samples(competition) if isinstance(item, LeftOut)}
    assert "empty" in details["train/empty.png"]
    assert "truncated" in details["train/cut.png"]


@pytest.mark.parametrize("label", ["", "  "])
def test_all_labels_empty(mini_competition: Path, label: str) -> None:
    rewrite(mini_competition, ("./train/train_00001.png", label), ("./train/train_00002.png", label))
    with pytest.raises(HangulOcrError, match=r"train\.csv: all 2 labels are empty"):
        read_competition(mini_competition)


def test_the_fingerprint_follows_labels_and_files(mini_competition: Path) -> None:
    first = fingerprint(read_competition(mini_competition))
    assert fingerprint(read_competition(mini_competition)) == first
    add_image(mini_competition, "train/train_00001.png", seed=1234)
    second = fingerprint(read_competition(mini_competition))
    rewrite(mini_competition, ("./train/train_00001.png", "다른"))
    assert len({first, second, fingerprint(read_competition(mini_competition))}) == 3
