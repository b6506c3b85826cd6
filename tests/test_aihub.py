"""AI Hub 105 and 81: every trap of their files, in folders and in zips."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_sets import (
    BLUE,
    GREEN,
    NO_MARGIN,
    RED,
    YELLOW,
    folder_members,
    is_of_colour,
    jpeg,
    nfd,
    outdoor_json,
    photograph,
    reasons,
    size_of,
    taken,
    wild_entry,
    wild_image,
    wild_json,
    write,
    write_zip,
)

from hangul_ocr.data import annotations
from hangul_ocr.data.annotations import AnnotationTable, DamagedJson, load_json
from hangul_ocr.data.archives import scan
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples
from hangul_ocr.hangul import HangulOcrError

STEM = "간판_가로형간판_000000"


def outdoor(
    folder: Path, *boxes: tuple[object, object], stem: str = STEM, data: bytes | None = None, **size: int
) -> Path:
    write(folder / "labels" / "간판" / f"{stem}.json", outdoor_json(stem, boxes, **size))
    write(folder / "images" / "간판" / f"{stem}.jpg", data or photograph())
    return folder


# --- AI Hub 105 -----------------------------------------------------------------------------------------------------


def test_outdoor_boxes_become_crops_with_their_facts(tmp_path: Path) -> None:
    data = photograph(patches={(10, 20, 90, 40): RED, (200, 100, 60, 120): BLUE})
    boxes = [([10, 20, 90, 40], "예시"), ([200, 100, 60, 120], nfd("세로 글"))]
    samples, left_out = taken("aihub-outdoor", outdoor(tmp_path, *boxes, data=data))
    assert left_out == []
    first, second = samples[f"{STEM}#1"], samples[f"{STEM}#2"]
    assert (first.text, second.text) == ("예시", "세로 글")
    assert is_of_colour(first.image, RED)
    assert is_of_colour(second.image, BLUE)
    assert size_of(second.image) == (60, 120)
    assert {first.group, second.group} == {STEM}
    assert first.source == "aihub-outdoor"
    assert first.facts["class"] == "실외간판"
    assert first.facts["id"] == 1


def test_outdoor_zips_are_read_as_they_come(tmp_path: Path) -> None:
    folder = outdoor(tmp_path / "folder", ([10, 20, 90, 40], "예시"), ([50, 80, 90, 40], "둘"))
    expected, _ = taken("aihub-outdoor", folder)
    for images, labels in (("[원천]간판.zip", "[라벨]간판.zip"), ("TS1.zip", "TL1.zip")):
        zips = tmp_path / images[:3]
        write_zip(zips / images, folder_members(folder / "images"))
        write_zip(zips / labels, folder_members(folder / "labels"))
        samples, left_out = taken("aihub-outdoor", zips)
        assert left_out == []
        assert {k: (s.text, s.image) for k, s in samples.items()} == {k: (s.text, s.image) for k, s in expected.items()}
    samples, _ = taken("aihub-outdoor", zips / "TS1.zip", zips / "TL1.zip")
    assert samples.keys() == expected.keys()


def test_outdoor_is_paired_by_stem_and_never_by_position(tmp_path: Path) -> None:
    for number, colour in enumerate((RED, GREEN, BLUE)):
        data = photograph(patches={(10, 20, 90, 40): colour})
        outdoor(tmp_path, ([10, 20, 90, 40], f"글{number}"), stem=f"간판_{number}", data=data)
    (tmp_path / "images" / "간판" / "간판_0.jpg").unlink()
    (tmp_path / "labels" / "간판" / "간판_2.json").unlink()
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert list(samples) == ["간판_1#1"]
    assert is_of_colour(samples["간판_1#1"].image, GREEN)
    assert {(r.key.split("/")[-1], r.reason) for r in left_out} == {
        ("간판_0#1", "missing image"),
        ("간판_2.jpg", "image without label file"),
    }


def test_outdoor_names_in_nfd_and_suffixes_of_any_kind(tmp_path: Path) -> None:
    for number, suffix in enumerate(("jpg", "JPG", "JPEG", "jpeg")):
        stem = f"간판_{number}"
        write(tmp_path / "images" / f"{nfd(stem)}.{suffix}", photograph())
        write(tmp_path / "labels" / f"{stem}.json", outdoor_json(stem, [([1, 1, 50, 40], "예시")]))
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert (len(samples), left_out) == (4, [])


def test_every_variant_of_an_outdoor_box(tmp_path: Path) -> None:
    good = [[10, 20, 90, 40], [[10, 20], [100, 20], [100, 60], [10, 60]], "[10, 20, 90, 40]", [10.4, "20", 90, 40]]
    bad = [[None] * 4, None, [10, 20, 0, 40], [10, 20, -90, 40], [900, 20, 90, 40], [[None, None]] * 4, "?", []]
    boxes = [(box, "예시") for box in [*good, *bad, [-10, -10, 90, 40]]]
    samples, left_out = taken("aihub-outdoor", outdoor(tmp_path, *boxes))
    assert list(samples) == [f"{STEM}#{n}" for n in (1, 2, 3, 4, 13)]
    assert size_of(samples[f"{STEM}#13"].image) == (80, 30)
    assert reasons(left_out) == {"no box": 5, "box without size": 2, "box outside the image": 1}


def test_illegible_outdoor_text_is_counted(tmp_path: Path) -> None:
    texts = ["xxx", "XXX", "xx", "", None, "예시", "긴" * 100_000, "예\n시", {"a": 1}]
    samples, left_out = taken("aihub-outdoor", outdoor(tmp_path, *(([1, 1, 50, 40], text) for text in texts)))
    assert len(samples) == 1
    assert reasons(left_out) == {
        "placeholder label": 3,
        "empty label": 3,
        "label too long": 1,
        "control character in label": 1,
    }
    assert max(len(record.detail) for record in left_out) < 200


@pytest.mark.parametrize("change", ["dict", "none", "captured"])
def test_outdoor_metadata_in_every_form(tmp_path: Path, change: str) -> None:
    content = outdoor_json(STEM, [([10, 20, 90, 40], "예시")])
    if change == "dict":
        content["metadata"] = content["metadata"][0]
    elif change == "none":
        del content["metadata"], content["info"]
    else:
        content["images"][0]["date_captured"] = content["images"][0].pop("date_created")
    outdoor(tmp_path)
    write(tmp_path / "labels" / "간판" / f"{STEM}.json", content)
    samples, _ = taken("aihub-outdoor", tmp_path)
    assert samples[f"{STEM}#1"].facts.get("class") == (None if change == "none" else "실외간판")


def test_outdoor_ids_restart_in_each_file_and_may_repeat(tmp_path: Path) -> None:
    for stem in ("가_1", "가_2"):
        content = outdoor_json(stem, [([10, 20, 90, 40], "예시"), ([50, 60, 90, 40], "예시")])
        for entry in content["annotations"]:
            entry["id"] = 1
        write(tmp_path / f"{stem}.json", content)
        write(tmp_path / f"{stem}.jpg", photograph())
    assert list(taken("aihub-outdoor", tmp_path)[0]) == ["가_1#1", "가_1#2", "가_2#1", "가_2#2"]


def test_junk_among_outdoor_labels_is_named(tmp_path: Path) -> None:
    outdoor(tmp_path, ([10, 20, 90, 40], "예시"))
    write(tmp_path / "labels" / "새 폴더" / "메모.txt", b"?")
    write(tmp_path / "labels" / "새 폴더" / "Thumbs.db", b"?")
    write_zip(tmp_path / "labels" / "leftover.zip", folder_members(tmp_path / "labels" / "간판"))
    write(tmp_path / "labels" / "broken.json", b'{"annotations":[{"bbox"')
    write(tmp_path / "labels" / "list.json", b"[1, 2]")
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert len(samples) == 1
    assert reasons(left_out) == {"other file": 2, "duplicate label file": 1, "damaged label file": 2}


def test_outdoor_photographs_of_another_size_or_cut_short(tmp_path: Path) -> None:
    box = ([10, 20, 90, 40], "예시")
    outdoor(tmp_path, box, box, stem="가_1", width=800)
    outdoor(tmp_path, box, stem="가_2", data=photograph()[:-300])
    outdoor(tmp_path, box, stem="가_3", data=photograph(orientation=6))
    outdoor(tmp_path, box, stem="가_4", data=photograph(orientation=6), width=300, height=400)
    content = outdoor_json("가_5", [box])
    content["images"][0] |= {"width": None, "height": None}
    write(tmp_path / "labels" / "가_5.json", content)
    write(tmp_path / "images" / "가_5.jpg", photograph())
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert reasons(left_out) == {"size mismatch": 2, "unreadable image": 1}
    assert {key: size_of(sample.image) for key, sample in samples.items()} == {
        "가_3#1": (40, 90),  # Annotated on the stored pixels, so the box is turned with them.
        "가_4#1": (90, 40),
        "가_5#1": (90, 40),
    }


def test_outdoor_labels_in_cp949_and_in_several_encodings(tmp_path: Path) -> None:
    text = json.dumps(outdoor_json("가_1", [([10, 20, 90, 40], "예시")]), ensure_ascii=False)
    write(tmp_path / "가_1.json", text.encode("cp949"))
    mixed = json.dumps(
        outdoor_json("가_2", [([1, 2, 90, 40], "예시"), ([9, 9, 90, 40], "@")]), ensure_ascii=False
    ).encode()
    write(tmp_path / "가_2.json", b"\xef\xbb\xbf" + mixed.replace(b"@", "깨짐".encode("cp949")))
    for stem in ("가_1", "가_2"):
        write(tmp_path / f"{stem}.jpg", photograph())
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert [sample.text for sample in samples.values()] == ["예시", "예시"]
    assert reasons(left_out) == {"undecodable label": 1}


@pytest.mark.parametrize(
    ("source", "table", "labels", "images"),
    [
        ("aihub-wild", wild_json([wild_image(1, "0A1B.jpg")], [wild_entry(1, 1, "가", [1, 2, 90, 40])]),
         r"no \.json: name textinthewild_data_info\.json", r"no image: name its photographs \(book, Signboard"),
        ("aihub-fonts", {"images": [], "annotations": [{"id": "1", "image_id": "1", "text": "가"}]},
         r"no \.json: name its printed_, handwriting_", r"no image: name the folder or zips of its images"),
    ],
)  # fmt: skip
def test_half_of_a_set_with_one_large_label_file(tmp_path: Path, source: str, table: dict, labels: str, images: str):
    write(tmp_path / "labels" / "data_info.json", table)
    write(tmp_path / "images" / "0A1B.jpg", photograph())
    for half, missing in (("labels", images), ("images", labels)):
        with pytest.raises(HangulOcrError, match=missing):
            list(import_samples(source, [tmp_path / half]))


def test_an_outdoor_layout_that_is_none_says_what_was_found(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.png", b"")
    write(tmp_path / "a" / "y.png", b"")
    write(tmp_path / "cut.zip", b"PK\3\4")
    with pytest.raises(HangulOcrError, match=r"looked for AI Hub 105: a \.json and an image.*found 2 \.png, 1 damaged"):
        list(import_samples("aihub-outdoor", [tmp_path]))


def test_half_of_an_outdoor_set_says_which_half_is_missing(tmp_path: Path) -> None:
    outdoor(tmp_path, ([1, 2, 90, 40], "예시"))
    for half, missing in (("labels", r"no image: name their .*원천"), ("images", r"no label: name their .*라벨")):
        with pytest.raises(HangulOcrError, match=missing):
            list(import_samples("aihub-outdoor", [tmp_path / half]))


@pytest.mark.parametrize("files", [3, 201])  # 201 are more than any of AI Hub 81's parts has
@pytest.mark.parametrize("source", ["aihub-wild", "aihub-fonts"])
def test_an_outdoor_set_taken_for_a_part_of_the_other_is_named(tmp_path: Path, files: int, source: str) -> None:
    for number in range(files):
        outdoor(tmp_path, ([1, 2, 90, 40], "예시"), stem=f"{STEM}_{number}", data=b"x")
    with pytest.raises(HangulOcrError, match=r"images have a \.json each, of their own name: see aihub-outdoor"):
        list(import_samples(source, [tmp_path]))


@pytest.mark.parametrize(("boxes", "source"), [(True, "aihub-wild"), (False, "aihub-fonts")])
def test_a_part_of_another_set_taken_for_outdoor_is_named(tmp_path: Path, boxes: bool, source: str) -> None:
    entries = [wild_entry(n, n, "가", [10, 10, 90, 40]) for n in (1, 2)]
    for entry in [] if boxes else entries:
        del entry["bbox"]
    wild(tmp_path, [wild_image(1, "a.jpg"), wild_image(2, "b.jpg")], entries, {"a.jpg": photograph()})
    for path in (tmp_path, tmp_path / "textinthewild_data_info.json"):
        with pytest.raises(HangulOcrError, match=rf"textinthewild_data_info\.json is of many images: see {source}"):
            list(import_samples("aihub-outdoor", [path]))


def test_outdoor_labels_of_other_photographs_are_left_out_one_by_one(tmp_path: Path) -> None:
    outdoor(tmp_path, ([1, 2, 90, 40], "예시"))
    (tmp_path / "images" / "간판" / f"{STEM}.jpg").rename(tmp_path / "other.jpg")
    assert reasons(taken("aihub-outdoor", tmp_path)[1]) == {"missing image": 1, "image without label file": 1}


# --- AI Hub 81, Text in the wild ------------------------------------------------------------------------------------


def wild(folder: Path, images: list[dict], entries: list[dict], files: dict[str, bytes]) -> Path:
    write(folder / "textinthewild_data_info.json", wild_json(images, entries))
    for name, data in files.items():
        write(folder / name, data)
    return folder


def test_wild_words_become_crops(tmp_path: Path) -> None:
    entries = [
        wild_entry(7, 1, nfd("가나"), [100, 50, 220, 80]),
        wild_entry(8, 1, "가", [100, 50, 108, 80], "character"),
        wild_entry(9, 1, "나", [212, 50, 108, 80], "character"),
        wild_entry(10, 1, None, [5, 5, 20, 9], "ignored"),
    ]
    files = {"Signboard/0A1B.jpg": photograph(patches={(100, 50, 220, 80): RED})}
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "0A1B.jpg")], entries, files))
    (sample,) = samples.values()
    assert sample.key == f"{tmp_path.name}/Signboard/0A1B#00000007"
    assert (sample.text, sample.group) == ("가나", f"{tmp_path.name}/Signboard/0A1B")
    assert is_of_colour(sample.image, RED)
    assert size_of(sample.image) == (220, 80)
    assert sample.facts["type"] == "sign"
    assert reasons(left_out) == {"ignored": 1}


def test_a_photograph_of_another_type_is_not_taken(tmp_path: Path) -> None:
    entries = [wild_entry(7, 1, "가나", [100, 50, 220, 80])]
    files = {"Goods/0A1B.jpg": photograph(patches={(100, 50, 220, 80): RED})}
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "0A1B.jpg")], entries, files))
    assert samples == {}
    assert reasons(left_out)["missing image"] == 1


@pytest.mark.parametrize("linked", [True, False])
def test_tilted_wild_words_are_rebuilt_from_their_characters(tmp_path: Path, linked: bool) -> None:
    pixels = np.full((300, 400, 3), 128, np.uint8)
    places = [(60 + 50 * i, 60 + 30 * i, 60, 60) for i in range(4)]
    for x, y, w, h in places:
        pixels[y : y + h, x : x + w] = GREEN
    word = wild_entry(1, 1, "가나다라", [60, 60, 210, 150])
    characters = [wild_entry(2 + i, 1, "가나다라"[i], list(p), "character") for i, p in enumerate(places)]
    entries = [word, *characters] if linked else [*characters, word]
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": jpeg(pixels)}))
    assert left_out == []
    (sample,) = samples.values()
    width, height = size_of(sample.image)
    assert sample.facts["tilted"]
    assert width > 4 * height
    assert is_of_colour(sample.image, GREEN)


def test_characters_that_spell_another_word_leave_the_box_as_it_is(tmp_path: Path) -> None:
    entries = [
        wild_entry(1, 1, "가나", [60, 60, 210, 150]),
        wild_entry(2, 1, "가", [60, 60, 60, 60], "character"),
        wild_entry(3, 1, "다", [200, 150, 60, 60], "character"),
        wild_entry(4, 1, "라", [300, 250, 30, 30], "character"),
    ]
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()}))
    assert size_of(samples[f"{tmp_path.name}/a#00000001"].image) == (210 // 1, 150)
    assert reasons(left_out) == {"character of no word": 1}


def test_wild_files_and_entries_that_do_not_match(tmp_path: Path) -> None:
    box = [10, 10, 90, 40]
    images = [wild_image(1, "a.jpg"), wild_image(2, "gone.jpg"), wild_image(3, "bare.jpg"), wild_image(1, "again.jpg")]
    entries = [wild_entry(1, 1, "가", box), wild_entry(2, 2, "나", box), wild_entry(3, 99, "다", box)]
    files = {"a.jpg": photograph(), "bare.jpg": photograph(), "stray.jpg": photograph(), "notes.txt": b""}
    samples, left_out = taken("aihub-wild", wild(tmp_path, images, entries, files))
    assert len(samples) == 1
    assert reasons(left_out) == {
        "missing image": 1,
        "unknown image id": 1,
        "image without annotations": 1,
        "duplicate image id": 1,
        "image without entry": 2,
        "other file": 1,
    }


def test_a_wild_file_under_several_ids_is_one_photograph(tmp_path: Path) -> None:
    images = [wild_image(1, "a.jpg"), wild_image(2, "a.jpg")]
    entries = [
        wild_entry(1, 1, "가", [10, 10, 90, 40]),
        wild_entry(2, 2, "가", [10, 10, 90, 40]),
        wild_entry(3, 2, "나", [10, 90, 90, 40]),
    ]
    samples, left_out = taken("aihub-wild", wild(tmp_path, images, entries, {"a.jpg": photograph()}))
    assert [sample.text for sample in samples.values()] == ["가", "나"]
    assert len({sample.group for sample in samples.values()}) == 1
    assert reasons(left_out) == {"duplicate word": 1}


def test_wild_files_of_one_name_lie_in_the_folder_of_their_type(tmp_path: Path) -> None:
    images = [wild_image(1, "a.jpg", "book"), wild_image(2, "a.jpg", "product"), wild_image(3, "a.jpg", "traffic sign")]
    entries = [wild_entry(n, n, "가", [10, 10, 90, 40]) for n in (1, 2, 3)]
    folders = {"book": RED, "Goods": BLUE, "Traffic_Sign": YELLOW}
    files = {f"{name}/a.jpg": photograph(patches={(10, 10, 90, 40): colour}) for name, colour in folders.items()}
    samples, left_out = taken("aihub-wild", wild(tmp_path, images, entries, files))
    assert left_out == []
    for sample, (folder, colour) in zip(samples.values(), folders.items(), strict=True):
        assert f"/{folder}/a" in sample.group
        assert is_of_colour(sample.image, colour)


def test_wild_boxes_without_size_and_slips_of_the_keyboard(tmp_path: Path) -> None:
    entries = [
        wild_entry(1, 1, "가", [10, 10, -90, 40]),
        wild_entry(2, 1, "나", [10, 10, 90, 0]),
        wild_entry(3, 1, "국ㅇㄴ", [10, 10, 90, 40]),
        wild_entry(4, 1, "ㅋㅋ", [10, 60, 90, 40]),
        wild_entry(5, 1, "다", [10, 60, 90, 40], "sentence"),
    ]
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()}))
    assert [(s.text, s.facts.get("bare_jamo", False)) for s in samples.values()] == [("국ㅇㄴ", True), ("ㅋㅋ", False)]
    assert reasons(left_out) == {"box without size": 2, "unknown class": 1}


@pytest.mark.parametrize("on", ["image", "word", "attributes"])
@pytest.mark.parametrize("value", [True, "True", "true", False, "False", None])
def test_wild_rotation_flags_of_photographs_and_words(tmp_path: Path, on: str, value: object) -> None:
    image, entry = wild_image(1, "a.jpg"), wild_entry(1, 1, "가나", [100, 50, 80, 40])
    target = {"image": image, "word": entry, "attributes": entry["attributes"]}[on]
    target["usd"] = value
    data = photograph(patches={(100, 50, 40, 40): RED, (140, 50, 40, 40): BLUE})
    samples, _ = taken("aihub-wild", wild(tmp_path, [image], [entry], {"a.jpg": data}))
    (sample,) = samples.values()
    left = jpeg(_pixels(sample.image)[:, :40])
    is_set = str(value).lower() == "true"
    assert is_of_colour(left, BLUE if is_set else RED)
    assert sample.facts.get("rotation") == (["usd"] if is_set else None)


def test_wild_text_that_runs_up_is_turned_and_stacked_text_is_not(tmp_path: Path) -> None:
    entries = [
        wild_entry(1, 1, "가나", [10, 10, 40, 80], du="true"),
        wild_entry(2, 1, "가나", [60, 10, 40, 80], ud=True),
        wild_entry(3, 1, "가나", [110, 10, 80, 40], du=True),
    ]
    samples, _ = taken("aihub-wild", wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()}))
    assert [size_of(sample.image) for sample in samples.values()] == [(80, 40), (40, 80), (80, 40)]
    assert [sample.facts["rotation"] for sample in samples.values()] == [["du"], ["ud"], ["du"]]


@pytest.mark.parametrize("flag", [True, False])
def test_a_wild_word_whose_characters_run_left_is_turned_only_if_upside_down(tmp_path: Path, flag: bool) -> None:
    entries = [
        wild_entry(1, 1, "가나", [100, 50, 80, 40], usd=flag),
        wild_entry(2, 1, "가", [140, 50, 40, 40], "character"),
        wild_entry(3, 1, "나", [100, 50, 40, 40], "character"),
    ]
    data = photograph(patches={(100, 50, 40, 40): RED, (140, 50, 40, 40): BLUE})
    samples, left_out = taken("aihub-wild", wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": data}))
    assert reasons(left_out) == ({} if flag else {"runs right to left": 1})
    for sample in samples.values():
        assert is_of_colour(jpeg(_pixels(sample.image)[:, :40]), BLUE)
    assert len(samples) == flag


def _pixels(data: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_annotations_in_any_order_and_encoding_are_gathered_by_photograph(tmp_path: Path, encoding: str) -> None:
    images = [wild_image(n, f"{n}.jpg") for n in (1, 2)]
    entries = [wild_entry(n, 1 + n % 2, f"글{n}", [10, 10, 90, 40]) for n in range(6)]
    folder = wild(tmp_path, images, entries, {"1.jpg": photograph(), "2.jpg": photograph()})
    content = wild_json(images, entries)
    reordered = {"annotations": content["annotations"], "images": content["images"]}
    text = json.dumps(reordered, ensure_ascii=False)
    write(folder / "textinthewild_data_info.json", text.encode(encoding))
    samples, left_out = taken("aihub-wild", folder)
    assert [sample.text for sample in samples.values()] == ["글0", "글2", "글4", "글1", "글3", "글5"]
    assert left_out == []


def test_wild_in_zips(tmp_path: Path) -> None:
    folder = wild(
        tmp_path / "f", [wild_image(1, "가.jpg")], [wild_entry(1, 1, "글", [9, 9, 90, 40])], {"가.jpg": photograph()}
    )
    path = write_zip(tmp_path / "wild.zip", folder_members(folder))
    assert [sample.text for sample in taken("aihub-wild", path)[0].values()] == ["글"]


@pytest.mark.parametrize("before", [0, 65_400, 65_536, 200_000])
@pytest.mark.parametrize("number", ["9" * 4400, "-0." + "3" * 100_000, "9" * 401])
def test_an_endless_number_is_refused_and_what_came_before_kept(tmp_path: Path, before: int, number: str) -> None:
    entries = [wild_entry(n, 1, f"글{n}", [10, 10, 90, 40 + n], note="9" * 5000) for n in range(3)]
    entries[1] |= {"filling": " " * before, "id": 10**399}
    folder = wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()})
    file = folder / "textinthewild_data_info.json"
    file.write_bytes(file.read_bytes().replace(b'"id": "00000002"', b'"id": ' + number.encode()))
    samples, left_out = taken("aihub-wild", folder)
    assert [sample.text for sample in samples.values()] == ["글0", "글1"]
    assert [record.reason for record in left_out] == ["damaged JSON"]
    assert "2 annotations: a number of more than 400 characters" in left_out[0].detail


def test_one_bad_byte_costs_the_label_it_is_in(tmp_path: Path) -> None:
    entries = [wild_entry(n, 1, f"글{n}", [10, 10, 90, 40 + n]) for n in range(4)]
    folder = wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()})
    outdoor(tmp_path / "outdoor", *(([1 + n, 1, 50, 40], f"글{n}") for n in range(4)))
    files = {"aihub-wild": folder / "textinthewild_data_info.json"}
    files["aihub-outdoor"] = tmp_path / "outdoor" / "labels" / "간판" / f"{STEM}.json"
    for source, file in files.items():
        text = file.read_text(encoding="utf-8")
        for encoding in ("cp949", "utf-8"):
            file.write_bytes(
                text.encode(encoding).replace("글2".encode(encoding), "글".encode(encoding)[1:] + b"\xff2")
            )
            samples, left_out = taken(source, folder if source == "aihub-wild" else tmp_path / "outdoor")
            assert sorted(sample.text for sample in samples.values()) == ["글0", "글1", "글3"]
            assert reasons(left_out)["undecodable label"] == 1


def test_damaged_utf8_is_not_taken_for_cp949_though_it_could_be(tmp_path: Path) -> None:
    text = json.dumps({"annotations": [{"text": "각각"}, {"text": "미술"}, {"text": "#"}]}, ensure_ascii=False)
    data = text.encode().replace(b"#", "힣".encode("cp949"))
    assert "힣" in data.decode("cp949")
    (file,) = scan([write(tmp_path / "a.json", data)]).files
    for entries in (list(annotations.stream(file, "annotations")), load_json(data)["annotations"]):
        assert [entry["text"] for entry in entries] == ["각각", "미술", "\ufffdR"]


def test_a_wild_file_cut_short_keeps_what_came_before(tmp_path: Path) -> None:
    entries = [wild_entry(n, 1, f"글{n}", [10, 10, 90, 40 + n]) for n in range(5)]
    folder = wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()})
    file = folder / "textinthewild_data_info.json"
    content = file.read_bytes()
    file.write_bytes(content[: content.index("글3".encode())])
    samples, left_out = taken("aihub-wild", folder)
    assert len(samples) == 3
    assert reasons(left_out) == {"damaged JSON": 1}
    assert "after 1 images and 3 annotations" in left_out[0].detail


def test_large_files_in_cp949_are_streamed_too(tmp_path: Path) -> None:
    entries = [wild_entry(n, 1, f'한글 {n}\\ "[', [9, 9, 50, 40]) for n in range(3000)]
    text = json.dumps(wild_json([], entries), ensure_ascii=False)
    for encoding in ("cp949", "utf-8"):
        (file,) = scan([write(tmp_path / f"{encoding}.json", text.encode(encoding))]).files
        assert list(annotations.stream(file, "annotations")) == entries


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"annotations":[' + "[" * 200_000, "nested more than"),
        ('{"annotations":["' + "x" * 300_000, "one entry of more"),
    ],
)
def test_json_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch, content: str, reason: str) -> None:
    monkeypatch.setattr(annotations, "_LONGEST_RECORD", 1 << 17)
    (file,) = scan([write(tmp_path / "a.json", content)]).files
    with pytest.raises(DamagedJson, match=reason):
        list(annotations.stream(file, "annotations"))


def test_brackets_in_labels_are_no_nesting(tmp_path: Path) -> None:
    texts = ["[" * 500, '\\"[[' * 99, "\\" * 101, "{" * 70_000]
    (file,) = scan([write(tmp_path / "a.json", {"annotations": [{"text": text} for text in texts]})]).files
    assert [record["text"] for record in annotations.stream(file, "annotations")] == texts


@pytest.mark.parametrize("lacking", ["", "image_id"])
def test_memory_stays_bounded_whatever_the_size(tmp_path: Path, lacking: str) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.json"
        with path.open("w", encoding="utf-8") as stream:
            stream.write('{"images":[' + json.dumps(wild_image(1, "a.jpg")) + '],"annotations":[')
            for number in range(count):
                entry = wild_entry(number, number, "가나", [1, 2, 30, 40])
                entry.pop(lacking, None)
                stream.write(("," if number else "") + json.dumps(entry))
            stream.write("]}")
        tracemalloc.start()
        with AnnotationTable(scan([path]).files[0]) as table:
            assert sum(1 for _ in table.left_out()) >= count - 1
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(24_000) < 1.3 * peak(8_000)


def test_a_full_disk_for_temporary_files_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(annotations, "_SCHEMA", annotations._SCHEMA + "PRAGMA max_page_count = 8;")
    entries = [wild_entry(n, 1, "가" * 200, [9, 9, 50, 40]) for n in range(300)]
    folder = wild(tmp_path, [wild_image(1, "a.jpg")], entries, {"a.jpg": photograph()})
    with pytest.raises(HangulOcrError, match=r"a_info\.json: cannot be gathered on disk .*full.*make room"):
        list(import_samples("aihub-wild", [folder]))


def test_copies_and_namesakes_that_are_not_used_are_named(tmp_path: Path) -> None:
    outdoor(tmp_path, ([10, 20, 90, 40], "예시"))
    write(tmp_path / "labels" / "간판" / f"{STEM}.jpg", photograph(patches={(10, 20, 90, 40): RED}))
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert is_of_colour(samples[f"{STEM}#1"].image, RED)
    assert reasons(left_out) == {"image without label file": 1}


@pytest.mark.parametrize("kind", ["aihub-wild", "aihub-outdoor"])
def test_names_that_differ_in_capital_letters_only(tmp_path: Path, kind: str) -> None:
    box = [10, 10, 90, 40]
    for number, (stem, colour) in enumerate({"0A1B": RED, "0a1b": BLUE}.items()):
        write(tmp_path / f"{stem}.jpg", photograph(patches={(10, 10, 90, 40): colour}))
        if kind == "aihub-outdoor":
            write(tmp_path / f"{stem}.json", outdoor_json(stem, [(box, f"글{number}")]))
    if len(list(tmp_path.glob("*.jpg"))) < 2:
        pytest.skip("this disk does not tell capital letters apart")
    if kind == "aihub-wild":
        entries = [wild_entry(n, n, f"글{n}", box) for n in (0, 1)]
        wild(tmp_path, [wild_image(0, "0A1B.jpg"), wild_image(1, "0a1b.jpg")], entries, {})
    samples, left_out = taken(kind, tmp_path)
    assert left_out == []
    assert {s.text: is_of_colour(s.image, RED) for s in samples.values()} == {"글0": True, "글1": False}
    assert len({sample.group for sample in samples.values()}) == 2


def test_a_label_does_not_take_the_image_of_one_in_other_letters(tmp_path: Path) -> None:
    write(tmp_path / "A.json", outdoor_json("A", [([10, 10, 90, 40], "남")]))
    write(tmp_path / "a.json", outdoor_json("a", [([10, 10, 90, 40], "내")]))
    write(tmp_path / "a.jpg", photograph())
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert [sample.text for sample in samples.values()] == ["내"]
    assert [(record.key, record.reason) for record in left_out] == [("A#1", "missing image")]


def _two_folders(top: Path, *, second: bytes, boxes: int = 2) -> None:
    write(top / "x" / "1.json", outdoor_json("1", [([10, 20, 90, 40], "하나")]))
    write(top / "x" / "1.jpg", photograph(patches={(10, 20, 90, 40): RED}))
    write(top / "y" / "1.json", outdoor_json("1", [([10, 20 + 60 * n, 90, 40], f"둘{n}") for n in range(boxes)]))
    write(top / "y" / "1.jpg", second)


def test_outdoor_photographs_of_one_name_in_two_folders(tmp_path: Path) -> None:
    _two_folders(tmp_path, second=photograph(patches={(10, 20, 90, 40): BLUE}))
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert left_out == []
    other = f"{tmp_path.name}/y/1"
    assert {key: (s.text, s.group) for key, s in samples.items()} == {
        "1#1": ("하나", "1"),
        f"{other}#1": ("둘0", other),
        f"{other}#2": ("둘1", other),
    }
    assert is_of_colour(samples["1#1"].image, RED)
    assert is_of_colour(samples[f"{other}#1"].image, BLUE)


def test_each_box_of_a_second_label_file_for_one_photograph_is_counted(tmp_path: Path) -> None:
    _two_folders(tmp_path, second=photograph(patches={(10, 20, 90, 40): RED}))
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert [sample.text for sample in samples.values()] == ["하나"]
    assert reasons(left_out) == {"duplicate label file": 2}
    # Fetched twice, once more packed: the labels are the same, and nothing has to be read to know.
    write(tmp_path / "y" / "1.json", (tmp_path / "x" / "1.json").read_bytes())
    assert reasons(taken("aihub-outdoor", tmp_path)[1]) == {"duplicate label file": 1}


def test_a_label_without_image_does_not_take_one_of_another_folder(tmp_path: Path) -> None:
    _two_folders(tmp_path, second=photograph(patches={(10, 20, 90, 40): BLUE}))
    (tmp_path / "x" / "1.jpg").unlink()
    samples, left_out = taken("aihub-outdoor", tmp_path)
    assert sorted(sample.text for sample in samples.values()) == ["둘0", "둘1"]
    assert reasons(left_out) == {"missing image": 1}


def test_records_that_are_none(tmp_path: Path) -> None:
    folder = wild(tmp_path, [wild_image(1, "a.jpg")], [wild_entry(1, 1, "가", [9, 9, 50, 40])], {"a.jpg": photograph()})
    content = wild_json(
        [wild_image(1, "a.jpg"), {"id": None}, 7], [None, {"text": "x"}, wild_entry(1, 1, "가", [9, 9, 50, 40])]
    )
    content["annotations"][2]["id"] = 10**30
    write(folder / "textinthewild_data_info.json", content)
    samples, left_out = taken("aihub-wild", folder)
    assert len(samples) == 1
    assert reasons(left_out) == {"damaged entry": 4}


def test_small_json_in_every_state() -> None:
    assert load_json('{"가": 1}'.encode("cp949")) == {"가": 1}
    for data in (b"", b"{", b"[" * 200_000, b"\xff\xfe", b"1" * 10_000):
        with pytest.raises(DamagedJson):
            load_json(data)


# --- AI Hub 81, printed, handwritten, augmented ---------------------------------------------------------------------


def fonts_json(names: list[str], texts: list[object], kind: str = "글자(음절)") -> dict:
    info = {"name": "Text in the wild Dataset", "date_created": "2019-10-14 04:31:48"}
    images, entries = [], []
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        identity = f"{number:08d}"
        captured = {"date_captured": "2019-10-03 18:18:14"}
        images.append({"id": identity, "width": 98, "height": 124, "file_name": name, **captured})
        attributes = {"type": kind, "font": "예시체", "is_aug": False}
        entries.append({"id": identity, "image_id": identity, "text": text, "attributes": attributes})
    return {"info": info, "images": images, "annotations": entries, "licenses": []}


def test_fonts_are_whole_images_found_by_name_in_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "printed_data_info.json", fonts_json(["0.png", "1.png", "2.png"], ["가", nfd("나무"), "다 라"]))
    data = {n: photograph(60, 40, {(0, 0, 60, 40): c}) for n, c in enumerate((RED, GREEN, BLUE))}
    write(tmp_path / "01_printed_syllable_images" / "train" / "0.png", data[0])
    write(tmp_path / "02_printed_word_images" / "1.png", data[1])
    write(tmp_path / "2.png", data[2])
    write(tmp_path / "no_entry.png", data[2])
    samples, left_out = taken("aihub-fonts", tmp_path)
    assert [(s.text, s.image) for s in samples.values()] == [("가", data[0]), ("나무", data[1]), ("다 라", data[2])]
    first = samples[f"{tmp_path.name}/01_printed_syllable_images/train/0.png"]
    assert first.facts == {"type": "글자(음절)", "font": "예시체", "is_aug": False}
    assert reasons(left_out) == {"image without entry": 1}


def test_parts_of_the_set_that_use_the_same_names(tmp_path: Path) -> None:
    for part, colour in (("printed", RED), ("handwriting", BLUE)):
        write(tmp_path / part / f"{part}_data_info1.json", fonts_json(["0.png"], [part]))
        write(tmp_path / part / "images" / "0.png", photograph(60, 40, {(0, 0, 60, 40): colour}))
    samples, left_out = taken("aihub-fonts", tmp_path)
    assert left_out == []
    assert {s.text: is_of_colour(s.image, RED) for s in samples.values()} == {"printed": True, "handwriting": False}


def test_a_part_without_images_takes_none_of_another(tmp_path: Path) -> None:
    printed, handwriting = (
        fonts_json(["0.png", "1.png"], ["가", "같은"]),
        fonts_json(["0.png", "1.png"], ["각", "같은"]),
    )
    printed["images"][0] |= {"width": 60, "height": 40}
    handwriting["images"][0] |= {"width": 61, "height": 40}
    write(tmp_path / "labels" / "printed_data_info.json", printed)
    write(tmp_path / "labels" / "handwriting_data_info1.json", handwriting)
    write(tmp_path / "images" / "0.png", photograph(60, 40))
    write(tmp_path / "images" / "1.png", photograph(50, 40))
    items = list(import_samples("aihub-fonts", [tmp_path]))
    assert sorted(item.text for item in items if isinstance(item, Sample)) == ["가", "같은", "같은"]
    (lost,) = (item for item in items if isinstance(item, LeftOut))
    assert (lost.reason, lost.detail) == ("image of another label", "각")


@pytest.mark.parametrize("size", [{"width": 60, "height": 40}, {"width": None, "height": None}])
def test_two_parts_that_fit_one_image_both_lose_it(tmp_path: Path, size: dict[str, int | None]) -> None:
    for part in ("printed", "handwriting"):
        content = fonts_json(["0.png"], [part])
        content["images"][0] |= size
        write(tmp_path / f"{part}_data_info.json", content)
    write(tmp_path / "0.png", photograph(60, 40))
    samples, left_out = taken("aihub-fonts", tmp_path)
    assert (samples, reasons(left_out)) == ({}, {"ambiguous image": 2})


def test_parts_are_told_apart_by_their_boxes_not_their_name(tmp_path: Path) -> None:
    write(tmp_path / "printed_data_info.json", fonts_json(["0.png"], ["가"]))
    write(
        tmp_path / "textinthewild_data_info.json",
        wild_json([wild_image(1, "a.jpg")], [wild_entry(1, 1, "나", [9, 9, 50, 40])]),
    )
    write(tmp_path / "empty.json", {"images": [], "annotations": []})
    write(tmp_path / "0.png", photograph(60, 40))
    write(tmp_path / "a.jpg", photograph())
    samples, left_out = taken("aihub-fonts", tmp_path)
    assert [sample.text for sample in samples.values()] == ["가"]
    assert reasons(left_out) == {"other part": 2, "image without entry": 1}
    samples, left_out = taken("aihub-wild", tmp_path)
    assert [sample.text for sample in samples.values()] == ["나"]
    assert reasons(left_out) == {"other part": 2, "image without entry": 1}


def test_fonts_that_cannot_be_used(tmp_path: Path) -> None:
    content = fonts_json(["0.png", "1.png", "2.png", "3.png", "../../x.png"], ["가", None, "나", "xxx", "다"])
    content["annotations"].append({**content["annotations"][0], "text": "또"})
    write(tmp_path / "augmentation_data_info.json", content)
    for name in ("0.png", "1.png", "3.png"):
        write(tmp_path / name, photograph(60, 40))
    write(tmp_path / "2.png", photograph(60, 40)[:200])
    samples, left_out = taken("aihub-fonts", tmp_path)
    assert [sample.text for sample in samples.values()] == ["가"]
    assert reasons(left_out) == {
        "duplicate entry": 1,
        "empty label": 1,
        "unreadable image": 1,
        "placeholder label": 1,
        "missing image": 1,
    }


def test_the_wrong_one_of_the_two_names_the_right_one(tmp_path: Path) -> None:
    write(tmp_path / "f" / "a.json", fonts_json(["0.png"], ["가"]))
    write(tmp_path / "f" / "0.png", photograph(60, 40))
    wild(tmp_path / "w", [wild_image(1, "a.jpg")], [wild_entry(1, 1, "나", [9, 9, 50, 40])], {"a.jpg": photograph()})
    with pytest.raises(HangulOcrError, match=r"see aihub-fonts.*found 1 \.json, 1 \.png"):
        list(import_samples("aihub-wild", [tmp_path / "f"]))
    with pytest.raises(HangulOcrError, match="see aihub-wild"):
        list(import_samples("aihub-fonts", [tmp_path / "w"]))
    write(tmp_path / "b" / "broken.json", b'{"images":[{"id"')
    write(tmp_path / "b" / "0.png", photograph(60, 40))
    with pytest.raises(HangulOcrError, match="1 damaged JSON"):
        list(import_samples("aihub-wild", [tmp_path / "b"], NO_MARGIN))
