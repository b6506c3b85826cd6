"""Lists of crops and labels: Clova's, PaddleOCR's, ICDAR MLT's and TextRecognitionDataGenerator's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import crop_png
from data_sets import nfd, reasons, taken, write, write_zip

from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples
from hangul_ocr.hangul import HangulOcrError


def crops(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write(folder / name, crop_png(seed))
    return folder


def texts(source: str, *paths: Path, **options) -> dict[str, str]:
    return {key: sample.text for key, sample in taken(source, *paths, **options)[0].items()}


def test_a_list_of_paths_and_labels(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "a/1.png", "a/2.png")
    write(folder / "gt.txt", f"a/1.png\t가나\n./a/2.png\t{nfd('서울 시장')}\r\n\n")
    samples, left_out = taken("list", folder)
    assert left_out == []
    assert {key: s.text for key, s in samples.items()} == {"set/a/1.png": "가나", "set/a/2.png": "서울 시장"}
    assert samples["set/a/1.png"].image == crop_png(0)
    assert texts("list", folder / "gt.txt") == texts("list", folder)


@pytest.mark.parametrize("source", ["list", "paddleocr"])
def test_lines_that_cannot_be_used(tmp_path: Path, source: str) -> None:
    folder = crops(tmp_path / "set", "1.png", "2.png")
    write(folder / "cut.png", crop_png(3)[:90])
    lines = ["1.png\t가\t나", "no tab", "gone.png\t가", "../out.png\t가", "/etc/x.png\t가", "2.png\t", "2.png\txxx"]
    lines += ["cut.png\t가", "\t가", f"2.png\t{'긴' * 100_000}", f"{'n' * 5000}.png\t가", "a\0b.png\t가"]
    data = "\n".join(lines).encode() + b"\n1.png\t\xff\xff\n"
    write(folder / "gt.txt", data)
    samples, left_out = taken(source, folder)
    assert samples == {}
    assert reasons(left_out) == {
        "control character in label": 1,
        "damaged line": 2,
        "missing image": 2,
        "unsafe path": 3,
        "empty label": 1,
        "placeholder label": 1,
        "unreadable image": 1,
        "label too long": 1,
        "undecodable line": 1,
    }
    assert {record.key for record in left_out} >= {"set/gt.txt:2", "set/gt.txt:13"}


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    crops(tmp_path / "out", "x.png")
    folder = crops(tmp_path / "set", "1.png")
    os.symlink(tmp_path / "out", folder / "linked")
    write(folder / "gt.txt", "1.png\t가\nlinked/x.png\t나\n")
    samples, left_out = taken("list", folder / "gt.txt")
    assert len(samples) == 1
    assert reasons(left_out) == {"unsafe path": 1}


def test_labels_lose_what_nobody_sees(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "1.png", "2.png")
    parted = "\u200d".join(nfd("가"))
    write(folder / "gt.txt", f"1.png\t\u200e가\u200b나\u2060 \u200f\n2.png\t{parted}\n")
    assert list(texts("list", folder).values()) == ["가나", "가"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_lists_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    folder = crops(tmp_path / "set", "한글.png", "2.png")
    write(folder / "gt.txt", "한글.png\t카\n2.png\t가나다\n".encode(encoding))
    assert texts("list", folder) == {"set/한글.png": "카", "set/2.png": "가나다"}


def test_file_names_in_nfd_on_the_disk(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", nfd("한글/간판.png"))
    write(folder / "gt.txt", "한글/간판.png\t가\n")
    assert texts("list", folder) == {"set/한글/간판.png": "가"}


def test_paths_that_begin_at_a_folder_above_the_list(tmp_path: Path) -> None:
    folder = crops(tmp_path / "data", "rec/train/1.png", "rec/train/2.png")
    write(folder / "rec" / "labels" / "rec_gt_train.txt", "train/1.png\t가\ntrain/2.png\t나\n")
    assert texts("paddleocr", folder) == {"data/rec/train/1.png": "가", "data/rec/train/2.png": "나"}
    assert list(texts("paddleocr", folder / "rec" / "labels" / "rec_gt_train.txt").values()) == ["가", "나"]


def test_several_lists_of_one_folder(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "1.png", "2.png")
    write(folder / "train.txt", "1.png\t가\n")
    write(folder / "val.txt", "2.png\t나\n")
    write(folder / "readme.txt", "nothing\n")
    assert texts("list", folder) == {"set/1.png": "가", "set/2.png": "나"}


def test_lists_in_folders_of_one_name_keep_their_crops_apart(tmp_path: Path) -> None:
    lists = []
    for number, part in enumerate(("one", "two")):
        folder = tmp_path / part / "train"
        write(folder / "1.png", crop_png(number))
        write(folder / "gt.txt", f"1.png\t{'가나'[number]}\n")
        lists.append(folder / "gt.txt")
    assert texts("list", *lists) == {"one/train/1.png": "가", "two/train/1.png": "나"}


def test_a_list_that_nobody_can_read_is_told(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "1.png")
    write(folder / "gt.txt", "1.png\t가\n")
    write(folder / "other.txt", b"1.png\t\xff\xff\n")
    samples, left_out = taken("list", folder)
    assert len(samples) == 1
    assert ("set/other.txt:1", "undecodable line") in {(record.key, record.reason) for record in left_out}


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_list_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "1.png")
    write(folder / "gt.txt", "1.png\t가\n")
    os.symlink(folder / "gone.txt", folder / "other.txt")
    samples, left_out = taken("list", folder)
    assert len(samples) == 1
    assert ("set/other.txt", "unreadable list") in {(record.key, record.reason) for record in left_out}


def test_paddles_labels_for_detection_are_not_taken_for_words(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "1.png", "2.png")
    write(folder / "Label.txt", '1.png\t[{"transcription": "가", "points": [[0,0],[1,0],[1,1],[0,1]]}]\n2.png\t나\n')
    samples, left_out = taken("paddleocr", folder)
    assert len(samples) == 1
    assert reasons(left_out) == {"label for detection": 1}


@pytest.mark.parametrize("source", ["list", "paddleocr", "kstrbench"])
@pytest.mark.parametrize(
    "label",
    [
        '[{"points": [[0, 0], [1, 0], [1, 1]], "transcription": "가"}]',
        '[{ "transcription": "가"}, {"transcription": "나"}]',
        " [] ",
    ],
)
def test_labels_for_detection_however_they_are_written(tmp_path: Path, source: str, label: str) -> None:
    folder = crops(tmp_path / "set", "1.png", "2.png", "3.png")
    words = ["[가]", "[1, 2", f"{'[' * 100_000}"]
    write(folder / "gt.txt", f"1.png\t{label}\n" + "".join(f"2.png\t{word}\n" for word in words) + "3.png\t[1]\n")
    items = list(import_samples(source, [folder / "gt.txt"]))
    assert [item.text for item in items if isinstance(item, Sample)] == ["[가]", "[1, 2", "[1]"]
    assert reasons([item for item in items if isinstance(item, LeftOut)]) == {
        "label for detection": 1,
        "label too long": 1,
    }


def test_a_list_that_is_not_read_and_its_images_are_told(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "a.png", "b.png", "c.png")
    write(folder / "train.txt", "a.png\t가\n")
    write(folder / "val.txt", "b.png 나\n")
    write(folder / "late.txt", "# a comment\n" * 20 + "c.png\t다\n")
    write(folder / "empty.csv", "\n")
    samples, left_out = taken("list", folder)
    assert list(samples) == ["set/a.png"]
    assert {(record.key, record.reason, record.detail) for record in left_out} == {
        ("set/val.txt", "not such a list", "b.png 나"),
        ("set/late.txt", "not such a list", "# a comment"),
        ("set/empty.csv", "not such a list", "it is empty"),
        ("set/b.png", "image not in any list", ""),
        ("set/c.png", "image not in any list", ""),
    }


def test_a_list_in_a_zip_beside_one_that_is_read_is_told(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "a.png")
    write(folder / "gt.txt", "a.png\t가\n")
    write_zip(folder / "more.zip", {"gt.txt": "b.png\t나\n".encode(), "b.png": crop_png(1), "readme.txt": b"by me"})
    samples, left_out = taken("list", folder)
    assert list(samples) == ["set/a.png"]
    assert {(record.key, record.reason) for record in left_out} == {
        ("set/more/gt.txt", "list in a zip"),
        ("set/more/readme.txt", "not such a list"),
        ("set/more/b.png", "image not in any list"),
    }


def test_images_of_lines_that_are_not_taken_are_told_once(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", *(f"{n}.png" for n in range(6)), nfd("한글.png"))
    lines = ["0.png,Korean,가", "1.png,Latin,A", "2.png", "3.png,Korean,###", "한글.png,Korean,나"]
    write(folder / "gt.txt", "\n".join(lines))
    samples, left_out = taken("mlt", folder)
    assert [sample.text for sample in samples.values()] == ["가", "나"]
    expected = {"other script": 1, "damaged line": 1, "placeholder label": 1, "image not in any list": 2}
    assert reasons(left_out) == expected


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_images_are_known_by_their_places_however_the_folder_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = crops(tmp_path / "set", "a.png", "b.png")
    write(folder / "gt.txt", "a.png\t가\n")
    os.symlink(folder, tmp_path / "link")
    monkeypatch.chdir(folder)
    for path in (Path("."), tmp_path / "link", folder / ".." / "set"):
        _, left_out = taken("list", path)
        assert [record.reason for record in left_out] == ["image not in any list"]


def test_a_folder_without_a_list(tmp_path: Path) -> None:
    crops(tmp_path, "1.png")
    write(tmp_path / "notes.txt", "no tab here")
    for source in ("list", "paddleocr", "mlt"):
        with pytest.raises(HangulOcrError, match=r"looked for .*found 1 \.png, 1 \.txt"):
            list(import_samples(source, [tmp_path]))
    with pytest.raises(HangulOcrError, match=r"gone: not there"):
        list(import_samples("list", [tmp_path / "gone"]))


@pytest.mark.parametrize(
    ("header", "separator", "encoding"),
    [
        ("img_path,text", ",", "utf-8-sig"),
        ("filename;label", ";", "cp949"),
        ("No.,File Name,words", ",", "utf-8"),
        ("Image\tText", "\t", "utf-16"),
        (nfd("파일명,라벨"), ",", "utf-8"),
    ],
)
def test_a_table_with_a_header_as_excel_saves_it(tmp_path: Path, header: str, separator: str, encoding: str) -> None:
    folder = crops(tmp_path / "set", "a.png", "b.png", "c.png", "d.png")
    before = f"1{separator}" if header.startswith("No") else ""
    rows = [f"a.png{separator}가나", f'b.png{separator}"다,; ""라"""', "c.png", f'd.png{separator}"열림']
    empty = separator * header.count(separator)
    lines = [header, *(before + row for row in rows), empty]
    write(folder / "labels.csv", "\r\n".join(lines).encode(encoding))
    samples, left_out = taken("list", folder)
    assert {key: s.text for key, s in samples.items()} == {"set/a.png": "가나", "set/b.png": '다,; "라"'}
    told = {(record.key, record.reason) for record in left_out}
    assert told >= {("set/labels.csv:4", "damaged line"), ("set/labels.csv:5", "damaged line")}
    assert reasons(left_out).keys() <= {"damaged line", "image not in any list"}


