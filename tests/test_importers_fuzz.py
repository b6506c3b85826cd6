"""Importers under damaged input: every record is a sample or is named, and nothing but a one-line error comes out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from data_sets import (
    NO_MARGIN,
    folder_members,
    kaist_xml,
    outdoor_json,
    photograph,
    wild_entry,
    wild_image,
    wild_json,
    write,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangul_ocr.data.archives import scan
from hangul_ocr.data.cropping import BadBox, parse_box
from hangul_ocr.data.sample import LeftOut, Sample, clean_label, label_fault
from hangul_ocr.data.sources import SOURCES, import_samples
from hangul_ocr.hangul import HangulOcrError, normalise

PHOTO = photograph(200, 150)
quickly = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from(["", "5", "x", [], {}, "9" * 5000, 10**4200, -1e308]),
)
points = st.lists(numbers, min_size=2, max_size=2)
boxes = st.one_of(
    numbers,
    st.lists(numbers, max_size=9),
    st.lists(st.integers(-50, 250), min_size=4, max_size=4),
    st.lists(points, min_size=3, max_size=5),
    st.lists(st.lists(st.integers(-50, 250), min_size=2, max_size=2), min_size=4, max_size=4),
)
boxes = boxes | boxes.map(lambda box: json.dumps(box, default=str))
labels = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=8),
    st.sampled_from(["예시", "xxx", "긴" * 100_000, "\ud83d", "가\n나", "\0", "\ufeff가"]),
)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own for each example: hypothesis runs many in one test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "set"


def run(source: str, *paths: Path) -> list[Sample | LeftOut]:
    """Import; an error that names the trouble is as good as a count, anything else fails the test."""
    message, items = "one line", []
    try:
        items = list(import_samples(source, paths, NO_MARGIN))
    except HangulOcrError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    for item in items:
        assert item.key
        if isinstance(item, LeftOut):
            assert item.reason
            assert len(item.detail) < 400
        else:
            assert item.text == normalise(item.text)
            assert not label_fault(item.text)
    return items


@quickly
@given(st.lists(st.tuples(boxes, labels), max_size=6))
def test_any_box_and_label_of_an_outdoor_photograph(entries: list[tuple[object, object]]) -> None:
    with folder() as place:
        content = outdoor_json("a", entries, width=200, height=150)
        write(place / "a.json", json.dumps(content).encode("utf-8", "surrogatepass"))
        write(place / "a.jpg", PHOTO)
        assert len(run("aihub-outdoor", place)) == max(1, len(entries))


@quickly
@given(st.lists(st.tuples(boxes, labels, st.sampled_from(["word", "character", "ignored", "", None, 3])), max_size=6))
def test_any_entry_of_a_wild_file(entries: list[tuple[object, object, object]]) -> None:
    with folder() as place:
        listed = [wild_entry(n, 1, text, box, kind) for n, (box, text, kind) in enumerate(entries)]
        images = [wild_image(1, "a.jpg", width=200, height=150)]
        write(place / "a.json", json.dumps(wild_json(images, listed)).encode("utf-8", "surrogatepass"))
        write(place / "a.jpg", PHOTO)
        items = run("aihub-wild", place)
        # A character in a word's box is part of it; every other entry comes out.
        words = sum(kind != "character" for _, _, kind in entries)
        assert not items or len(items) >= words


@quickly
@given(boxes)
def test_a_box_is_four_finite_corners_or_a_reason(value: object) -> None:
    try:
        quad = parse_box(value)
    except BadBox:
        return
    assert quad.shape == (4, 2)
    assert abs(quad).max() < float("inf")


def _sets(place: Path) -> dict[str, tuple[str, Path]]:
    """Write one small set of each kind and return source and the file to damage, by name."""
    word = [10, 20, 60, 40]
    write(place / "outdoor" / "a.json", outdoor_json("a", [(word, "예시")] * 3, width=200, height=150))
    entries = [wild_entry(n, 1, f"글{n}", [n, 20, 60, 40]) for n in range(3)]
    write(place / "wild" / "a.json", wild_json([wild_image(1, "a.jpg", width=200, height=150)], entries))
    plain = [{key: value for key, value in entry.items() if key != "bbox"} for entry in entries]
    write(place / "fonts" / "a.json", wild_json([wild_image(1, "a.jpg")], plain[:1]))
    write(place / "kaist" / "a.xml", kaist_xml("a.jpg", [((10, 20, 60, 40), "가나")], (200, 150)))
    write(place / "list" / "gt.txt", "a.jpg\t예시\n./a.jpg\t둘\n")
    write(place / "mlt" / "gt.txt", "a.jpg,Korean,예시\n")
    write(place / "trdg" / "labels.txt", "a.jpg 예시\n")
    for name in ("outdoor", "wild", "fonts", "kaist", "list", "mlt", "trdg"):
        write(place / name / "a.jpg", PHOTO)
    write(place / "kstrbench" / "text_images" / "a.jpg", PHOTO)
    write(place / "kstrbench" / "text.v1.csv", "text_id,scene_id,label\na,s,예시\n")
    damaged = {"outdoor": "a.json", "wild": "a.json", "fonts": "a.json", "kaist": "a.xml", "list": "gt.txt"}
    damaged |= {"mlt": "gt.txt", "trdg": "labels.txt", "kstrbench": "text.v1.csv"}
    prefix = {"outdoor": "aihub-outdoor", "wild": "aihub-wild", "fonts": "aihub-fonts"}
    return {name: (prefix.get(name, name), place / name / file) for name, file in damaged.items()}


KINDS = ("outdoor", "wild", "fonts", "kaist", "list", "mlt", "trdg", "kstrbench")


@pytest.mark.parametrize("kind", KINDS)
@settings(quickly, max_examples=12)
@given(data=st.data())
def test_labels_cut_short_or_with_other_bytes_inside(kind: str, data: st.DataObject) -> None:
    with folder() as place:
        source, file = _sets(place)[kind]
        content = file.read_bytes()
        at = data.draw(st.integers(0, len(content)))
        known = st.sampled_from(["깨진".encode("cp949"), b'"[{<![CDATA[', b"9" * 5000, b'"":' + b"9" * 70_000])
        inside = data.draw(st.one_of(st.binary(max_size=6), known))
        whole = data.draw(st.booleans())
        file.write_bytes(content[:at] + inside + (content[at + 1 :] if whole else b""))
        run(source, file.parent)


@settings(quickly, max_examples=15)
@given(st.sampled_from(KINDS), st.data())
def test_photographs_cut_short_or_with_other_bytes_inside(kind: str, data: st.DataObject) -> None:
    with folder() as place:
        source, file = _sets(place)[kind]
        image = next(file.parent.rglob("a.jpg"))
        at = data.draw(st.integers(0, len(PHOTO)))
        inside = data.draw(st.binary(max_size=8))
        image.write_bytes(PHOTO[:at] + inside + (PHOTO[at + len(inside) :] if data.draw(st.booleans()) else b""))
        expected = len(run(source, file.parent))
        image.write_bytes(PHOTO)
        assert expected == len(run(source, file.parent))


@settings(quickly, max_examples=20)
@given(st.data())
def test_zips_cut_short_or_damaged(data: st.DataObject) -> None:
    with folder() as place:
        kind = data.draw(st.sampled_from(("outdoor", "wild", "fonts", "kaist", "trdg", "kstrbench")))
        source, file = _sets(place)[kind]
        path = write_zip(place / "zips" / "a.zip", folder_members(file.parent))
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content)))
        inside = data.draw(st.binary(min_size=1, max_size=4))
        path.write_bytes(content[:at] + (inside + content[at + len(inside) :] if data.draw(st.booleans()) else b""))
        run(source, path)


@quickly
@given(st.lists(st.text(st.characters(codec="cp949"), min_size=1, max_size=12), min_size=1, max_size=5, unique=True))
def test_any_member_name_is_read_or_refused(names: list[str]) -> None:
    with folder() as place:
        found = scan([write_zip(place / "a.zip", {name: b"x" for name in names})])
        folders = sum(normalise(name).replace("\\", "/").endswith("/") for name in names)
        assert len(found.files) + len(found.left_out) == len(names) - folders
        assert all(".." not in file.name.split("/") for file in found.files)


@quickly
@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), min_size=1, max_size=8))
def test_any_bytes_of_a_list(lines: list[bytes]) -> None:
    with folder() as place:
        write(place / "a.png", PHOTO)
        write(place / "gt.txt", b"a.png\tfirst\n" + b"\n".join(lines) + b"\n")
        for source in ("list", "paddleocr"):
            items = run(source, place)
            assert 1 <= len(items) <= 1 + len(lines)


@quickly
@given(labels)
def test_a_label_is_clean_or_has_a_fault(value: object) -> None:
    text = clean_label(value)
    assert text == text.strip()
    assert isinstance(label_fault(text), str)


def test_no_source_follows_a_mistaken_path(tmp_path: Path) -> None:
    """Every set, read as every other kind, is a one-line error or counts; nothing else."""
    sets = _sets(tmp_path)
    for _, file in sets.values():
        for source in SOURCES:
            run(source, file.parent)
            run(source, file)
    shutil.rmtree(tmp_path / "wild")
