"""KAIST Scene Text Database: text from characters, swapped sizes, and files that do not parse."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_sets import (
    BLUE,
    RED,
    folder_members,
    is_of_colour,
    kaist_xml,
    nfd,
    photograph,
    reasons,
    size_of,
    taken,
    write,
    write_zip,
)

from hangul_ocr.data.sources import import_samples
from hangul_ocr.hangul import HangulOcrError

PLACE = "Korean/Digital_Camera"
WORD = ((10, 20, 90, 40), "가나")


def kaist(folder: Path, name: str = "EX01", xml: str | bytes | None = None, data: bytes | None = None) -> Path:
    content = kaist_xml(f"{name}.JPG", [WORD]) if xml is None else xml
    write(folder / PLACE / f"{name}.xml", content)
    write(folder / PLACE / f"{name}.JPG", data or photograph(640, 480, {(10, 20, 90, 40): RED}))
    return folder


def test_a_word_is_its_characters_in_order(tmp_path: Path) -> None:
    samples, left_out = taken("kaist", kaist(tmp_path / "KAIST"))
    assert left_out == []
    sample = samples[f"KAIST/{PLACE}/EX01#1"]
    assert (sample.text, sample.group, sample.source) == ("가나", f"KAIST/{PLACE}/EX01", "kaist")
    assert is_of_colour(sample.image, RED)
    assert size_of(sample.image) == (90, 40)
    facts = {"language": "Korean", "camera": "Digital_Camera", "illumination": "no", "difficulty": "2"}
    assert {name: sample.facts[name] for name in facts} == facts
    assert "tag" not in sample.facts


def test_the_same_in_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "KAIST.zip", folder_members(kaist(tmp_path / "KAIST")))
    assert list(taken("kaist", path)[0]) == [f"KAIST/{PLACE}/EX01#1"]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<images><image>", "damaged XML"),
        ("", "damaged XML"),
        (b"\xff\xff\xff", "damaged XML"),
        ("<images></images>", "XML without images"),
        ("<words></words>", "XML without images"),
        (kaist_xml("EX01.JPG", []), "image without words"),
        (kaist_xml("EX01.JPG", [((1, 2, 30, 40), "")]), "word without characters"),
        (kaist_xml("EX01.JPG", [WORD]).replace('char="나"', 'char=""'), "character without text"),
        (kaist_xml("EX01.JPG", [WORD]).replace('char="나"', ""), "character without text"),
        (kaist_xml("EX01.JPG", [WORD]).replace('width="90"', 'width="-90"'), "box without size"),
        (kaist_xml("EX01.JPG", [WORD]).replace('width="90"', 'width=""'), "no box"),
        (kaist_xml("EX01.JPG", [WORD]).replace('width="90"', 'width="nan"'), "no box"),
        (kaist_xml("EX01.JPG", [((700, 20, 90, 40), "가")]), "box outside the image"),
        (kaist_xml("EX01.JPG", [WORD], (800, 600)), "size mismatch"),
    ],
)
def test_what_cannot_be_used_is_counted_and_nothing_else_is_said(tmp_path: Path, xml: str | bytes, reason: str) -> None:
    kaist(kaist(tmp_path), "EX02", xml)
    samples, left_out = taken("kaist", tmp_path)
    assert len(samples) == 1
    assert reasons(left_out) == {reason: 1}
    assert "EX02" in left_out[0].key


def test_a_file_without_images_around_its_image(tmp_path: Path) -> None:
    xml = kaist_xml("EX01.JPG", [WORD]).removeprefix("<images>").removesuffix("</images>")
    assert len(taken("kaist", kaist(tmp_path, xml=xml))[0]) == 1


def test_entities_are_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><images>&e9;</images>'
    outside = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><images>&e;</images>'
    kaist(tmp_path)
    for number, xml in enumerate((bomb, outside)):
        kaist(tmp_path, f"B{number}", xml)
    assert reasons(taken("kaist", tmp_path)[1]) == {"damaged XML": 2}


def test_negative_places_are_clamped(tmp_path: Path) -> None:
    xml = kaist_xml("EX01.JPG", [((-10, -5, 90, 40), "가나")])
    (sample,) = taken("kaist", kaist(tmp_path, xml=xml))[0].values()
    assert size_of(sample.image) == (80, 35)


def test_a_swapped_resolution_turns_the_photograph_clockwise(tmp_path: Path) -> None:
    data = photograph(640, 480, {(0, 400, 60, 80): BLUE})
    xml = kaist_xml("EX01.JPG", [((0, 0, 80, 60), "가나")], (480, 640))
    (sample,) = taken("kaist", kaist(tmp_path, xml=xml, data=data))[0].values()
    assert is_of_colour(sample.image, BLUE)
    assert size_of(sample.image) == (80, 60)


def test_names_in_one_case_or_another_and_masks_beside_the_photographs(tmp_path: Path) -> None:
    folder = tmp_path / PLACE
    write(folder / "ex01.xml", kaist_xml("Ex01.jpg", [WORD]))
    write(folder / "EX01.JPG", photograph(640, 480, {(10, 20, 90, 40): RED}))
    write(folder / "EX01.bmp", photograph(640, 480))
    write(folder / "EX02.xml", kaist_xml("other_name.JPG", [WORD]))
    write(folder / "EX02.JPG", photograph(640, 480))
    write(folder / "EX03.xml", kaist_xml("EX03.JPG", [WORD]))
    write(folder / "EX04.JPG", photograph(640, 480))
    samples, left_out = taken("kaist", tmp_path)
    assert len(samples) == 2
    assert any(is_of_colour(sample.image, RED) for sample in samples.values())
    assert reasons(left_out) == {"missing image": 1, "image without XML": 2}
    assert any(record.key.endswith("EX01.bmp") for record in left_out)


def test_photographs_of_one_name_in_different_folders(tmp_path: Path) -> None:
    for language, colour in (("Korean", RED), ("Mixed", BLUE)):
        write(tmp_path / language / "Mobile_Phone" / "1.xml", kaist_xml("1.jpg", [WORD]))
        write(tmp_path / language / "Mobile_Phone" / "1.jpg", photograph(640, 480, {(10, 20, 90, 40): colour}))
    samples, left_out = taken("kaist", tmp_path)
    assert left_out == []
    assert {s.facts["language"]: is_of_colour(s.image, RED) for s in samples.values()} == {
        "Korean": True,
        "Mixed": False,
    }


def test_a_photograph_with_an_xml_file_of_its_own_is_no_other_ones(tmp_path: Path) -> None:
    for language in ("Korean", "Mixed"):
        write(tmp_path / language / "1.xml", kaist_xml("1.jpg", [WORD]))
    write(tmp_path / "Mixed" / "1.jpg", photograph(640, 480))
    write(tmp_path / "Mixed" / "2.xml", kaist_xml("1.jpg", [WORD]))
    write(tmp_path / "Mixed" / "3.xml", kaist_xml("named_inside.jpg", [WORD]))
    write(tmp_path / "Mixed" / "named_inside.jpg", photograph(640, 480))
    samples, left_out = taken("kaist", tmp_path)
    assert sorted(key.partition("/")[2] for key in samples) == ["Mixed/1#1", "Mixed/3#1"]
    assert reasons(left_out) == {"missing image": 2}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949"])
def test_xml_in_any_encoding_and_nfd(tmp_path: Path, encoding: str) -> None:
    text = kaist_xml("EX01.JPG", [WORD])
    text = f'<?xml version="1.0" encoding="euc-kr"?>{text}' if encoding == "cp949" else text
    (sample,) = taken("kaist", kaist(tmp_path, xml=text.encode(encoding)))[0].values()
    assert sample.text == "가나"
    split = kaist_xml("EX01.JPG", [WORD]).replace('char="가"', f'char="{nfd("가")}"')
    (sample,) = taken("kaist", kaist(tmp_path / "nfd", xml=split))[0].values()
    assert sample.text == "가나"


def test_one_bad_byte_costs_the_word_it_is_in(tmp_path: Path) -> None:
    text = kaist_xml("EX01.JPG", [WORD, ((10, 80, 90, 40), "#다")])
    data = text.encode("cp949").replace(b"#", b"\xff")
    samples, left_out = taken("kaist", kaist(tmp_path, xml=data))
    assert [sample.text for sample in samples.values()] == ["가나"]
    assert reasons(left_out) == {"undecodable label": 1}


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_every_image(tmp_path: Path) -> None:
    text = kaist_xml("EX01.JPG", [WORD] * 3).replace(
        'word x="10" y="20" width="90"', 'word x="1e308" y="20" width="1e308"', 1
    )
    text = text.replace('word x="10" y="20" width="90"', f'word x="10" y="20" width="{"9" * 5000}"', 1)
    data = photograph(640, 480, orientation=6)
    samples, left_out = taken("kaist", kaist(tmp_path, xml=text, data=data))
    assert len(samples) == 1
    assert reasons(left_out) == {"box outside the image": 1, "no box": 1}


def test_another_layout_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", b"{}")
    with pytest.raises(HangulOcrError, match=r"looked for KAIST: a \.xml.*found 1 \.json"):
        list(import_samples("kaist", [tmp_path]))


def test_half_of_the_set_says_which_half_is_missing(tmp_path: Path) -> None:
    folder = kaist(tmp_path / "KAIST")
    for half in (".xml", ".JPG"):
        for file in sorted(folder.rglob(f"*{half}")):
            write(tmp_path / half[1:] / file.name, file.read_bytes())
    for name, missing in (("xml", r"found 1 \.xml .*no image: name the phot"), ("JPG", r"no \.xml: name the \.xml")):
        with pytest.raises(HangulOcrError, match=missing):
            list(import_samples("kaist", [tmp_path / name]))