@pytest.mark.parametrize(
    "header",
    ["img_path,text,label", "path,filename,text", "img_path", "imagen,texto", "img_path,text,confidence", "a.png,가"],
)
def test_a_table_whose_columns_are_not_plain_is_told_what_form_is_wanted(tmp_path: Path, header: str) -> None:
    folder = crops(tmp_path / "set", "a.png")
    write(folder / "labels.csv", f"{header}\na.png,가,나\n")
    wanted = "a CSV whose first line names the columns, img_path,text for one"
    with pytest.raises(HangulOcrError, match=f"{wanted}.*but set/labels.csv begins with '{header}'"):
        list(import_samples("list", [folder]))


def test_our_own_tables_are_not_taken_for_lists(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "a.png")
    write(folder / "corrections.csv", "img_path,action,text\na.png,relabel,다\n")
    write(folder / "gt.txt", "a.png\t가\n")
    write(folder / "out.csv", "img_path,text,confidence\na.png,나,0.9\n")
    samples, left_out = taken("list", folder)
    assert [sample.text for sample in samples.values()] == ["가"]
    assert {(record.key, record.reason) for record in left_out} == {
        (f"set/{name}.csv", "not such a list") for name in ("corrections", "out")
    }


def test_a_table_with_a_header_in_a_zip_is_told(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "a.png")
    write(folder / "gt.txt", "a.png\t가\n")
    write_zip(folder / "more.zip", {"train.csv": "img_path,text\nb.png,나\n".encode()})
    _, left_out = taken("list", folder)
    assert {(record.key, record.reason) for record in left_out} == {("set/more/train.csv", "list in a zip")}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_list_in_utf16(tmp_path: Path, encoding: str) -> None:
    folder = crops(tmp_path / "set", "한글.png", "2.png")
    write(folder / "gt.txt", "\ufeff한글.png\t카\r\n\r\n2.png\t가나다\r\nno tab\r\n".encode(encoding))
    samples, left_out = taken("list", folder)
    assert {key: s.text for key, s in samples.items()} == {"set/한글.png": "카", "set/2.png": "가나다"}
    assert [(record.key, record.reason) for record in left_out] == [("set/gt.txt:4", "damaged line")]


