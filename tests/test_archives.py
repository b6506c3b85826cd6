"""Files of data sets in folders and zips: their names, pairs, and what is refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
from data_sets import nfd, reasons, write, write_zip

from hangul_ocr.data.archives import FileIndex, UnreadableFile, decode_loose, decoded_lines, names_of, scan
from hangul_ocr.hangul import HangulOcrError


def names(*paths: Path) -> list[str]:
    return [file.name for file in scan(paths).files]


def test_names_in_zips_are_read_in_cp949_and_in_unmarked_utf8(tmp_path: Path) -> None:
    write_zip(tmp_path / "[원천]간판.zip", {"간판/가로형_1.jpg": b"a", "카.jpg": b"b"})
    write_zip(tmp_path / "mac.zip", {nfd("한글.jpg"): b"c"}, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "marked.zip", "w") as archive:
        archive.writestr("표지.jpg", b"d")
    assert names(tmp_path) == [
        f"{tmp_path.name}/{name}"
        for name in ("[원천]간판/간판/가로형_1.jpg", "[원천]간판/카.jpg", "mac/한글.jpg", "marked/표지.jpg")
    ]
    assert [file.read() for file in scan([tmp_path]).files] == [b"a", b"b", b"c", b"d"]


def test_a_name_in_cp949_that_looks_like_latin_letters() -> None:
    assert "카".encode("cp949").decode("utf-8") == "ī"
    assert decode_loose("카".encode("cp949")) == "카"
    assert decode_loose("한글 café".encode()) == "한글 café"
    assert decode_loose(b"plain.jpg") == "plain.jpg"
    with pytest.raises(UnicodeDecodeError):
        decode_loose(b"\xff\xff")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lines_of_a_file_that_begins_with_the_mark_of_utf16(tmp_path: Path, encoding: str) -> None:
    text = f"\ufeffa\t한글\r\n\n{'긴' * 30}\nc\t끝\u0a0d\u000a".encode(encoding)
    (file,) = scan([write(tmp_path / "gt.txt", text)]).files
    assert list(decoded_lines(file, longest=20)) == [(1, "a\t한글"), (3, None), (4, "c\t끝\u0a0d")]
    (cut,) = scan([write(tmp_path / "cut.txt", "\ufeffa\t한글".encode(encoding)[:-1])]).files
    assert list(decoded_lines(cut)) == [(1, "a\t한\ufffd")]
    (zipped,) = scan([write_zip(tmp_path / "a.zip", {"gt.txt": text})]).files
    assert list(decoded_lines(zipped, longest=20)) == list(decoded_lines(file, longest=20))


def test_a_zip_given_itself_and_names_that_differ_in_unicode_form(tmp_path: Path) -> None:
    write(tmp_path / "a" / nfd("한글.jpg"), b"x")
    assert names(tmp_path / "a") == ["a/한글.jpg"]
    assert names(write_zip(tmp_path / "b.zip", {"x/y.jpg": b""})) == ["b/x/y.jpg"]


def test_paths_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "train", tmp_path / "two" / "train"]
    for path in paths:
        path.mkdir(parents=True)
    assert names_of(paths) == ["one/train", "two/train"]
    with pytest.raises(HangulOcrError, match="given twice"):
        names_of([paths[0], paths[0] / ".." / "train"])
    with pytest.raises(HangulOcrError, match="not there"):
        names_of([tmp_path / "three"])


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:/x.jpg", "..\\x.jpg"])
def test_members_that_would_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    found = scan([write_zip(tmp_path / "a.zip", {name: b"x", "good.jpg": b"y"})])
    assert [file.name for file in found.files] == ["a/good.jpg"]
    assert reasons(found.left_out) == {"unsafe name": 1}


def test_a_zip_cut_short_is_reported(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", {f"{n}.jpg": os.urandom(500) for n in range(9)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:-60])
    write(tmp_path / "b.zip", b"no zip at all")
    found = scan([tmp_path])
    assert found.files == []
    assert [record.reason for record in found.left_out] == ["damaged archive"] * 2
    assert "cut short" in found.left_out[0].detail


def test_members_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.jpg": os.urandom(500)})
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableFile):
        scan([path]).files[0].read()


def test_encrypted_and_repeated_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.jpg", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.jpg", b"2")
        archive.writestr("secret.jpg", b"3")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"secret.jpg") - 46  # The entry of the directory at the end.
    data[place + 8] |= 1
    path.write_bytes(data)
    found = scan([path])
    assert reasons(found.left_out) == {"encrypted file": 1, "duplicate member": 1}
    assert [file.name for file in found.files] == ["a/x.jpg"]


def test_a_file_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {"x.jpg": b"\0" * 3_000_000})
    assert path.stat().st_size < 20_000
    with pytest.raises(UnreadableFile, match="more than 1,000,000 bytes"):
        scan([path]).files[0].read(1_000_000)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_out_of_the_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path / "out" / "x.jpg", b"x")
    write(tmp_path / "in" / "y.jpg", b"y")
    os.symlink(tmp_path / "out" / "x.jpg", tmp_path / "in" / "x.jpg")
    os.symlink(tmp_path / "out", tmp_path / "in" / "folder")
    os.symlink(tmp_path / "in" / "y.jpg", tmp_path / "in" / "z.jpg")
    found = scan([tmp_path / "in"])
    assert [file.name for file in found.files] == ["in/y.jpg", "in/z.jpg"]
    assert reasons(found.left_out) == {"link": 2}


def test_a_stored_file_is_read_in_another_process(tmp_path: Path) -> None:
    file = scan([write_zip(tmp_path / "a.zip", {"x.jpg": b"abc"})]).files[0]
    assert pickle.loads(pickle.dumps(file)).read() == b"abc"


def test_files_are_found_by_stem_in_the_nearest_folder(tmp_path: Path) -> None:
    for name in ("one/A.JPG", "two/A.jpg", "two/b.jpeg", "c.jpg", "c.png"):
        write(tmp_path / name, name.encode())
    index = FileIndex(scan([tmp_path]).files)
    top = tmp_path.name
    assert index.find("b").name == f"{top}/two/b.jpeg"
    assert index.find("a", near=f"{top}/one/labels.json").name == f"{top}/one/A.JPG"
    assert index.find("A.jpg", folders=["TWO"]).name == f"{top}/two/A.jpg"
    assert index.find("c.png").name == f"{top}/c.png"
    assert index.find("a") == "ambiguous image"
    assert index.find("d") == "missing image"
    write(tmp_path / "one/A.JPG", b"same")
    write(tmp_path / "two/A.jpg", b"same")
    assert index.find("a").name == f"{top}/one/A.JPG"
    assert [file.name for file in index.unused()] == [f"{top}/c.jpg"]


def test_capital_letters_count_between_files_that_are_equally_near(tmp_path: Path) -> None:
    for name in ("one/A.jpg", "one/a.jpg", "two/a.JPG"):
        write(tmp_path / name, name.encode())
    found = scan([tmp_path]).files
    if len(found) < 3:
        pytest.skip("this disk does not tell capital letters apart")
    index, top = FileIndex(found), tmp_path.name
    assert index.find("A.jpg").name == f"{top}/one/A.jpg"
    assert index.find("A").name == f"{top}/one/A.jpg"
    assert index.find("a", near=f"{top}/one/x").name == f"{top}/one/a.jpg"
    assert index.find("A.JPG", near=f"{top}/two/x").name == f"{top}/two/a.JPG"
    assert index.find("a") == "ambiguous image"


def test_a_file_is_found_from_another_folder_once_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set" / "x.jpg", b"abc")
    write_zip(tmp_path / "set" / "b.zip", {"y.jpg": b"def"})
    monkeypatch.chdir(tmp_path)
    found = scan([Path("set"), Path("set") / "b.zip"]).files
    assert [file.name for file in found] == ["b/y.jpg", "set/b/y.jpg", "set/x.jpg"]
    sent = pickle.dumps(found)
    monkeypatch.chdir("/")
    received = pickle.loads(sent)
    assert [file.read() for file in received] == [b"def", b"def", b"abc"]
    assert [file.name for file in received] == [file.name for file in found]


@pytest.mark.parametrize("first", ["가나", "가"])
def test_a_list_cut_off_within_a_syllable_does_not_end_in_another(tmp_path: Path, first: str) -> None:
    (file,) = scan([write(tmp_path / "gt.txt", f"a.jpg\t{first}\nb.jpg\t각".encode()[:-1])]).files
    assert list(decoded_lines(file)) == [(1, f"a.jpg\t{first}"), (2, None)]
    (file,) = scan([write(tmp_path / "gt.txt", "a.jpg\t글\nb.jpg\t媛".encode("cp949"))]).files
    assert list(decoded_lines(file)) == [(1, "a.jpg\t글"), (2, "b.jpg\t媛")]


def test_lines_of_several_encodings(tmp_path: Path) -> None:
    lines = ["\ufeffa\t한글".encode(), "b\t카".encode("cp949"), b"", b"c\t\xff\xff", "d\t끝".encode() + b"\r"]
    (file,) = scan([write(tmp_path / "gt.txt", b"\n".join(lines) + b"\n" + b"x" * 3_000_000)]).files
    assert list(decoded_lines(file)) == [(1, "a\t한글"), (2, "b\t카"), (4, None), (5, "d\t끝"), (6, None)]