def test_a_list_beside_the_folder_that_its_paths_begin_in(tmp_path: Path) -> None:
    folder = crops(tmp_path / "set", "images/1.png", "images/2.png", "other/3.png")
    write(folder / "labels.csv", "file,label\n1.png,가\n2.png,나\n3.png,다\n")
    samples, left_out = taken("list", folder)
    assert {key: sample.text for key, sample in samples.items()} == {"set/images/1.png": "가", "set/images/2.png": "나"}
    assert reasons(left_out) == {"missing image": 1, "image not in any list": 1}


@pytest.mark.parametrize("start", ["C:\\data\\", "/home/me/", "\\\\server\\share\\", "c:/x/../"])
def test_absolute_paths_are_told_with_what_to_cut_off(tmp_path: Path, start: str) -> None:
    folder = crops(tmp_path / "set", "img/a.png")
    write(folder / "gt.txt", f"{start}img/a.png\t가\n{start}img/gone.png\t나\n")
    samples, left_out = taken("list", folder)
    assert samples == {}
    first, second = left_out
    assert (first.reason, second.reason) == ("unsafe path", "unsafe path")
    remedy = "it is absolute, as on another machine; paths must begin at the list's folder or one above"
    assert first.detail == f"{remedy}; img/a.png is there: cut off what stands before it"
    assert second.detail == remedy


@pytest.mark.parametrize("source", ["list", "paddleocr"])
def test_images_that_share_a_label_in_paddles_form(tmp_path: Path, source: str) -> None:
    folder = crops(tmp_path / "data", "img/a.png", "img/b.png", "img/c.png", "[1].png")
    lines = ['["img/a.png", "img/b.png", "img/gone.png"]\t가', '["img/c.png"]\t나', "[1].png\t다", "[]\t라"]
    write(folder / "labels" / "gt.txt", "\n".join(lines))
    samples, left_out = taken(source, folder)
    expected = {"data/img/a.png": "가", "data/img/b.png": "가", "data/img/c.png": "나", "data/[1].png": "다"}
    assert {key: sample.text for key, sample in samples.items()} == expected
    assert [(record.key, record.reason) for record in left_out] == [
        ("data/img/gone.png", "missing image"),
        ("data/[]", "missing image"),
    ]


# --- ICDAR MLT ------------------------------------------------------------------------------------------------------


def test_mlt_keeps_korean_words_with_their_commas(tmp_path: Path) -> None:
    folder = crops(tmp_path / "part1", *(f"word_{n}.png" for n in range(1, 6)))
    lines = ["word_1.png,Korean,가,나", "word_2.png,Latin,Cafe", "word_3.png,Korean,###", "word_4.png,Korean"]
    write(folder / "gt.txt", "\ufeff" + "\r\n".join([*lines, f"word_5.png,Korean,{nfd('한글')}"]))
    samples, left_out = taken("mlt", folder)
    assert {key: s.text for key, s in samples.items()} == {"part1/word_1.png": "가,나", "part1/word_5.png": "한글"}
    assert samples["part1/word_1.png"].facts["script"] == "Korean"
    assert reasons(left_out) == {"other script": 1, "placeholder label": 1, "damaged line": 1}
    both = ImportSettings(scripts=("Korean", "Latin"))
    assert len(texts("mlt", folder, settings=both)) == 3


def test_mlt_parts_use_the_same_names(tmp_path: Path) -> None:
    for part in ("part1", "part2"):
        write(crops(tmp_path / part, "word_1.png") / "gt.txt", f"word_1.png,Korean,{part}\n")
    expected = {"part1/word_1.png": "part1", "part2/word_1.png": "part2"}
    assert texts("mlt", tmp_path / "part1", tmp_path / "part2") == expected
    assert set(texts("mlt", tmp_path).values()) == {"part1", "part2"}


# --- TextRecognitionDataGenerator -----------------------------------------------------------------------------------


def test_trdg_labels_in_file_names(tmp_path: Path) -> None:
    folder = crops(
        tmp_path / "out",
        "가나_0.png",
        "서울 시장_12.png",
        "a_b_3.png",
        f"{nfd('한글')}_4.png",
        "nameless.png",
        "_5.png",
    )
    samples, left_out = taken("trdg", folder)
    assert sorted(sample.text for sample in samples.values()) == ["a_b", "가나", "서울 시장", "한글"]
    assert reasons(left_out) == {"name without label": 2}


def test_trdg_labels_in_a_file(tmp_path: Path) -> None:
    folder = crops(tmp_path / "out", "0.png", "1 x.png", "2.png", "3.png")
    write(folder / "labels.txt", f"0.png 가나\n1 x.png {nfd('서울 시장')}\n2.png\ngone.png 다\n")
    samples, left_out = taken("trdg", folder)
    assert {key: s.text for key, s in samples.items()} == {"out/0.png": "가나", "out/1 x.png": "서울 시장"}
    assert reasons(left_out) == {"empty label": 1, "missing image": 1, "image not in the list": 1}


def test_trdg_without_labels(tmp_path: Path) -> None:
    crops(tmp_path, "a.png", "b.png")
    with pytest.raises(HangulOcrError, match=r"looked for TextRecognitionDataGenerator.*found 2 \.png"):
        list(import_samples("trdg", [tmp_path]))


@pytest.mark.parametrize("named", ["word_{:03d}.png", "train_{:05d}.png"])
def test_trdg_does_not_take_padded_numbers_for_its_own(tmp_path: Path, named: str) -> None:
    crops(tmp_path, *(named.format(number) for number in range(1, 4)))
    with pytest.raises(HangulOcrError, match=r"label_0\.jpg \(its numbers have no leading zeros\).*found 3 \.png"):
        list(import_samples("trdg", [tmp_path]))


def test_trdg_refuses_a_series_that_it_would_label_alike(tmp_path: Path) -> None:
    crops(tmp_path, *(f"word_{number}.png" for number in range(5)))
    with pytest.raises(HangulOcrError, match="but by their names all 5 would be labelled 'word'; check"):
        list(import_samples("trdg", [tmp_path]))
    crops(tmp_path, "가나_5.png")
    assert len(texts("trdg", tmp_path)) == 6


@pytest.mark.parametrize("names", [["label_1"], ["word_1", "word_2", "word_3"]])
def test_trdg_refuses_a_few_images_that_somebody_numbered(tmp_path: Path, names: list[str]) -> None:
    crops(tmp_path, *(f"{name}.png" for name in names))
    with pytest.raises(HangulOcrError, match=r"labels\.txt beside them.*would be labelled '(label|word)'; check"):
        list(import_samples("trdg", [tmp_path]))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["0_가나", "1_서울 시장", "2_12"], ["가나", "서울 시장", "12"]),
        (["가나_0", "12_1"], ["가나", "12"]),
        (["12_0", "34_1"], ["12", "34"]),
        (["0_12", "1_34", "2_7"], ["12", "34", "7"]),
        (["3_0", "3_2", "3_4"], ["3", "3", "3"]),
        (["12_3_0", "가_1"], ["12_3", "가"]),
        (["01012345678_3", "5551234567_4"], ["01012345678", "5551234567"]),
    ],
)
def test_trdg_tells_the_label_from_the_number(tmp_path: Path, names: list[str], labels: list[str]) -> None:
    crops(tmp_path / "out", *(f"{name}.png" for name in names))
    found = texts("trdg", tmp_path)
    assert [found[f"{tmp_path.name}/out/{name}.png"] for name in names] == labels


def test_trdg_names_with_a_number_at_both_ends_need_a_list(tmp_path: Path) -> None:
    crops(tmp_path, "12_34.png", "56_78.png")
    with pytest.raises(HangulOcrError, match=r"labels\.txt beside them.*which end of 12_34\.png is the label cannot"):
        list(import_samples("trdg", [tmp_path]))
    write(tmp_path / "labels.txt", "12_34.png 34\n56_78.png 78\n")
    assert sorted(texts("trdg", tmp_path).values()) == ["34", "78"]


def test_trdg_reads_each_folder_for_itself(tmp_path: Path) -> None:
    crops(tmp_path / "a", "가나_0.png", "다라_1.png")
    crops(tmp_path / "b", "0_마바.png", "1_사아.png")
    assert sorted(texts("trdg", tmp_path).values()) == ["가나", "다라", "마바", "사아"]


def test_trdg_refuses_a_folder_where_few_names_hold_a_label(tmp_path: Path) -> None:
    crops(tmp_path, "a_1.png", "b_2.png", "photo.png", "photo (1).png", "photo-2.png")
    with pytest.raises(HangulOcrError, match="but only 2 of 5 images are called so"):
        list(import_samples("trdg", [tmp_path]))
